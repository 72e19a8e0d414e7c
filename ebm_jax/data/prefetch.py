"""Batches made ahead of time in a background thread."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(
    make_batch: Callable[[int], Batch], first_step: int = 0, *, depth: int = 2
) -> Iterator[Batch]:
    """Yield `make_batch(first_step)`, `make_batch(first_step + 1)`, ... without end.

    One thread works up to `depth` batches ahead; it is stopped when the iterator is closed or
    forgotten. An exception in `make_batch` is raised where the batch is asked for.

    Args:
        make_batch: makes the batch of a step, such as a `functools.partial` of `local_batch`; it
            may also put it on the devices.
        first_step: step of the first batch.
        depth: batches to be ready or under way beside the one in use, at least 1.

    Raises:
        ValueError: if `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; it must be at least 1")
    return _prefetch(make_batch, first_step, depth)


def _prefetch(make_batch, first_step, depth):
    executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        steps = itertools.count(first_step)
        pending = collections.deque(
            executor.submit(make_batch, step) for step in itertools.islice(steps, depth)
        )
        while True:
            batch = pending.popleft().result()
            pending.append(executor.submit(make_batch, next(steps)))
            yield batch
    finally:
        executor.shutdown(cancel_futures=True)
