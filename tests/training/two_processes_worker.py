"""One of several processes that train together; started by test_two_processes.py.

Usage: two_processes_worker.py PROCESS NUM_PROCESSES PORT RESULT
"""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(process: int, num_processes: int, port: str, result: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes, process)
    from small_runs import batches, toy

    from ebm_jax import parallel
    from ebm_jax.methods import MethodState
    from ebm_jax.training.device_state import pmap_train_step, to_devices, to_host

    step, state = toy()
    step, state = pmap_train_step(step), to_devices(jax.device_get(state))
    local = slice(process * jax.local_device_count(), (process + 1) * jax.local_device_count())
    for batch in batches():
        shards = batch["image"].reshape(jax.device_count(), -1, 3)
        state, metrics = step(state, {"image": shards[local]})

    # A replay buffer has its shards on the devices of all processes, two each.
    whole = np.arange(6.0 * jax.device_count(), dtype=np.float32).reshape(-1, 3)
    buffered = to_host(state)._replace(method_state=MethodState((), whole))
    joined = to_host(to_devices(buffered)).method_state.sharded
    np.testing.assert_array_equal(joined, whole)

    final = to_host(state), jax.device_get(parallel.first_replica(metrics))
    np.savez(result, *jax.tree.leaves(final))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
