"""One of several processes that evaluate one run together.

Started by test_modes_on_two_processes.py.

Usage: two_processes_worker.py PROCESS NUM_PROCESSES PORT FOLDER
"""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest


def main(process: int, num_processes: int, port: str, folder: pathlib.Path) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes, process)
    import gaussian_runs as exact

    from ebm_jax import parallel
    from ebm_jax.io.resumable import ResumableWork

    assert int(parallel.tell(np.int32(process + 3))) == 3
    assert parallel.tell_bytes(b"zero" if process == 0 else None) == b"zero"
    assert not parallel.all_true(process == 0)

    def read() -> None:
        with parallel.all_or_none():
            if process == 1:
                raise OSError("no data on process 1")

    with pytest.raises((ValueError, OSError), match="no data on process 1"):
        read()
    with pytest.raises(ValueError, match="said by process 0"):
        parallel.first_does(lambda: (_ for _ in ()).throw(ValueError("said by process 0")))

    # What the others see of a folder does not enter: each has one of its own here.
    x = np.arange(21.0)
    own = folder / f"work_{process}"
    for stop_after in (2, 99):
        measured = []

        def measure(first, stop, measured=measured, stop_after=stop_after):
            measured.append(first)
            if len(measured) > stop_after:
                raise KeyboardInterrupt
            return {"x": x[first:stop] + 1e-12}

        def update(state, first, found):
            np.testing.assert_array_equal(found["x"], x[first : first + len(found["x"])] + 1e-12)
            return {"order": np.concatenate([state["order"], found["x"]])}

        try:
            with ResumableWork(own, {"a": 1}) as work:
                initial = {"order": np.zeros(0)}
                kept = work.fold_batches("x", measure, update, initial, number=21, batch_size=4)
                square = work.map_batches(
                    "square", lambda c, a: {"y": c * a}, np.float32(2), (x,), batch_size=4
                )["y"]
                plain = work.map_batches(
                    "plain", lambda nothing, a: {"y": a}, (), (x,), batch_size=4
                )["y"]
        except KeyboardInterrupt:
            assert own.exists() == (process == 0)
    assert measured == [16 + 4 * process]
    np.testing.assert_array_equal(kept["order"], x + 1e-12)
    np.testing.assert_array_equal(square, 2 * x)
    np.testing.assert_array_equal(plain, x)

    for mode in ("long_run", "likelihood"):
        config = exact.small_config(exact.install(pytest.MonkeyPatch()))
        assert exact.run_mode(mode, config, folder / "run") == 0
    config.long_run.num_chains = 7
    with pytest.raises(ValueError, match="expected a multiple of the 2 devices"):
        exact.run_mode("long_run", config, folder / "run")
    (folder / f"done_{process}").write_text(json.dumps({"processes": jax.process_count()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))
