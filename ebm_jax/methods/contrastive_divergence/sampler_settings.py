"""Settings of how a trained model of contrastive divergence generates."""

import dataclasses

from ebm_jax.methods.contrastive_divergence.refreshed_buffer import Refresh
from ebm_jax.settings import check, setting


@dataclasses.dataclass(frozen=True)
class ContrastiveDivergenceSampler:
    """Settings of a trained model's chains; none of them matters to training.

    Raises:
      ValueError: for a value that a setting cannot have.
    """

    num_steps: int = setting(0, "steps of fresh chains; 0: K, as in training", at_least=0)
    chains: str = setting(
        "fresh", "where samples come from; grids of training are of fresh chains in any case",
        one_of=("fresh", "refreshed_buffer"),
    )  # fmt: skip
    buffer_size: int = setting(1_000, "entries of a refreshed buffer, samples each", at_least=1)
    buffer_rounds: int = setting(200, "after which a buffer's entries are taken", at_least=1)
    buffer_drawn: int = setting(512, "entries drawn in a round, with replacement", at_least=1)
    buffer_num_steps: int = setting(0, "steps of a round; 0: K, as in training", at_least=0)
    buffer_noise: float = setting(
        0.01, "share of those drawn that start from noise again", at_least=0, at_most=1
    )
    buffer_labels: float = setting(
        0.1, "share of those drawn that get another label", at_least=0, at_most=1
    )
    buffer_last_rounds: int = setting(10, "rounds without new noise and labels", at_least=0)
    inpaint_num_steps: int = setting(0, "steps when inpainting; 0: num_steps", at_least=0)
    restore_num_steps: int = setting(0, "steps when restoring; 0: num_steps", at_least=0)

    def __post_init__(self) -> None:
        check(self, "sampler.")

    @property
    def refresh(self) -> Refresh:
        """How a buffer is refreshed."""
        return Refresh(
            self.buffer_size, self.buffer_rounds, self.buffer_drawn, self.buffer_noise,
            self.buffer_labels, self.buffer_last_rounds,
        )  # fmt: skip
