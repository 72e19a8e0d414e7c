"""Where reverse annealing starts: noised training images, moved by HMC, and whether that is enough.

Samples of the model are wanted. Chains that have forgotten which image each began at agree with one
another; those that have not say nothing of mass elsewhere, which is then missing in log Z.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.density import long_run
from ebm_jax.io.resumable import ResumableWork

ENOUGH = 1.1  # of split R-hat, at most
_JUDGED = ("energy", "median_of_values")  # the largest of many values is above 1 by chance
_RECORDS = 2 * long_run.NUM_KEPT  # of the chains, at equal distances: the second half is judged

# (x [chains, ...], first step, number of steps) -> (x, energies [chains]), on all devices
Settle = Callable[[jax.Array, int, int], tuple[jax.Array, jax.Array]]


class Starts(NamedTuple):
    """x [chains, ...]; split_r_hat: of their second half, see `long_run.r_hat`; None: no steps."""

    x: np.ndarray
    split_r_hat: dict[str, float] | None

    @property
    def do_agree(self) -> bool:
        """Whether the chains have forgotten where they began: by the energy and most values."""
        found = self.split_r_hat
        return found is not None and all(found[name] <= ENOUGH for name in _JUDGED)


def settled(
    work: ResumableWork,
    noised: Callable[[], jax.Array],
    settle: Settle,
    num_steps: int,
    amount: int,
) -> Starts:
    """The starts after so many steps; interrupted, the same command goes on.

    noised: makes the noised images [chains, ...]. amount: of the progress bar.
    """
    ends = np.round(np.linspace(0, num_steps, min(_RECORDS, num_steps) + 1)).astype(int)
    shares = np.diff(np.round(np.linspace(0, amount, len(ends))).astype(int))
    if (state := work.load("starts")) is None:
        state = _state(0, parallel.whole(noised()), [], [])
        work.save("starts", state)
    x, done = parallel.spread(state["x"]), int(state["done"])
    work.skip(int(shares[:done].sum()))
    for n in range(done, len(shares)):
        x, energy = settle(x, int(ends[n]), int(ends[n + 1] - ends[n]))
        here = parallel.whole(x)
        draws = [*state["draws"], _some_values(here)][-long_run.NUM_KEPT :]
        energies = [*state["energies"], parallel.whole(energy)][-long_run.NUM_KEPT :]
        state = _state(n + 1, here, draws, energies)
        (work.save_state if n + 1 < len(shares) else work.save)("starts", state)
        work.advance(int(shares[n]), {"energy": float(np.mean(energies[-1]))})
    found = long_run.r_hat(state["draws"], state["energies"]) if num_steps else None
    return Starts(state["x"], found)


def _state(
    done: int, x: np.ndarray, draws: Sequence[np.ndarray], energies: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    return {
        "done": np.asarray(done), "x": x, "draws": np.array(draws), "energies": np.array(energies),
    }  # fmt: skip


def _some_values(x: np.ndarray) -> np.ndarray:
    """[chains, values], at equal distances."""
    flat = x.reshape(len(x), -1)
    number = min(flat.shape[1], long_run.NUM_VALUES)
    return flat[:, np.linspace(0, flat.shape[1] - 1, number, dtype=int)]


def metrics(starts: Starts, num_steps: int) -> dict[str, Any]:
    """For the JSON."""
    return {"num_steps": num_steps, "split_r_hat": starts.split_r_hat, "enough_at_most": ENOUGH}


def words(starts: Starts, num_steps: int) -> str:
    """What the starts are, and whether they are the model's own."""
    if starts.split_r_hat is None:
        return (
            "Its starts are training examples: as far as these are not the model's own, it bounds "
            "nothing."
        )
    energy, values = (starts.split_r_hat[name] for name in _JUDGED)
    told = f"Its starts are training examples after {num_steps:,} steps of HMC, "
    measured = (
        f"(split R-hat of the energy {energy:.2f}, of the values {values:.2f} in the median; "
        f"{ENOUGH} would do)"
    )
    if starts.do_agree:
        return f"{told}by which the chains agree {measured}."
    return (
        f"{told}which have not forgotten where they began {measured}: as far as these are not the "
        "model's own, it bounds nothing; take more likelihood.reverse_steps."
    )
