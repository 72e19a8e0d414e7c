"""Optimisers by name, and learning-rate schedules, from the fields of a config."""

from collections.abc import Callable

import optax

from ebm_jax.training.clipped_adam import igebm_adam


def learning_rate_schedule(
    *,
    learning_rate: float,
    schedule: str,
    final_learning_rate: float,
    warmup_steps: int,
    num_steps: int,
) -> optax.Schedule:
    """Linear increase from 0, then constant or a cosine.

    Args:
      learning_rate: the highest. schedule: 'constant' or 'cosine'.
      final_learning_rate: at step num_steps of a cosine. warmup_steps: of the increase; may be 0.
      num_steps: updates of the whole run.
    Returns:
      (updates done) -> learning rate.
    Raises:
      ValueError: another schedule, or a warm-up that a cosine has no step left after.
    """
    if schedule == "cosine":
        if warmup_steps >= num_steps:
            raise ValueError(
                f"warmup_steps {warmup_steps} leaves a cosine no step of {num_steps}: write fewer"
            )
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup_steps else learning_rate,
            learning_rate,
            warmup_steps,
            num_steps,
            final_learning_rate,
        )
    if schedule != "constant":
        raise ValueError(f"schedule is {schedule!r}: write 'constant' or 'cosine'")
    if not warmup_steps:
        return optax.constant_schedule(learning_rate)
    return optax.linear_schedule(0.0, learning_rate, warmup_steps)


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    max_grad_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Adam, after clipping the gradient to a global L2 norm; max_grad_norm 0 does not clip."""
    optimizer = optax.adam(learning_rate, b1=b1, b2=b2)
    if not max_grad_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "igebm_adam": igebm_adam,
}
