"""Batches as a pure function of (seed, step): nothing to save, nothing to restore.

Example number `i` of the global batch of `step` is position `step * global_batch_size + i` of an
endless stream that goes through the data epoch by epoch, each epoch in an order of its own. Any
process can compute its part of any step, so the global batch is the same on any number of processes
and devices, and after a restart.
"""

import functools

import numpy as np

from ebm_jax.data.dataset import Dataset


@functools.lru_cache(maxsize=4)
def epoch_order(num_examples: int, epoch: int, seed: int) -> np.ndarray:
    """Order in which epoch `epoch` visits the examples: a permutation, int64 `[num_examples]`.

    It sorts the raw 64-bit words of a Philox generator with key (seed, epoch); NumPy guarantees
    that stream, as it does not guarantee `Generator.permutation` from one version to the next.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)  # it is cached
    return order


def batch_indices(num_examples: int, global_batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices of the examples in the global batch of one step.

    Args:
        num_examples: size n of the data set.
        global_batch_size: examples per step over all processes; may exceed n.
        step: training step, from 0.
        seed: non-negative seed of the order.

    Returns:
        int64 `[global_batch_size]`, values in `0 .. n - 1`. Every run of n positions of the stream
        that starts at a multiple of n holds each example exactly once; a batch may end one epoch
        and begin the next.

    Raises:
        ValueError: an empty data set, a batch size below 1, a negative step or seed.
    """
    if num_examples < 1:
        raise ValueError(f"the data set has {num_examples} examples; batches need at least 1")
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size is {global_batch_size}; it must be at least 1")
    if step < 0 or seed < 0:
        raise ValueError(f"step is {step} and seed is {seed}; neither may be negative")
    start = step * global_batch_size
    stop = start + global_batch_size
    parts = []
    while start < stop:
        epoch, offset = divmod(start, num_examples)
        part = epoch_order(num_examples, epoch, seed)[offset : offset + stop - start]
        parts.append(part)
        start += len(part)
    return np.concatenate(parts)


def local_batch(
    dataset: Dataset,
    step: int,
    *,
    seed: int,
    global_batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    local_devices: int = 1,
) -> dict[str, np.ndarray]:
    """This process's part of the global batch of one step.

    Process p holds the p-th contiguous block, so that example i of device `axis_index` (as pmap
    counts devices over all processes) is example `axis_index * per_device + i` of the global batch.

    Args:
        dataset: any data set.
        step: training step, from 0.
        seed: seed of the order of the examples.
        global_batch_size: examples per step over all processes; divisible by
            `process_count * local_devices`.
        process_index: this process, `0 .. process_count - 1`.
        process_count: number of processes.
        local_devices: devices of each process.

    Returns:
        `{'image': [local_devices, per_device, ...], 'label': [local_devices, per_device]}`, in the
        dtypes of the data set (uint8 images are scaled on the device).

    Raises:
        ValueError: if the batch does not divide among the devices, or as `batch_indices`.
    """
    devices = process_count * local_devices
    if not 0 <= process_index < process_count or local_devices < 1:
        raise ValueError(
            f"process {process_index} of {process_count} with {local_devices} devices: "
            "the index must be below the count, and each process needs a device"
        )
    if global_batch_size % devices:
        nearest = max(1, round(global_batch_size / devices)) * devices
        raise ValueError(
            f"a batch of {global_batch_size} does not divide among {devices} devices; "
            f"the nearest that does is {nearest}"
        )
    indices = batch_indices(dataset.num_examples, global_batch_size, step, seed)
    indices = indices.reshape(process_count, local_devices, -1)[process_index]
    return {"image": dataset.images[indices], "label": dataset.labels[indices]}
