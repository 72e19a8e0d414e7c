"""The stream of batches: each epoch visits each example once, on any number of processes."""

import numpy as np
import pytest

from ebm_jax.data import Dataset, batch_indices, local_batch
from ebm_jax.data.batches import epoch_order


def stream(num_examples, batch, num_steps, seed=0, first=0):
    return np.concatenate(
        [batch_indices(num_examples, batch, first + s, seed) for s in range(num_steps)]
    )


@pytest.mark.parametrize("batch", [3, 7, 10, 25])  # divides n, does not, is n, exceeds n
def test_every_epoch_visits_every_example_once(batch):
    n = 10
    positions = stream(n, batch, 2 * n)
    for epoch in range(len(positions) // n):
        assert sorted(positions[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_order_differs_by_epoch_and_seed_and_is_shuffled():
    first, second, other = (
        batch_indices(1000, 1000, 0, 0),
        batch_indices(1000, 1000, 1, 0),
        batch_indices(1000, 1000, 0, 1),
    )
    for a, b in ((first, second), (first, other), (first, np.arange(1000))):
        # Two independent permutations agree in about one place; more than 8 has probability 1e-6.
        assert np.sum(a == b) <= 8
    # Rank correlation with the stored order is 0 with standard deviation 1 / sqrt(n).
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_order_is_frozen():
    """Resuming an old run needs the same order: these values must not change."""
    assert batch_indices(10, 10, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert batch_indices(10, 10, 3, 42).tolist() == [1, 6, 3, 4, 5, 9, 2, 8, 0, 7]


def test_pure_function_of_seed_and_step():
    late_first = batch_indices(50, 8, 40, 5)
    np.testing.assert_array_equal(stream(50, 8, 41, seed=5)[-8:], late_first)


def dataset(n):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return Dataset("numbers", "train", images, np.arange(n, dtype=np.int32), n, (0.0, 255.0))


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 8), (2, 4), (4, 2), (2, 1), (4, 1)])
def test_same_global_batch_on_any_layout(processes, devices):
    data, batch = dataset(30), 16
    for step in (0, 1, 5):  # step 1 straddles the first two epochs
        parts = [
            local_batch(
                data,
                step,
                seed=3,
                global_batch_size=batch,
                process_index=p,
                process_count=processes,
                local_devices=devices,
            )
            for p in range(processes)
        ]
        per_device = batch // (processes * devices)
        assert parts[0]["image"].shape == (devices, per_device, 2, 3, 1)
        assert parts[0]["image"].dtype == np.uint8
        labels = np.concatenate([part["label"] for part in parts])  # [all devices, per_device]
        # Example i of device `axis_index` is example axis_index * per_device + i.
        np.testing.assert_array_equal(labels.reshape(-1), batch_indices(30, batch, step, 3))
        for part in parts:  # images and labels stay together
            np.testing.assert_array_equal(part["image"][..., 0, 0, 0], part["label"])


def test_batch_that_does_not_divide_names_the_nearest():
    for batch, nearest in ((30, 32), (3, 8), (33, 32)):
        with pytest.raises(ValueError, match=f"8 devices; the nearest that does is {nearest}$"):
            local_batch(
                dataset(30), 0, seed=0, global_batch_size=batch, process_count=2, local_devices=4
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 0, 0), "0 examples"),
        ((4, 0, 0, 0), "global_batch_size is 0"),
        ((4, -8, 0, 0), "global_batch_size is -8"),
        ((4, 4, -1, 0), "step is -1"),
        ((4, 4, 0, -1), "seed is -1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(*arguments)


@pytest.mark.parametrize(("index", "count", "devices"), [(2, 2, 3), (-1, 2, 3), (0, 1, 0)])
def test_refuses_a_process_beyond_the_count_and_one_without_devices(index, count, devices):
    layout = {"process_index": index, "process_count": count, "local_devices": devices}
    with pytest.raises(ValueError, match=f"^process {index} of {count} with {devices} devices: "):
        local_batch(dataset(8), 0, seed=0, global_batch_size=8, **layout)


def test_one_example_and_batches_of_one():
    assert batch_indices(1, 3, 2, 0).tolist() == [0, 0, 0]
    assert sorted(stream(3, 1, 3).tolist()) == [0, 1, 2]


def test_orders_of_four_epochs_are_kept_in_memory():
    for epoch in range(9):
        epoch_order(5, epoch, 7)
    assert epoch_order.cache_info().currsize == 4


def test_one_process_with_one_device_has_the_whole_batch():
    batch = local_batch(dataset(30), 4, seed=1, global_batch_size=7)
    assert batch["image"].shape == (1, 7, 2, 3, 1)
    np.testing.assert_array_equal(batch["label"][0], batch_indices(30, 7, 4, 1))
