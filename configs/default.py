"""Every field of a recovery-likelihood run, with its unit and the paper's symbol.

Not run itself: other configs import `get_config` and override. In quotes after a field: the symbol
in Gao et al. 2020. The values are those of the paper's CIFAR-10 run where it has one.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The base that every other config starts from."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of everything: initialisation, order of the data, every draw

    config.distributed = False  # several processes: a TPU pod, or a cluster; see the README
    config.cpu_devices = 1  # devices to split the CPU into; of no effect on accelerators

    config.data = data = ml_collections.ConfigDict()
    data.name = "cifar10"  # one of ebm_jax.data.dataset_names()
    data.split = "train"  # trained on
    data.held_out_split = "test"  # for --mode=evaluate
    data.data_dir = ""  # where data sets are; "" is $TFDS_DATA_DIR, else ~/tensorflow_datasets
    data.pad_to = 0  # pixels, height and width to pad images to with black; 0 leaves them
    data.image_size = 0  # pixels, for sets that are resized (celeba, lsun); 0: the set's own size
    data.label = ""  # the factor that is the label (dsprites); "": the set's own label
    data.low = -1.0  # model value of grey value 0
    data.high = 1.0  # model value of grey value 255
    data.random_flip = True  # mirror left to right with probability 1/2
    data.dequantise = False  # add uniform noise of one grey value

    config.model = model = ml_collections.ConfigDict()
    model.name = "recovery_resnet"  # one of ebm_jax.methods.NETWORKS; the rest are its fields
    model.width = 128  # channels of the first resolution, "ch"
    model.multipliers = (1, 2, 2, 2)  # of the width, per resolution
    model.num_blocks = 8  # residual blocks per resolution, "N"
    model.formulation = "auto"  # of the convolutions: auto, native, flipped or dense
    model.dtype = "float32"  # of activations and kernels inside the network, or "bfloat16"

    config.objective = objective = ml_collections.ConfigDict()
    objective.name = "recovery_likelihood"  # one of ebm_jax.methods.OBJECTIVES; as above
    objective.num_pairs = 6  # pairs of noise levels, "T"
    objective.num_steps = 30  # Langevin steps per level, "K"
    objective.step_scale = 2e-4  # "b^2": s_t^2 = b^2 c_t^2 sigma_{t+1}^2
    objective.step_growth = 1.0  # g in c_t^2 = (sbar_t / sbar_0)^g; the paper's is 1
    objective.energy_in_nats = False  # whether the network gives the energy without its 1 / s_t^2
    objective.noise_scale = 1.0  # "nu" of the chains in training
    objective.sampling_noise_scale = 0.99  # "nu" of the chains when sampling

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adam"  # one of ebm_jax.training.optimizers.OPTIMIZERS; as above
    optimizer.learning_rate = 1e-4  # the highest
    optimizer.schedule = "constant"  # after the warm-up: constant, or cosine to final_learning_rate
    optimizer.final_learning_rate = 0.0  # at the last step of a cosine schedule
    optimizer.warmup_steps = 1_000  # steps of linear increase from 0
    optimizer.b1 = 0.9  # "beta_1"
    optimizer.b2 = 0.999  # "beta_2"
    optimizer.max_grad_norm = 0.0  # clip gradients to this global L2 norm; 0 does not clip

    config.training = training = ml_collections.ConfigDict()
    training.batch_size = 256  # images per step over all devices
    training.num_steps = 240_000  # updates
    training.ema_decay = 0.999  # of the averaged parameters, which sampling uses
    training.log_every = 100  # steps between two lines of metrics
    training.sample_every = 10_000  # steps between two grids of samples; 0: at the end only
    training.checkpoint_every = 5_000  # steps
    training.keep_checkpoints = 3  # the newest so many
    training.pin_every = 0  # steps; checkpoints at its multiples are kept for good; 0: none
    training.max_abs_energy = 1e8  # a larger mean energy counts as divergence
    training.max_retries = 0  # times to go back to the last checkpoint, with other draws, and go on

    config.sampling = sampling = ml_collections.ConfigDict()
    sampling.num_samples = 100  # of grids and of --mode=sample
    sampling.batch_size = 100  # samples made at once; the samples do not depend on it
    sampling.seed = 0  # of the samples alone

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.num_samples = 10_000  # of --mode=evaluate

    return config
