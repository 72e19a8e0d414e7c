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
    objective.name = "recovery_likelihood"  # one of ebm_jax.methods.METHODS; as above
    objective.num_pairs = 6  # pairs of noise levels, "T"
    objective.noise_levels = ()  # sbar_t of the pairs, growing; (): the paper's num_pairs
    objective.num_steps = 30  # Langevin steps per level, "K"; 0: one normal draw (T1k)
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

    config.ensemble = ensemble = ml_collections.ConfigDict()
    ensemble.checkpoints = ()  # steps whose networks sample and are judged together; (): the newest
    ensemble.combine = "mean"  # of their energies: mean, sum or mixture (of energies in nats alone)
    ensemble.temperature = 1.0  # by which the combined energy is divided

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.num_samples = 10_000  # of --mode=evaluate

    # The modes that judge a trained model; none of it matters to a training. "0" leaves the choice.
    config.interpolate = interpolate = ml_collections.ConfigDict()
    interpolate.num_pairs = 8  # pairs of samples, the same as --mode=sample makes
    interpolate.num_points = 9  # images from one to the other, both included

    config.inpaint = inpaint = ml_collections.ConfigDict()
    inpaint.mask = "lower_half"  # hidden: lower_half, centre, or a .png or .npy, not zero = hidden
    inpaint.num_images = 8  # held-out images, the first so many
    inpaint.num_draws = 4  # of each image
    inpaint.num_rounds = 5  # down and up again at each noise level; 1 goes down alone
    inpaint.num_steps = 0  # of the chain on a single energy (igebm); 0: as when sampling

    config.restore = restore = ml_collections.ConfigDict()
    restore.corruptions = ("salt_and_pepper", "noise", "blur")  # any of these
    restore.num_images = 100  # held-out images, the first so many
    restore.salt_fraction = 0.1  # of the pixels, half to black and half to white
    restore.noise_std = 0.2  # of normal noise, in units of the grey values' range
    restore.blur_std = 0.8  # pixels, of the Gaussian that the image is convolved with
    restore.level = 1  # recovery likelihood: noise level that the image is brought to first
    restore.num_steps = 0  # igebm: of the chain; 0: as when sampling
    restore.temperature = 1.0  # mdsm: the hottest step of the chain

    config.ood = ood = ml_collections.ConfigDict()
    ood.num_images = 500  # of each set, the first so many
    ood.sets = (  # of ebm_jax.evaluation.ood.NAMES
        "uniform_noise", "constants", "interpolations", "salt_and_pepper", "flipped", "shuffled"
    )  # fmt: skip
    ood.others = ()  # data sets by name, resized to the model's images
    ood.max_levels = 6  # noise levels whose energies are taken, at equal distances
    ood.num_bootstrap = 1_000  # resamples behind the intervals

    config.neighbours = neighbours = ml_collections.ConfigDict()
    neighbours.num_images = 1_000  # training and held-out images each, the first so many
    neighbours.num_samples = 100  # of --mode=sample, each beside its nearest training images
    neighbours.num_neighbours = 4  # of each sample in the picture
    neighbours.max_levels = 6  # as in ood

    config.fid = fid = ml_collections.ConfigDict()  # of --mode=fid and --mode=fid_stats
    fid.weights = ""  # file of the FID Inception-v3; "": our classifier, for small images alone
    fid.stats = ""  # .npz of reference statistics; "": computed from the split
    fid.split = "train"  # that samples are compared with
    fid.num_samples = 50_000  # what is called FID50k has so many
    fid.batch_size = 64  # images that features are taken of at once
    fid.num_splits = 10  # of the samples, for the Inception score
    fid.kid_subsets = 100  # whose mean is the kernel distance
    fid.kid_subset_size = 1_000  # images

    config.likelihood = likelihood = ml_collections.ConfigDict()
    likelihood.num_temperatures = (100, 300, 1_000)  # of annealing; a bracket for each
    likelihood.num_chains = 64  # in each direction
    likelihood.num_leapfrog_steps = 3  # of HMC, which moves once at each temperature
    likelihood.target_acceptance = 0.8  # that its steps are tuned to
    likelihood.tuning_steps = 30  # of HMC at each temperature of the ladder that is tuned
    likelihood.max_levels = 6  # noise levels passed, at equal ratios of their noise
    likelihood.num_images = 500  # of each split, drawn by sampling.seed
    likelihood.reverse_steps = 300  # of HMC from training images, before reverse annealing; or 0

    config.long_run = long_run = ml_collections.ConfigDict()
    long_run.num_steps = 10_000  # of each chain; the papers go to 100,000
    long_run.num_chains = 100
    long_run.start = "data"  # with the level's noise; or noise, what sampling starts from
    long_run.sampler = "langevin"  # the method's own; or mala, hmc with tuned steps
    long_run.level = 0  # noise level whose energy is run on; -1: from the highest down through all
    long_run.step_size = 0.0  # of the sampler; 0: the method's own, or tuned
    long_run.num_leapfrog_steps = 2  # of hmc

    return config
