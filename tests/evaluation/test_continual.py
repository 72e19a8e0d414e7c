"""What is made of logits after each task, by hand."""

import numpy as np
import pytest

from ebm_jax.evaluation.classification import continual

TASKS = ((0, 1), (2, 3), (4, 5))
LABELS = np.repeat(np.arange(6), 4)
PERFECT = 10.0 * np.eye(6)[LABELS]


def after(*known):
    """Logits that are right for these classes and below all others elsewhere, [n, 6]."""
    return PERFECT - 100.0 * ~np.isin(np.arange(6), known)


def test_one_that_remembers_and_one_that_forgets():
    remembers = np.stack([after(0, 1), after(0, 1, 2, 3), after(*range(6))])
    found = continual.scores(remembers, LABELS, TASKS)
    np.testing.assert_array_equal(found.matrix, np.tril(np.ones((3, 3))))
    assert (found.final, found.mean_of_tasks, found.forgetting) == (1, 1, 0)
    forgets = np.stack([after(*classes) for classes in TASKS])
    found = continual.scores(forgets, LABELS, TASKS)
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    np.testing.assert_array_equal(found.within, np.ones((3, 3)))  # one offset for each task
    assert found.final == found.mean_of_tasks == pytest.approx(1 / 3)
    assert (found.forgetting, found.final_within) == (1, 1)
    # Of all six classes each has the same mean logit once offsets are gone.
    assert found.centered == 1
    assert found.confusion[4:].tolist() == [[0, 0, 0, 0, 4, 0], [0, 0, 0, 0, 0, 4]]
    assert found.confusion[:4, :4].sum() == 0


def test_random_logits_against_loops():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(6), rng.integers(0, 6, 34)])
    logits = rng.normal(size=(3, 40, 6)) + np.eye(6)[labels]
    found = continual.scores(logits, labels, TASKS)
    for i in range(3):
        for j, classes in enumerate(TASKS):
            rows = [n for n in range(40) if labels[n] in classes]
            right = [max(range(6), key=lambda y, n=n, i=i: logits[i, n, y]) for n in rows]
            among = [max(classes, key=lambda y, n=n, i=i: logits[i, n, y]) for n in rows]
            truth = labels[rows]
            assert found.matrix[i, j] == pytest.approx(np.mean(right == truth))
            assert found.within[i, j] == pytest.approx(np.mean(among == truth))
    a = found.matrix
    by_hand = np.mean([max(a[0, j], a[1, j]) - a[2, j] for j in (0, 1)])
    assert found.forgetting == pytest.approx(by_hand)
    assert found.mean_of_tasks == pytest.approx(a[2].mean())
    assert found.final == pytest.approx(np.mean(logits[2].argmax(1) == labels))
    assert found.final == np.trace(found.confusion) / 40
    np.testing.assert_allclose(found.mean_energy[1, 3], -logits[1, :, 3].mean())
    np.testing.assert_allclose(found.mean_energy_of_own[0, 2], -logits[0, labels == 2, 2].mean())
    off = logits[2] - logits[2].mean(0)
    assert found.centered == pytest.approx(np.mean(off.argmax(1) == labels))


def test_one_stage_has_nothing_to_forget():
    found = continual.scores(PERFECT[None], LABELS, TASKS)
    assert found.forgetting is None
    np.testing.assert_array_equal(found.matrix, np.ones((1, 3)))


def test_splits_and_updates():
    assert continual.split_classes(6, 3) == TASKS
    assert continual.split_classes(10, 2) == (tuple(range(5)), tuple(range(5, 10)))
    labels = np.array([0] * 5 + [1] * 4 + [2] * 8 + [3] * 8)
    found = continual.updates_per_task(labels, TASKS[:2], num_passes=2, batch_size=4)
    assert found == (5, 8)  # of 18 and of 32 examples
    assert [type(number) for number in found] == [int, int]
    with pytest.raises(ValueError, match=r"expected examples of the classes \[4, 5\], got none"):
        continual.updates_per_task(labels, TASKS, num_passes=1, batch_size=4)


@pytest.mark.parametrize(
    ("num_classes", "num_tasks", "message"),
    [
        (10, 3, "into which 10 classes divide, two or more in each, such as 2, got 3"),
        (10, 10, "two or more in each, such as 5, got 10"),
        (10, 1, "such as 2, got 1"),
        (3, 3, "expected classes that divide into tasks, got 3 classes"),
        (2, 2, "expected classes that divide into tasks, got 2 classes"),
    ],
)
def test_splits_that_are_none(num_classes, num_tasks, message):
    with pytest.raises(ValueError, match=message):
        continual.split_classes(num_classes, num_tasks)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected \[3 tasks or 1, 24 examples, classes\]"):
        continual.scores(np.stack([PERFECT] * 2), LABELS, TASKS)
    with pytest.raises(ValueError, match=r"24 examples, classes\], got the shape \[1, 23, 6\]"):
        continual.scores(PERFECT[None, 1:], LABELS, TASKS)
    with pytest.raises(ValueError, match="examples of every class, got none of 5"):
        continual.scores(PERFECT[None, :20], LABELS[:20], TASKS)
