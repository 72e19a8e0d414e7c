"""Optimizers by name, with their learning rates: one for all parameters or one per group."""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import jax
import optax

from ebm_jax.settings import check, setting
from ebm_jax.training.clipped_adam import igebm_adam


class Optimizer(Protocol):
    """Settings of an optimizer."""

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """The transformation, for a run of so many updates."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear increase from 0, then constant or a cosine.

    Raises:
      ValueError: for a value that a setting cannot have.
    """

    learning_rate: float = setting(1e-4, "the highest", above=0)
    schedule: str = setting(
        "constant",
        "after the warm-up: constant, or cosine to final_learning_rate",
        one_of=("constant", "cosine"),
    )
    final_learning_rate: float = setting(0.0, "at the last step of a cosine schedule", at_least=0)
    warmup_steps: int = setting(0, "steps of linear increase from 0", at_least=0)

    def __post_init__(self) -> None:
        check(self, "optimizer.")

    def learning_rate_at(self, num_steps: int) -> optax.Schedule:
        """(updates done) -> learning rate, for a run of so many updates.

        Raises:
          ValueError: for a warm-up that leaves a cosine no step.
        """
        if self.schedule == "cosine" and num_steps:
            if self.warmup_steps >= num_steps:
                raise ValueError(
                    f"optimizer.warmup_steps: expected fewer than the {num_steps} steps of a "
                    f"cosine, got {self.warmup_steps}"
                )
            return optax.warmup_cosine_decay_schedule(
                0.0 if self.warmup_steps else self.learning_rate,
                self.learning_rate,
                self.warmup_steps,
                num_steps,
                self.final_learning_rate,
            )
        if not self.warmup_steps:
            return optax.constant_schedule(self.learning_rate)
        return optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(LearningRate):
    """Adam, after clipping the gradient to a global L2 norm."""

    b1: float = setting(0.9, '"beta_1"', at_least=0, below=1)
    b2: float = setting(0.999, '"beta_2"', at_least=0, below=1)
    max_grad_norm: float = setting(
        0.0,
        "clip gradients to this global L2 norm; 0 and inf do not clip",
        at_least=0,
        may_be_infinite=True,
    )

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        optimizer = optax.adam(self.learning_rate_at(num_steps), b1=self.b1, b2=self.b2)
        if not 0 < self.max_grad_norm < math.inf:
            return optimizer
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IgebmAdam(LearningRate):
    """Du & Mordatch's optimizer: Adam that clips each element by its running magnitude."""

    b1: float = setting(0.0, '"beta_1"', at_least=0, below=1)
    b2: float = setting(0.999, '"beta_2"', at_least=0, below=1)

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        return igebm_adam(self.learning_rate_at(num_steps), b1=self.b1, b2=self.b2)


OPTIMIZERS: dict[str, Any] = {"adam": Adam, "igebm_adam": IgebmAdam}


def partition(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """One optimizer per top-level key of the parameters.

    Raises:
      ValueError: by init, for parameters whose top-level keys are others.
    """

    def label(params: Mapping[str, Any]) -> dict[str, Any]:
        if set(params) != set(optimizers):
            raise ValueError(
                f"optimizer: expected a section for each of {', '.join(sorted(params))}, got "
                f"{', '.join(sorted(optimizers))}"
            )
        return {name: jax.tree.map(lambda _, name=name: name, params[name]) for name in params}

    transforms: dict[Hashable, optax.GradientTransformation] = {**optimizers}
    return optax.partition(transforms, label)
