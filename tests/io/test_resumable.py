"""Batches are kept, found again after an interruption, and thrown away where they do not fit."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.io import resumable

X = np.arange(21, dtype=np.float32)


def square(common, x, index):
    return {"square": common * x**2, "index": index}


def run(folder, fingerprint, fn=square):
    with resumable.ResumableWork(folder, fingerprint) as work:
        work.begin("squaring", len(X))
        found = work.map_batches("x", fn, jnp.asarray(2.0), (X, np.arange(21)), batch_size=8)
        assert folder.exists()
    return found


@pytest.fixture
def calls(monkeypatch):
    """The first example of every batch that was computed."""
    made, plain = [], parallel.map_examples

    def counted(fn, batch_size):
        mapped = plain(fn, batch_size)

        def call(common, *arrays):
            made.append(float(arrays[0][0]))
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return mapped(common, *arrays)

        return call

    monkeypatch.setattr(parallel, "map_examples", counted)
    return made


def test_an_interrupted_run_goes_on_after_its_last_batch(tmp_path, calls):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit) as stopped:
        run(folder, {"step": 1})
    assert stopped.value.code == 143
    assert calls == [0, 8]
    found = run(folder, {"step": 1})
    assert calls == [0, 8, 16]
    np.testing.assert_array_equal(found["square"], 2 * X**2)
    np.testing.assert_array_equal(found["index"], np.arange(21))
    assert not folder.exists()


def test_what_has_another_fingerprint_is_thrown_away(tmp_path, calls):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit):
        run(folder, {"step": 1})
    run(folder, {"step": 2})
    assert calls == [0, 8, 0, 8, 16]
