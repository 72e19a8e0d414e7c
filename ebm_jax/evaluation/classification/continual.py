"""Class-incremental learning: tasks of classes one after the other, one decision over all classes.

The protocol of Hsu et al. 2018 (arXiv 1810.12488): no task is named when an example is classified,
and a classifier that has forgotten all but the last of T tasks is right on 1 / T of the examples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Tasks = Sequence[Sequence[int]]


def split_classes(num_classes: int, num_tasks: int) -> tuple[tuple[int, ...], ...]:
    """Classes 0 .. num_classes - 1 as tasks of equally many, in their order.

    Raises:
      ValueError: for one task, for tasks of one class, in which there is nothing to tell apart, and
        where the classes do not divide; with a number of tasks that they divide into.
    """
    allowed = [n for n in range(2, num_classes // 2 + 1) if num_classes % n == 0]
    if not allowed:
        raise ValueError(f"expected classes that divide into tasks, got {num_classes} classes")
    if num_tasks not in allowed:
        nearest = min(allowed, key=lambda n: abs(n - num_tasks))
        raise ValueError(
            f"expected a number of tasks into which {num_classes} classes divide, two or more in "
            f"each, such as {nearest}, got {num_tasks}"
        )
    size = num_classes // num_tasks
    return tuple(tuple(range(i * size, (i + 1) * size)) for i in range(num_tasks))


def updates_per_task(
    labels: np.ndarray, tasks: Tasks, *, num_passes: int, batch_size: int
) -> tuple[int, ...]:
    """Updates in which every example of a task is seen num_passes times, for each task.

    Rounded up to whole batches; the last one begins a further pass.
    Raises:
      ValueError: for a task without examples.
    """
    sizes = [int(np.isin(labels, classes).sum()) for classes in tasks]
    if 0 in sizes:
        empty = tasks[sizes.index(0)]
        raise ValueError(f"expected examples of the classes {list(empty)}, got none")
    return tuple(-(-num_passes * size // batch_size) for size in sizes)


class Scores(NamedTuple):
    """What a classifier knows after each of T tasks, or at one stage: trained on all of them.

    matrix: [stages, T], accuracy after stage i on the classes of task j, one decision over all.
    within: [stages, T], the same where the decision is among the classes of task j alone.
    final: accuracy after the last stage on all examples. mean_of_tasks: mean of the last row.
    final_within: mean of the last row of `within`.
    forgetting: mean over all tasks but the last of the highest accuracy before the last stage minus
        that after it (Chaudhry et al. 2018, arXiv 1801.10112, section 3); None for one stage.
    centered: accuracy after the last stage where the mean logit of each class over these examples
        is taken off it: what offsets between the classes cost. No classifier, as it sees them all.
    confusion: int [classes, classes], after the last stage: examples by (label, decision).
    mean_energy: [stages, classes], minus the mean logit of each class over all examples.
    mean_energy_of_own: [stages, classes], the same over the examples of that class.
    """

    matrix: np.ndarray
    within: np.ndarray
    final: float
    mean_of_tasks: float
    final_within: float
    forgetting: float | None
    centered: float
    confusion: np.ndarray
    mean_energy: np.ndarray
    mean_energy_of_own: np.ndarray


def scores(logits: np.ndarray, labels: np.ndarray, tasks: Tasks) -> Scores:
    """See `Scores`.

    Args:
      logits: of held-out examples, [stages, n, classes], stages T or 1; minus the energies.
      labels: int [n]. tasks: classes of each, disjoint.
    Raises:
      ValueError: for logits of another shape, and for a class without an example.
    """
    stages, number, num_classes = logits.shape
    if stages not in (1, len(tasks)) or number != len(labels):
        raise ValueError(
            f"logits: expected [{len(tasks)} tasks or 1, {len(labels)} examples, classes], got the "
            f"shape {list(logits.shape)}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    if missing := [y for y in range(num_classes) if not counts[y]]:
        raise ValueError(f"expected held-out examples of every class, got none of {missing[0]}")
    decision = logits.argmax(-1)
    matrix, within = np.zeros((2, stages, len(tasks)))
    for j, classes in enumerate(tasks):
        is_here, members = np.isin(labels, classes), np.asarray(classes)
        among = members[logits[:, is_here][..., members].argmax(-1)]
        matrix[:, j] = (decision[:, is_here] == labels[is_here]).mean(1)
        within[:, j] = (among == labels[is_here]).mean(1)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, decision[-1]), 1)
    centered = (logits[-1] - logits[-1].mean(0)).argmax(-1)
    forgotten = None if stages == 1 else matrix[:-1].max(0) - matrix[-1]
    of_own = [-logits[:, labels == y, y].mean(1) for y in range(num_classes)]
    return Scores(
        matrix=matrix,
        within=within,
        final=float((decision[-1] == labels).mean()),
        mean_of_tasks=float(matrix[-1].mean()),
        final_within=float(within[-1].mean()),
        forgetting=None if forgotten is None else float(forgotten[:-1].mean()),
        centered=float((centered == labels).mean()),
        confusion=confusion,
        mean_energy=-logits.mean(1),
        mean_energy_of_own=np.stack(of_own, 1),
    )
