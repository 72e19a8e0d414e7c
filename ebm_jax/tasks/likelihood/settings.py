"""Settings of --mode=likelihood."""

import dataclasses

from ebm_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """The annealing, and the images whose likelihood is measured."""

    num_temperatures: tuple[int, ...] = setting(
        (100, 300, 1_000), "of annealing; a bracket for each; (): no annealing", at_least=1
    )
    num_chains: int = setting(64, "in each direction", at_least=1)
    num_leapfrog_steps: int = setting(3, "of HMC, which moves once at each temperature", at_least=1)
    target_acceptance: float = setting(0.8, "that its steps are tuned to", above=0, below=1)
    tuning_steps: int = setting(
        30, "of HMC at each temperature of the ladder that is tuned", at_least=20
    )
    max_levels: int = setting(6, "noise levels passed, at equal ratios of their noise", at_least=1)
    num_images: int = setting(500, "of each split, chosen by sampling.seed", at_least=1)
    reverse_steps: int = setting(
        3_000,
        "of HMC from training images, before reverse annealing; or 0. Mass that the chains have "
        "not reached by then is not in its log Z; whether they agree is said",
        at_least=0,
    )
    num_components: tuple[int, ...] = setting(
        (2, 5, 10, 20), "of the mixture of Gaussians beside the model, the best of these on images "
        "left out; (): one Gaussian alone", at_least=1,
    )  # fmt: skip
    num_fitted: int = setting(
        10_000, "training images at most, that the Gaussians are fitted to", at_least=2
    )
    num_conditional_images: int = setting(
        100, "of each split, for the bound through a model's conditionals, if it has any; 0: none",
        at_least=0,
    )  # fmt: skip
    num_conditional_temperatures: int = setting(
        50, "of annealing from the Gaussian factor to each conditional", at_least=1
    )
    num_flow_images: int = setting(
        500,
        "of each split, for the density of samples where the sampler is a flow; 0: none. Beside "
        "fewer than num_images stand the other figures of all",
        at_least=0,
    )  # fmt: skip
