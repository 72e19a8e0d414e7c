"""The table of effects: every field of every section, another value, and what it must do.

A test says with `@shows(...)` which rows it is the proof of; `test_effects_table.py` fails for a
field without a row, and for a row without a test.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

RECOVERY, CD = "method:recovery_likelihood", "method:contrastive_divergence"
DSM, ED = "method:denoising_score_matching", "method:energy_discrepancy"
DUAL = "method:dual_score_matching"

TABLE: dict[str, tuple[Any, str]] = {
    # Outside of every section
    "seed": (5, "parameters are of its key, batches in its order"),
    "held_out_split": ("validation", "the split that `held_out` loads"),
    "data_dir": ("elsewhere", "where data sets are looked for"),
    "distributed": (True, "main.py joins the processes, and not without it"),
    "cpu_devices": (3, "as many devices"),
    # Data
    "data.name": ("rings", "the data set"),
    "data.path": ("mine", "reaches the images of one's own"),
    "data.split": ("test", "the digits' 896 others are trained on"),
    "data.pad_to": (16, "16 x 16 pixels, black outside the digit"),
    "data.image_size": (24, "reaches the set that is resized"),
    "data.label": ("scale", "reaches the set with factors"),
    "data.values": ((0.0, 1.0), "reaches the array of floating-point images"),
    "data.context": (4, "reaches the trajectories"),
    "data.low": (-3.0, "the model value of intensity 0"),
    "data.high": (5.0, "the model value of intensity 255"),
    "data.random_flip": (False, "no image is mirrored; with True half of those in training are"),
    "data.dequantize": (True, "training values are uniform on the cell of their intensity"),
    # Training
    "training.batch_size": (24, "examples of each batch"),
    "training.num_steps": (5, "updates"),
    "training.ema_decay": (0.7, "ema = d ema + (1 - d) params, exactly"),
    "training.init_from": ("<another run>", "parameters and EMA of that run, and no more"),
    "train.log_every": (2, "steps between lines"),
    "train.sample_every": (2, "steps between grids"),
    "train.checkpoint_every": (2, "steps between checkpoints"),
    "train.keep_checkpoints": (1, "checkpoints that are left"),
    "train.pin_every": (2, "its multiples are left as well"),
    "train.max_abs_energy": (4.5, "a mean energy of 5 ends the run, one of 4 does not"),
    "train.max_retries": (2, "so often it goes back, with other random numbers"),
    "train.writers": (("wandb",), "the numbers of every line go to that service too"),
    "sampling.num_samples": (24, "samples of a grid and of --mode=sample"),
    "sampling.batch_size": (8, "at once; the samples stay"),
    "sampling.seed": (3, "other samples, those of its key"),
    "ensemble.checkpoints": ((1, 2), "the energies of both together"),
    "ensemble.combine": ("sum", "their sum, twice their mean"),
    "ensemble.temperature": (4.0, "a quarter of the energy"),
    "compute.dtype": ("bfloat16", "kernels and activations of 8 bits of mantissa"),
    "compute.microbatch": (1, "parts of one example on each device; the same updates"),
    "compute.remat": (True, "activations computed again; the same gradients"),
    "compute.formulation": ("dense", "no convolution is left, and the energies stay"),
    # Optimizers
    **{
        f"optimizer:{name}.{field}": row
        for name in ("adam", "igebm_adam")
        for field, row in {
            "learning_rate": (0.5, "updates in its proportion"),
            "schedule": ("cosine", "updates fall as half a cosine"),
            "final_learning_rate": (0.02, "the last update's share of the first"),
            "warmup_steps": (3, "updates n / 3 of the highest"),
            "b1": (0.5, "the mean of gradients, in closed form"),
            "b2": (0.5, "the mean of squares, in closed form"),
        }.items()
    },
    "optimizer:adam.max_grad_norm": (2.0, "updates are those of gradients of this norm"),
    # Networks
    "network:recovery_resnet.width": (6, "channels"),
    "network:recovery_resnet.multipliers": ((1, 3), "resolutions and their channels"),
    "network:recovery_resnet.num_blocks": (2, "blocks per resolution"),
    "network:recovery_resnet.patch_size": (2, "four times the channels of an input"),
    "network:igebm_resnet.width": (6, "channels"),
    "network:igebm_resnet.first_width": (6, "channels of the first convolution"),
    "network:igebm_resnet.patch_size": (2, "four times the channels of an input"),
    "network:igebm_resnet.multipliers": ((3,), "channels of the stage"),
    "network:igebm_resnet.num_blocks": ((2,), "blocks of the stage"),
    "network:igebm_resnet.num_classes": (10, "parameters for each class"),
    "network:igebm_resnet.label_size": (2, "parameters for each value of a label"),
    "network:igebm_resnet.activation": ("swish", "after the first convolution and in blocks"),
    "network:igebm_resnet.first_block_activation": ("swish", "in that block alone"),
    "network:igebm_resnet.final_activation": ("swish", "once"),
    "network:igebm_conv.width": (6, "channels of the strided convolutions"),
    "network:igebm_conv.first_width": (6, "channels of the first convolution"),
    "network:igebm_conv.multipliers": ((2, 3), "strided convolutions and their channels"),
    "network:igebm_conv.num_classes": (10, "parameters for each class"),
    "network:igebm_conv.label_size": (2, "parameters for each value of a label"),
    "network:igebm_conv.gain_layer": (1, "the convolution with a gain for each class"),
    "network:igebm_conv.activation": ("swish", "after every layer but the head"),
    "network:mdsm_resnet.width": (6, "channels"),
    "network:mdsm_resnet.multipliers": ((3,), "channels of the stage"),
    "network:mdsm_resnet.num_blocks": (2, "blocks of the stage"),
    "network:mdsm_resnet.patch_size": (2, "four times the channels of an input"),
    "network:mlp.width": (6, "of the hidden layers"),
    "network:mlp.depth": (2, "hidden layers"),
    "network:mlp.num_frequencies": (5, "the first layer sees 2 + 2 x 5 values"),
    "network:mlp.frequency": (7.0, "standard deviation of the frequencies"),
    "network:conditional_mlp.label_size": (6, "rows of the context's matrix"),
    "network:conditional_mlp.width": (6, "of the hidden layers"),
    "network:conditional_mlp.depth": (2, "hidden layers"),
    "network:conditional_mlp.activation": ("swish", "after every layer but the head"),
    # Recovery likelihood
    f"{RECOVERY}.num_pairs": (3, "levels 0, 250 and 500 of the fine ones, and metrics of three"),
    f"{RECOVERY}.noise_levels": ((0.2, 0.6), "sbar_t"),
    f"{RECOVERY}.transition": ("gaussian", "one step with the pair's noise; densities of x_{t+1}"),
    f"{RECOVERY}.num_steps": (3, "steps of the chain, in closed form"),
    f"{RECOVERY}.step_scale": (0.01, "the chain and its energy scale, in closed form"),
    f"{RECOVERY}.step_growth": (0.5, "the same, level by level"),
    f"{RECOVERY}.energy_in_nats": (True, "the chain on the output itself, in closed form"),
    f"{RECOVERY}.noise_scale": (0.0, "the chain in closed form, without any noise"),
    f"{RECOVERY}.transition_variance": ("posterior", "the variance of the negatives"),
    f"{RECOVERY}.level_classifier": (2.0, "twice the two terms, of energies with constants"),
    "sampler:recovery_likelihood.num_steps": (3, "steps at each level, in closed form"),
    "sampler:recovery_likelihood.noise_scale": (0.0, "samples in closed form of their starts"),
    "sampler:recovery_likelihood.inpaint_rounds": (2, "rounds at each level"),
    "sampler:recovery_likelihood.restore_level": (2, "noised to level 2, and down in closed form"),
    # Contrastive divergence
    f"{CD}.num_steps": (3, "steps of the chain, in closed form"),
    f"{CD}.step_size": (0.4, "the same"),
    f"{CD}.noise_std": (0.05, "displacement of a chain without gradient, in the data's range"),
    f"{CD}.max_grad": (0.05, "the chain moves by so much of its step at most"),
    f"{CD}.max_total_grad_norm": (0.3, "the batch's gradient is brought to this norm"),
    f"{CD}.init_noise": ("normal", "starts of a sample's chains"),
    f"{CD}.chain_init": ("noise", "chains start from noise, and metrics are named so"),
    f"{CD}.context_noise": (0.7, "starts of chains about the last frame"),
    f"{CD}.buffer_size": (64, "entries"),
    f"{CD}.buffer_shards": (2, "rings"),
    f"{CD}.buffer_storage": ("float", "float32 entries"),
    f"{CD}.replay_probability": (0.0, "no chain starts from the buffer; with 1 all do"),
    f"{CD}.form": ("softplus", "the likelihood term, in closed form"),
    f"{CD}.likelihood_weight": (3.0, "three times the likelihood term"),
    f"{CD}.energy_l2": (0.25, "a quarter of the penalty"),
    f"{CD}.temperature": (0.5, "the chain and the likelihood term, not the penalty"),
    f"{CD}.dropout": (True, "half of the energy is masked"),
    "sampler:contrastive_divergence.num_steps": (4, "steps of sampling, in closed form"),
    "sampler:contrastive_divergence.inpaint_num_steps": (5, "steps of inpainting"),
    "sampler:contrastive_divergence.restore_num_steps": (6, "steps of restoring"),
    # Denoising score matching
    f"{DSM}.num_levels": (8, "levels in turn, and the loss in closed form"),
    f"{DSM}.min_noise": (0.2, "the lowest level, and the loss in closed form"),
    f"{DSM}.max_noise": (2.0, "the highest level, and the loss in closed form"),
    f"{DSM}.spacing": ("log", "geometric levels, and the loss in closed form"),
    f"{DSM}.target_sigma": (0.5, "the loss, the last jump and the density's noise"),
    "sampler:denoising_score_matching.step_size": (0.1, "steps of the chain"),
    "sampler:denoising_score_matching.start_temperature": (9.0, "the first temperatures"),
    "sampler:denoising_score_matching.num_hot": (3, "steps at the highest temperature"),
    "sampler:denoising_score_matching.num_cooling": (5, "steps of cooling"),
    "sampler:denoising_score_matching.num_final": (3, "last steps"),
    "sampler:denoising_score_matching.cooling": ("linear", "equal steps of temperature"),
    "sampler:denoising_score_matching.restore_temperature": (0.6, "hotter steps are left out"),
    # Energy discrepancy
    f"{ED}.noise_std": (0.3, "the loss in closed form"),
    f"{ED}.num_points": (3, "the loss in closed form"),
    f"{ED}.stabilization": (0.0, "the loss in closed form"),
    f"{ED}.base_std": (2.0, "the loss in closed form, and where annealing starts"),
    "sampler:energy_discrepancy.num_steps": (6, "steps, half of them annealed"),
    "sampler:energy_discrepancy.step_size": (0.2, "steps of the chain"),
    "sampler:energy_discrepancy.kernel": ("mala", "steps of MALA"),
    # Dual score matching
    f"{DUAL}.min_noise": (0.2, "the loss in closed form, and the lowest level"),
    f"{DUAL}.max_noise": (40.0, "the loss in closed form, and the highest level"),
    f"{DUAL}.num_levels": (5, "levels at equal ratios"),
    "sampler:dual_score_matching.kind": ("langevin", "chains, by hand"),
    "sampler:dual_score_matching.num_steps": (3, "steps between levels, or at each, by hand"),
    "sampler:dual_score_matching.step_scale": (0.1, "steps of the chains, by hand"),
    # Modes
    "evaluate.num_samples": (40, "samples behind the distance"),
    "fid.weights": ("weights.npz", "the file that Inception is made of"),
    "fid.stats": ("stats.npz", "their distance, and no kernel distance"),
    "fid.split": ("test", "the distance to that split"),
    "fid.num_samples": (40, "samples behind the distances"),
    "fid.batch_size": (16, "images at once"),
    "fid.num_splits": (4, "the score of the logits over four splits"),
    "fid.kid_subsets": (3, "subsets behind the kernel distance"),
    "fid.kid_subset_size": (10, "their size"),
    "inpaint.mask": ("centre", "a quarter of the pixels is hidden"),
    "inpaint.num_images": (3, "rows"),
    "inpaint.num_draws": (2, "samples of each"),
    "compose.workdirs": (("other",), "the energy of another model is added"),
    "compose.logic": ("or", "-log sum exp(-s E) / s in place of the sum"),
    "compose.order": ("turns", "a step of each model, one after the other"),
    "compose.labels": ("0.5; -0.25", "of every sample"),
    "compose.num_images": (12, "held-out labels, and samples"),
    "compose.num_steps": (7, "of the chains"),
    "compose.sharpness": (3.0, "s in closed form"),
    "compose.negation": (0.125, "the weight that is taken away, in closed form"),
    "interpolate.num_pairs": (2, "paths"),
    "interpolate.num_points": (5, "images of each"),
    "likelihood.num_temperatures": ((20, 40), "a bracket for each"),
    "likelihood.num_chains": (16, "log weights in each direction"),
    "likelihood.num_leapfrog_steps": (2, "of tuning, settling and annealing"),
    "likelihood.target_acceptance": (0.7, "what tuning aims at"),
    "likelihood.tuning_steps": (20, "at each temperature"),
    "likelihood.max_levels": (1, "levels passed"),
    "likelihood.num_images": (24, "images of each split"),
    "likelihood.reverse_steps": (0, "reverse annealing starts at the noised images"),
    "likelihood.num_components": ((1, 3), "what the mixture is chosen from"),
    "likelihood.num_fitted": (60, "images behind the Gaussians"),
    "likelihood.num_conditional_images": (8, "images behind the bound"),
    "likelihood.num_conditional_temperatures": (3, "of each conditional"),
    "long_run.num_steps": (20, "the last record's step"),
    "long_run.num_chains": (16, "chains"),
    "long_run.start": ("noise", "from the base distribution and not the data"),
    "long_run.sampler": ("hmc", "accepts less than always, with a tuned step"),
    "long_run.level": (2, "the energy of that level, to its noised data"),
    "long_run.step_size": (1e-4, "the first displacement, in closed form"),
    "long_run.num_leapfrog_steps": (3, "of each HMC step"),
    "neighbours.num_images": (16, "energies of each split"),
    "neighbours.num_samples": (8, "samples compared"),
    "neighbours.num_neighbours": (2, "columns of the figure"),
    "neighbours.max_levels": (2, "levels 0 and 5"),
    "ood.num_images": (40, "images of each set"),
    "ood.sets": (("uniform_noise",), "rows of the table"),
    "ood.others": (("digits",), "a row, resized to the model's images"),
    "ood.max_levels": (3, "levels 0, 2 and 5"),
    "ood.of_classes": ("minimum", "the areas of the lowest class's energy"),
    "ood.num_bootstrap": (20, "resamples behind the interval"),
    "classify.num_images": (20, "images behind the accuracy"),
    "classify.num_bins": (4, "bins of confidence"),
    "classify.baseline": ("plain", "parameters of a norm that is left alone; none: no row"),
    "classify.baseline_steps": (7, "updates"),
    "robustness.num_images": (10, "images behind each accuracy"),
    "robustness.linf_radii": ((0.2,), "rows, beside that of clean images"),
    "robustness.l2_radii": ((), "not attacked"),
    "robustness.published_steps": (3, "steps of that attack"),
    "robustness.strict_steps": ((4, 6), "strict attacks of so many steps"),
    "robustness.num_restarts": (2, "starts of each"),
    "robustness.num_random": (9, "points of the random search"),
    "robustness.refine_steps": (3, "steps of the chains"),
    "robustness.refine_step_size": (0.02, "steps of the chains"),
    "robustness.refine_noise": (0.01, "noise of the chains"),
    "robustness.refine_radius": (0.05, "how far the chains go"),
    "robustness.refine_max_grad": (0.5, "what clips the gradient of the chains"),
    "robustness.num_draws": (3, "draws of noise behind an accuracy"),
    "robustness.adaptive_images": (4, "images attacked through the chains"),
    "robustness.adaptive_steps": (5, "steps of that attack"),
    "robustness.adaptive_draws": (2, "draws of noise that it climbs"),
    "robustness.baseline": ("none", "no curve of a softmax network"),
    "robustness.baseline_steps": (3, "updates"),
    "crossclass.num_images": (30, "images"),
    "crossclass.target": (1, "class of all ends"),
    "crossclass.num_rounds": (3, "states, in closed form"),
    "crossclass.steps_per_round": (5, "steps between them, in closed form"),
    "crossclass.clip_gradient": (True, "steps as long as the bound, in closed form"),
    "rollout.num_trajectories": (40, "trajectories behind the distances"),
    "rollout.num_draws": (2, "rollouts of the energies, others each"),
    "rollout.horizons": ((2, 4), "times of the squared errors, in closed form"),
    "rollout.feed_forward": (False, "no curve of that network"),
    "rollout.feed_forward_steps": (3, "its updates"),
    "rollout.film_frames": (2, "frames of the film"),
    "sample.png_files": (True, "each image is a file too, of the pixels in the archive"),
    "card.title": ("Mine", "the heading"),
    "card.about": ("Of squares", "the first paragraph"),
    "card.license": ("MIT", "in the front matter and the table"),
    "card.limits": ("None known", "the last section"),
    "export.platforms": (("cuda", "tpu"), "what the functions are lowered for"),
    "report.workdirs": (("other",), "curves of that run too, on another page"),
    "report.max_sample_mb": (0.01, "fewer grids of samples, evenly chosen"),
    "restore.corruptions": (("blur",), "corruptions"),
    "restore.num_images": (16, "images"),
    "restore.salt_fraction": (0.5, "error of the corrupted images, in closed form"),
    "restore.salt_levels": ((0.1, 0.9), "error of the corrupted images, in closed form"),
    "restore.noise_std": (0.05, "error of the corrupted images, in closed form"),
    "restore.blur_std": (0.0, "no error of the corrupted images"),
}  # fmt: skip

SHOWN: dict[str, str] = {}  # test by field


def shows(*fields: str) -> Callable[[Callable], Callable]:
    """Marks a test as the proof of rows of the table."""
    unknown = [field for field in fields if field not in TABLE]
    assert not unknown, unknown

    def mark(test: Callable) -> Callable:
        SHOWN.update({field: f"{test.__module__}.{test.__name__}" for field in fields})
        return test

    return mark


def value_of(field: str) -> Any:
    """The other value of a row."""
    return TABLE[field][0]


def changed(config: ml_collections.ConfigDict, *fields: str) -> ml_collections.ConfigDict:
    """A copy of a config with the other values of some rows."""
    config = config.copy_and_resolve_references()
    for field in fields:
        section, _, name = field.rpartition(".")
        group = config[section.partition(":")[0]] if section else config
        with group.ignore_type():
            group[name] = value_of(field)
    return config
