"""The background thread: order, errors, and an end that leaves nothing running."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ebm_jax.data import prefetch


def running():
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_batches_come_in_order_from_any_step():
    batches = prefetch(lambda step: step * step, first_step=5, depth=3)
    assert [next(batches) for _ in range(20)] == [step**2 for step in range(5, 25)]
    batches.close()
    assert not running()


def test_works_ahead_by_depth_and_no_further():
    made = []
    third = threading.Event()

    def make(step):
        made.append(step)
        if step == 2:
            third.set()
        return step

    batches = prefetch(make, depth=2)
    assert next(batches) == 0
    assert third.wait(30)  # steps 1 and 2 are made while batch 0 is in use
    batches.close()
    assert made == [0, 1, 2]


@pytest.mark.parametrize(("options", "ahead"), [({}, 2), ({"depth": 1}, 1), ({"depth": 3}, 3)])
def test_asks_for_so_many_batches_beside_the_one_in_use(monkeypatch, options, ahead):
    """In one thread, however long they take."""
    asked, usual, goes_on = [], ThreadPoolExecutor.submit, threading.Event()

    def submit(executor, make, step):
        asked.append(step)
        found = usual(executor, make, step)
        assert len(running()) == 1
        if len(asked) == ahead:
            goes_on.set()
        return found

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    batches = prefetch(lambda step: goes_on.wait(30) and step, **options)
    for step in range(3):
        assert next(batches) == step
        assert asked == list(range(step + 1 + ahead))
    batches.close()


def test_batches_that_are_not_begun_are_not_made(monkeypatch):
    """At the end: the one under way is waited for."""
    made, begun, goes_on = [], threading.Event(), threading.Event()
    usual = ThreadPoolExecutor.shutdown

    def make(step):
        made.append(step)
        if step == 1:
            begun.set()
            assert goes_on.wait(30)

    def shutdown(executor, **how):
        usual(executor, **how | {"wait": False})
        goes_on.set()
        usual(executor, **how)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    batches = prefetch(make, depth=4)
    next(batches)
    assert begun.wait(30)
    batches.close()
    assert not running()
    assert made == [0, 1]


def test_error_is_raised_where_the_batch_is_asked_for():
    def make(step):
        if step == 3:
            raise ValueError("no batch 3")
        return step

    batches = prefetch(make, depth=2)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no batch 3"):
        next(batches)
    assert not running()


def test_forgotten_iterator_stops_its_thread():
    batches = prefetch(lambda step: step)
    next(batches)
    assert running()
    del batches
    assert not running()


def test_refuses_depth_zero_at_once():
    with pytest.raises(ValueError, match="depth is 0"):
        prefetch(lambda step: step, depth=0)
