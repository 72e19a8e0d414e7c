"""Samples from a refreshed buffer, as the code of Du & Mordatch 2019 makes those of its scores.

A buffer of entries starts from noise. In each round some of them are drawn with replacement; of
those drawn a few are replaced by noise, and a few have their labels drawn anew, but for the last
rounds; all drawn move by K steps and are written back. With the published numbers, 200 rounds of
512 of 1,000 entries and K = 20, that is 2,048 steps per entry (`Refresh.steps_per_entry`).

*Quirk*: an entry that is drawn twice in a round moves twice from the same place, and the later of
the two is kept; so 1 - (1 - 1 / size)^drawn of the entries change in a round, and not drawn / size.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Noise = Callable[[jax.Array, jax.Array], jax.Array]  # (key, index [n]) -> x [n, ...]


class Refresh(NamedTuple):
    """How a buffer is refreshed.

    Attributes:
        size: entries.
        num_rounds: rounds.
        num_drawn: entries drawn in each round, with replacement.
        noise_share: of those drawn, on average, that are replaced by noise.
        label_share: of those drawn, on average, whose labels are drawn anew.
        num_last: rounds at the end without either.
    """

    size: int = 1_000
    num_rounds: int = 200
    num_drawn: int = 512
    noise_share: float = 0.01
    label_share: float = 0.1
    num_last: int = 10

    def steps_per_entry(self, num_steps: int) -> float:
        """Steps for each entry of the buffer, of rounds of num_steps (K)."""
        return self.num_rounds * self.num_drawn * num_steps / self.size


class Round(NamedTuple):
    """What is drawn for one round.

    Attributes:
        rows: int `[drawn]`, of the buffer.
        is_noise: bool `[drawn]`, whether the entry starts from `noise` `[drawn, ...]`.
        noise: starts.
        has_new_label: bool `[drawn]`, whether its label becomes `label`, int `[drawn]`.
        label: numbers of labels.
    """

    rows: jax.Array
    is_noise: jax.Array
    noise: jax.Array
    has_new_label: jax.Array
    label: jax.Array


def refreshed_buffer(
    rng_key: jax.Array,
    move: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    noise: Noise,
    labels: np.ndarray,
    num_labels: int,
    refresh: Refresh,
    on_round: Callable[[int], None] = lambda number: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The entries of a buffer and their labels, after all rounds.

    Args:
        rng_key: all that is drawn here is a function of it.
        move: (round, x [drawn, ...], label [drawn]) -> x after K steps.
        noise: starts of chains.
        labels: int `[size]`, numbers of the labels that the entries have at first.
        num_labels: of which new ones are drawn, equally likely.
        refresh: sizes and shares.
        on_round: called with the number of rounds done.

    Returns:
        x `[size, ...]` and label int `[size]`.
    """
    start_key, rounds_key = jax.random.split(rng_key)
    x = np.array(noise(start_key, jnp.arange(refresh.size)))
    label = np.array(labels)

    for number in range(refresh.num_rounds):
        key = jax.random.fold_in(rounds_key, number)
        found = jax.device_get(_drawn(key, noise, num_labels, refresh))
        is_refreshed = number < refresh.num_rounds - refresh.num_last
        is_noise = (found.is_noise & is_refreshed).reshape(-1, *[1] * (x.ndim - 1))
        chosen = np.where(is_noise, found.noise, x[found.rows])
        of = np.where(found.has_new_label & is_refreshed, found.label, label[found.rows])
        # NumPy keeps the last of what is written to one row.
        x[found.rows], label[found.rows] = move(number, chosen, of), of
        on_round(number + 1)
    return x, label


@functools.partial(jax.jit, static_argnums=(1, 2, 3))  # once for all blocks of one `noise`
def _drawn(rng_key: jax.Array, noise: Noise, num_labels: int, refresh: Refresh) -> Round:
    rows_key, is_noise_key, noise_key, is_new_key, label_key = jax.random.split(rng_key, 5)
    shape = (refresh.num_drawn,)
    return Round(
        jax.random.randint(rows_key, shape, 0, refresh.size),
        jax.random.uniform(is_noise_key, shape) < refresh.noise_share,
        noise(noise_key, jnp.arange(refresh.num_drawn)),
        jax.random.uniform(is_new_key, shape) < refresh.label_share,
        jax.random.randint(label_key, shape, 0, num_labels),
    )
