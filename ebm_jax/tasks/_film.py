"""A trajectory as a film: true and predicted states beside each other, in lines."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ebm_jax.data import Trajectories
from ebm_jax.data.simulators import pendulum, shadow_hand
from ebm_jax.io import image_grids

_ROWS = 6  # times of the still picture
_TILE = 150  # pixels

# States [t, d] up to now -> lines [points, 2], x to the right and y upwards.
Scene = Callable[[np.ndarray], list[np.ndarray]]


class Film(NamedTuple):
    """figures: uint8 by name. files: contents by name."""

    figures: Mapping[str, np.ndarray]
    files: Mapping[str, bytes]


def film(name: str, trajectories: Trajectories, rows: Mapping[str, np.ndarray]) -> Film:
    """film.png, of six times, and film.gif, of all.

    Args:
      name: of the data set.
      rows: by title, states [t, d] in the units of the data.
    Raises:
      ImportError: one line, for hands where the simulator is not installed.
    """
    scene, seconds, extent = _scene(name, trajectories)
    length = len(next(iter(rows.values())))

    def tile(states: np.ndarray, t: int) -> np.ndarray:
        said = f"{t * seconds:.1f} s" if seconds else str(t)
        return image_grids.lines_tile(scene(states[: t + 1]), extent=extent, size=_TILE, text=said)

    times = np.unique(np.linspace(0, length - 1, _ROWS).astype(int))
    tiles = {title: [tile(states, t) for t in range(length)] for title, states in rows.items()}
    still = {title: np.stack([each[t] for t in times]) for title, each in tiles.items()}
    frames = [
        image_grids.columns_picture({title: each[t][None] for title, each in tiles.items()})
        for t in range(length)
    ]
    return Film(
        {"film": image_grids.columns_picture(still)},
        {"film.gif": image_grids.gif(frames, milliseconds=round(1000 * seconds) or 100)},
    )


def _scene(
    name: str, trajectories: Trajectories
) -> tuple[Scene, float, tuple[float, float, float, float]]:
    """(scene, seconds between states or 0, (x from, x to, y from, y to))."""
    if name == "pendulum":
        return _pendulum, pendulum.STEP_SECONDS, (-1.3, 1.3, -1.3, 1.3)
    if trajectories.columns == shadow_hand.COLUMNS:
        hand = shadow_hand.load_hand()

        def scene(states: np.ndarray) -> list[np.ndarray]:
            return [_seen(line) for line in shadow_hand.lines(hand, states[-1])]

        return scene, shadow_hand.STEP_SECONDS, (-0.12, 0.12, -0.12, 0.12)
    reach = 4.0 * trajectories.std + 1e-6
    low, high = trajectories.mean - reach, trajectories.mean + reach
    second = min(1, len(low) - 1)
    return _path, 0.0, (low[0], high[0], low[second], high[second])


def _pendulum(states: np.ndarray) -> list[np.ndarray]:
    """The rod, as long as the state says, and where its end was in the last second."""
    ends = np.stack([states[:, 1], -states[:, 0]], axis=1)
    return [np.stack([np.zeros(2), ends[-1]]), ends[-round(1 / pendulum.STEP_SECONDS) :]]


def _path(states: np.ndarray) -> list[np.ndarray]:
    """The first two columns, from the beginning."""
    return [states[:, [0, min(1, states.shape[1] - 1)]]]


_CENTER = np.array([1.0, 0.93, 0.16])  # meters: between the palm and the cube
_ELEVATION = 0.9  # radians, of who looks at it


def _seen(points: np.ndarray) -> np.ndarray:
    """Points [n, 3] as seen from above the finger tips, without perspective."""
    x, y, z = (points - _CENTER).T
    return np.stack([x, np.cos(_ELEVATION) * z + np.sin(_ELEVATION) * y], axis=1)
