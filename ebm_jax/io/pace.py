"""Stretches of long work that are short enough to answer Ctrl-C soon, and long enough to be quick.

pace = Pace()
while done < total:
    number = pace.next(total - done)
    with pace.timed(number):
        ...  # so many steps, until their result is there
    done += number
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from ebm_jax import parallel

_SECONDS = 2.0  # of a stretch
_MOST_GROWTH = 8  # of a stretch over the one before: short ones are mostly overhead


class Pace:
    """Numbers of steps that take about two seconds each, by the speed of those before.

    The first is 1. Process 0 measures for all. clock: gives seconds; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._wanted = 1

    def next(self, left: int) -> int:
        """How many of the steps that are left to do next; at least 1 where any are."""
        return min(left, int(parallel.tell(np.int32(self._wanted))))

    @contextlib.contextmanager
    def timed(self, number: int) -> Iterator[None]:
        """Measures a stretch of so many steps; one of none, which compiles, says nothing."""
        begin = self._clock()
        yield
        if number:
            fits = int(number * _SECONDS / max(self._clock() - begin, 1e-9))
            self._wanted = min(max(fits, 1), _MOST_GROWTH * max(number, self._wanted), 10**6)
