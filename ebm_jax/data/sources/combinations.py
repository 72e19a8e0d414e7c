"""Combinations of a size and a place that a model sees, and those that are held out.

All images are of one square in one orientation. A share rho of the places is seen in all sizes, and
all places are seen at one size, the reference:

| seen | trained on |
|---|---|
| size | the seen places, all sizes |
| position | all places, the reference size |
| both | the union of the two |

Held out is every other place at every other size: of such a combination no model has seen an image,
yet its size and its place have been seen. The protocol is that of the code of "Compositional visual
generation" (Du, Li & Mordatch 2020), which takes its seen places as they come; here they are
shuffled by a seed. The orientation is that of the code of Du & Mordatch 2019, class 15 of 40.
"""

from typing import NamedTuple

import numpy as np

from ebm_jax.data.sources.factors import FACTORS, factor_values

SEEN = ("size", "position", "both")
SPLITS = ("train", "test", "others")
_SQUARE, _ORIENTATION = 0, 15 / 39  # class of the shape; share of the last orientation


class Combinations(NamedTuple):
    """Which combinations of size and place a model sees.

    Attributes:
        seen: one of `SEEN`.
        share: rho, of the places that are seen in all sizes.
        reference_size: scale that all places are seen at.
        seed: of the places' order, of which the first are seen in all sizes.
    """

    seen: str
    share: float
    reference_size: float
    seed: int


def classes_of(combinations: Combinations, split: str, num_values: tuple[int, ...]) -> np.ndarray:
    """Classes of the factors of a split's images, in a random order that the seed fixes.

    Args:
        combinations: that are seen.
        split: `'train'`, what is seen; `'test'`, a random half of what no model has seen;
            `'others'`, all images but those of `'test'`, for whatever judges the models.
        num_values: that each factor has.

    Returns:
        int32 `[n, 5]`, in the order of `factors.FACTORS`.

    Raises:
        ValueError: one line, for a size that there is not, and a share that leaves no place
            seen, or fewer than two unseen.
    """
    num_scales, num_turns, num_x, num_y = num_values[1:]
    num_places = num_x * num_y
    num_seen = _num_seen(combinations.share, num_places)
    reference = _scale_class(combinations.reference_size, num_values)
    is_seen = np.zeros(num_places, bool)
    is_seen[_order(num_places, combinations.seed, 0)[:num_seen]] = True

    scale, place = (a.ravel() for a in np.indices((num_scales, num_places), np.int32))
    of_size, of_position = is_seen[place], scale == reference
    unseen = np.flatnonzero(~(of_size | of_position))
    test = unseen[_order(len(unseen), combinations.seed, 1)[: len(unseen) // 2]]
    if split == "test":
        rows = test
    elif split == "others":
        rows = np.setdiff1d(np.arange(len(scale)), test)
    else:
        seen = {"size": of_size, "position": of_position, "both": of_size | of_position}
        rows = np.flatnonzero(seen[combinations.seen])
    rows = rows[_order(len(rows), combinations.seed, 2)]
    classes = np.zeros((len(rows), len(FACTORS)), np.int32)
    classes[:, 0], classes[:, 2] = _SQUARE, round(_ORIENTATION * (num_turns - 1))
    classes[:, 1] = scale[rows]
    classes[:, 3], classes[:, 4] = np.divmod(place[rows], num_y)
    return classes


def _num_seen(share: float, num_places: int) -> int:
    number = round(share * num_places)
    if not 1 <= number <= num_places - 2:
        raise ValueError(
            f"data.seen_places: expected {1 / num_places:.3g} to {1 - 2 / num_places:.3g}, as "
            f"there are {num_places} places, got {share:g}"
        )
    return number


def _scale_class(reference_size: float, num_values: tuple[int, ...]) -> int:
    classes = np.zeros((num_values[1], len(FACTORS)), np.int32)
    classes[:, 1] = np.arange(num_values[1])
    scales = factor_values(classes, num_values)[:, 1]
    away = np.abs(scales - reference_size)
    if away.min() > 1e-6:
        raise ValueError(
            f"data.reference_size: expected one of {', '.join(f'{s:g}' for s in scales)}, got "
            f"{reference_size:g}"
        )
    return away.argmin().item()


def _order(number: int, seed: int, purpose: int) -> np.ndarray:
    """A permutation that NumPy's versions agree on: the order of a Philox generator's words."""
    words = np.random.Philox(key=np.array([seed, purpose], np.uint64)).random_raw(number)
    return np.argsort(words, kind="stable")
