"""When to stop a training run that has diverged, and what to say.

Energy-based training fails by its energies running away from the sampler: the gap between data and
samples grows without bound, then the loss and the gradient overflow, then every parameter is NaN.
The loss itself is no convergence signal, so nothing here depends on whether it falls.

Pure functions on the metrics of one step; the loop decides what to do with the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DIVERGED_EXIT_CODE = 3  # of the process; 1 and 2 mean an error and wrong usage

# In the order in which one makes the next go wrong. These are defined at every step, so that a NaN
# is a failure; in any other metric it may stand for a level that no example of the batch had.
_ALWAYS_DEFINED = ("loss", "grad_norm", "update_norm", "param_norm")
_NAMES = {
    "loss": "the loss",
    "grad_norm": "the gradient norm",
    "update_norm": "the norm of the update",
    "param_norm": "the norm of the parameters",
}
_REMEDIES = (
    "more sampler steps per update, a lower learning rate, gradient clipping, a larger L2 penalty"
    " on the energies, or spectral normalization"
)


class DivergenceError(RuntimeError):
    """Training diverged; the message says where, and what may help."""


class Divergence(NamedTuple):
    """What went wrong: `quantity` (in words) had `value`; `bound` is None if it is non-finite.

    value: None where it is not known which of NaN and the infinities it was.
    """

    quantity: str
    value: float | None
    bound: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.quantity} is not finite"
        if self.bound is None:
            return f"{self.quantity} is {self.value}"
        return f"{self.quantity} is {self.value:.4g}, beyond {self.bound:.4g}"


class DivergedAt(Exception):
    """Raised between two steps of the loop, which goes back or gives up; see `decide`."""

    def __init__(self, step: int, divergence: Divergence):
        self.step = step
        self.divergence = divergence


class Retry(NamedTuple):
    """Go back to the checkpoint of `step` and on with `retry_key(rng_key, attempt)`."""

    step: int
    attempt: int


def check(metrics: Mapping[str, Any], *, max_abs_energy: float | None = None) -> Divergence | None:
    """Looks for what is non-finite or has exploded in the metrics of one step.

    Energies come first, as they are where divergence begins; then the loss, the gradient, the
    update and the parameters; then the rest; then what earlier steps left behind.

    Args:
      metrics: by name, scalars or arrays per level. `loss`, `grad_norm`, `update_norm` and
        `param_norm` must be finite; in any other a NaN stands for "nothing counted" and passes, an
        infinity does not. Energies are the metrics called `energy_*`. `finite_so_far` must be
        true: a gradient that overflows once makes Adam's moments infinite and with them its later
        updates zero, so that all numbers but these moments are finite again.
      max_abs_energy: bound on the size of every energy, in units of the energy; None for none.

    Returns:
      The first thing wrong, or None.
    """
    found = _check_energies(metrics, max_abs_energy)
    if found is not None:
        return found
    for name in _ALWAYS_DEFINED:
        if name in metrics:
            values = np.asarray(metrics[name], np.float64).ravel()
            bad = values[~np.isfinite(values)]
            if bad.size:
                return Divergence(_NAMES[name], float(bad[0]), None)
    for name in sorted(set(metrics) - set(_ALWAYS_DEFINED)):
        values = np.asarray(metrics[name], np.float64)
        found = _first(name, values, np.isinf(values), None)
        if found is not None:
            return found
    if not metrics.get("finite_so_far", True):
        return Divergence("the loss, the gradient or the update of an earlier step", None)
    return None


def decide(
    divergence: Divergence,
    *,
    step: int,
    good_steps: Sequence[int],
    attempt: int,
    max_retries: int,
    checkpoints: str,
) -> Retry:
    """Goes back to the last good checkpoint with other random draws, or gives up.

    Every draw is a function of (key, step), so going back alone would repeat the divergence:
    the key is folded with the attempt. `attempt` has to be kept with the training state, so that a
    run resumed later uses the same key.

    Args:
      divergence: what `check` found. step: at which training step.
      good_steps: steps of the checkpoints there are, all finite.
      attempt: retries made so far in this run.
      max_retries: how many to make in all; 0 gives up at once.
      checkpoints: the folder of the checkpoints, for the message.

    Raises:
      DivergenceError: if there are no retries left or no checkpoint to go back to.
    """
    if good_steps and attempt < max_retries:
        return Retry(step=max(good_steps), attempt=attempt + 1)
    tried = f" after {attempt} of {max_retries} retries" if attempt else ""
    if good_steps:
        kept = f"the last good checkpoint is {checkpoints.rstrip('/')}/{max(good_steps)}"
    else:
        kept = "there was no checkpoint yet"
    raise DivergenceError(
        f"training diverged at step {step}{tried}: {divergence}; {kept}; what may help: {_REMEDIES}"
    )


def retry_key(rng_key: jax.Array, attempt: int | jax.Array) -> jax.Array:
    """The run's key in its n-th retry; unchanged for attempt 0. attempt may be traced."""
    words = jax.random.key_data(rng_key)
    folded = jax.random.key_data(jax.random.fold_in(rng_key, attempt))
    return jax.random.wrap_key_data(
        jnp.where(attempt == 0, words, folded), impl=jax.random.key_impl(rng_key)
    )


def _check_energies(metrics: Mapping[str, Any], max_abs_energy: float | None) -> Divergence | None:
    energies = {
        name: np.asarray(value, np.float64)
        for name, value in metrics.items()
        if name.startswith("energy_")
    }
    for name, values in energies.items():
        found = _first(name, values, np.isinf(values), None)
        if found is None and max_abs_energy is not None:
            found = _first(name, values, np.abs(values) > max_abs_energy, max_abs_energy)
        if found is not None:
            return found
    return None


def _first(
    name: str, values: np.ndarray, wrong: np.ndarray, bound: float | None
) -> Divergence | None:
    """The first entry of `values` where `wrong`, named by its level if there are several."""
    places = np.flatnonzero(wrong)
    if places.size == 0:
        return None
    level = f" of level {places[0]}" if values.size > 1 else ""
    return Divergence(f"{name}{level}", float(values.ravel()[places[0]]), bound)
