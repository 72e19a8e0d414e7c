"""Settings of --mode=long_run."""

import dataclasses

from ebm_jax.evaluation.density import long_run
from ebm_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """The chains."""

    num_steps: int = setting(10_000, "of each chain; the papers go to 100,000", at_least=1)
    num_chains: int = setting(100, "chains", at_least=1)
    start: str = setting(
        "data",
        "with the level's noise; noise, the start of sampling; or pairs: at every level anew from "
        "x_{t+1} of real images and given it, as in training",
        one_of=("data", "noise", "pairs"),
    )
    sampler: str = setting(
        "langevin", "the method's own; or mala, hmc with tuned steps", one_of=long_run.SAMPLERS
    )
    level: int = setting(
        0, "noise level whose energy is run on; -1: from the highest down through all", at_least=-1
    )
    step_size: float = setting(0.0, "of the sampler; 0: the method's own, or tuned", at_least=0)
    num_leapfrog_steps: int = setting(2, "of hmc", at_least=1)

    @property
    def is_conditional(self) -> bool:
        """Whether the energies are those of x_t given x_{t+1}."""
        return self.level == -1 or self.is_anew

    @property
    def is_anew(self) -> bool:
        """Whether chains begin at every level anew, and not where those above ended."""
        return self.start == "pairs"

    @property
    def is_native(self) -> bool:
        """Whether the chain is the method's, step and all."""
        return self.sampler == "langevin" and self.step_size == 0
