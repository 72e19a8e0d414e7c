"""Densities on the plane, known exactly: a multilayer perceptron, trained in minutes.

    python main.py --config=configs/toy2d.py --workdir=runs/checkerboard
    python main.py --config=configs/toy2d.py:eight_gaussians --workdir=runs/eight_gaussians
    python main.py --config=configs/toy2d.py --workdir=runs/checkerboard --mode=evaluate

Variants: checkerboard (default), eight_gaussians, two_moons, rings, trained by recovery likelihood
with a level classifier; and each with the suffix _energy_discrepancy or _dual_score_matching, by
the method of that name. The figures show the learned density, the true one and samples;
--mode=evaluate gives KL(true || learned) on a grid. Hardware: two CPU cores, a minute or two each.
Measured (jax 0.10.2, AMD EPYC, EMA weights), KL(true || learned) in nats, and the log Z on the grid
of the energies that claim 0:

| | steps | checkerboard | rings |
|---|---|---|---|
| recovery likelihood, seeds 0, 1, 2 | 1,500 | .045, .048, .047 | .050, .050, .023 |
| its log Z | | -.01, -.03, .02 | -.04, -.05, -.03 |
| recovery likelihood | 10,000 | .032, .033, .033 | .032, .021, .005 |
| its log Z | | .00, -.03, .00 | -.01, .01, -.01 |
| dual score matching, seed 0 | 4,000 | .060, log Z -.01 | .030, log Z .01 |
| energy discrepancy, seeds 0, 1, 2 | 1,500 | .017, .018, .019 | .007, .006, .006 |

Energy discrepancy has .003 on eight_gaussians and .013 on two_moons (seed 0). Without the
classifier, with six levels of the paper's and b^2 = .1, recovery likelihood had .101 and .198.
Its steps are tested and short (`transition`). At b^2 = .2, with Langevin chains, checkerboard
(seed 0) had .050 after 5,000 steps and ended as diverged before 6,000; with a test alone seeds 0
and 1 had .032 after 10,000, and the energies of seed 2's chains grew to a thousand nats from 6,000.
"""

import ml_collections

from configs import default

DENSITIES = ("checkerboard", "eight_gaussians", "two_moons", "rings")
METHODS = ("energy_discrepancy", "dual_score_matching")  # beside recovery likelihood
VARIANTS = (*DENSITIES, *(f"{name}_{method}" for method in METHODS for name in DENSITIES))


def get_config(variant: str = "checkerboard") -> ml_collections.ConfigDict:
    """One density of `ebm_jax.data.toy_density`, by name; with a suffix, another method."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.name = next(name for name in DENSITIES if variant.startswith(name))
    # Wide data make the first noise step (sigma_1 = .32) small beside what is to be resolved.
    config.data.low, config.data.high = -4.0, 4.0
    config.data.random_flip = False
    config.network = default.network("mlp", width=64, depth=2, num_frequencies=32, frequency=1.5)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.training.num_steps = 1_500
    config.training.ema_decay = 0.995
    config.train.log_every = 50
    config.train.sample_every = 500
    config.train.checkpoint_every = 500
    config.sampling.num_samples = 2_000
    config.sampling.batch_size = 2_000
    if variant.endswith("_dual_score_matching"):
        config.method = default.method(
            "dual_score_matching", min_noise=0.02, max_noise=20.0, num_levels=24
        )
        config.optimizer.learning_rate = 5e-3
        config.training.num_steps = 4_000
        config.sampler = default.sampler("dual_score_matching")
        return config
    if variant.endswith("_energy_discrepancy"):
        config.method = default.method(
            "energy_discrepancy", noise_std=0.7, num_points=8, base_std=4.0
        )
        config.optimizer.learning_rate = (
            1e-2  # a step is cheap and its gradient has no chain's noise
        )
        config.sampler = default.sampler(
            "energy_discrepancy", kernel="mala", step_size=0.1, num_steps=2_000
        )
        return config
    # K b^2 = 9 with g = 0: a chain forgets its start at every level. Each step is tested and short:
    # else chains climb or stand still once the energy is steep somewhere, training raises it there,
    # and after five thousand steps a run may diverge. Three levels at equal ratios,
    # of which the classifier says what a pair does not: the relative mass of far parts of the
    # plane, which without it wanders off in a longer run, and the normalizing constants.
    config.method.transition = "mala"
    config.method.num_pairs = 3
    config.method.noise_levels = (0.03, 0.2, 0.7)
    config.method.num_steps = 30
    config.method.step_scale = 0.3
    config.method.step_growth = 0.0
    config.method.energy_in_nats = True
    config.method.level_classifier = 4.0
    config.optimizer.learning_rate = 6e-3
    config.sampler.noise_scale = 1.0
    return config
