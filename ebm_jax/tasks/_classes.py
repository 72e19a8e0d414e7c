"""What the modes that classify share: energies of classes, and the softmax network beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data
from ebm_jax.evaluation.classification.softmax import SoftmaxClassifier, softmax_classifier
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import build
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import _updates

ENERGIES, SOFTMAX = "energies", "softmax network"
BASELINES = ("same", "plain", "none")

# Of the fields of both modes' Settings.
BASELINE = (
    "softmax network beside the energies: same architecture with its spectral norm; plain: without"
)
BASELINE_STEPS = "updates of the softmax network; 0: as many as the run's"


def checked_classes(trained: TrainedRun, mode: str) -> int:
    """The number of classes of a model.

    Raises:
      ValueError: one line, for a model without.
    """
    num_classes = trained.run.method.densities(trained.params).num_classes
    if not num_classes:
        raise ValueError(
            f"--mode={mode}: expected a model with an energy per class (network.num_classes), "
            f"got {type(trained.run.method).__name__} without classes; "
            "configs/digits_igebm.py:conditional is one with"
        )
    return num_classes


def examples(run: build.Run, stored: np.ndarray) -> np.ndarray:
    """Stored examples in model units, images or vectors, float32."""
    if run.has_images:
        return run.scale(stored)
    scaled = data.scale_points(stored, run.dataset.value_range, run.data.low, run.data.high)
    return np.asarray(scaled, np.float32)


def class_logits(trained: TrainedRun) -> Callable[[Any, jax.Array], jax.Array]:
    """(params, x [batch, ...]) -> minus the energies at the lowest level, [batch, classes]."""
    lowest = jnp.zeros((), jnp.int32)
    return lambda params, x: -trained.run.method.densities(params).class_energies(lowest, x)


def train_softmax(
    trained: TrainedRun, work: ResumableWork, baseline: str, num_steps: int
) -> tuple[SoftmaxClassifier, Any] | None:
    """(the softmax network, its EMA parameters); None for baseline 'none'.

    Trained as the run was: its batches, preprocessing, optimizer, EMA and key; resumable.
    baseline: of BASELINES. num_steps: 0: those of the run.
    Raises:
      ValueError: for a network that has no head for classes, or where training diverges.
    """
    if baseline == "none":
        return None
    run = trained.run
    network = getattr(run.method, "network", None)
    if network is None:
        raise ValueError(
            f"baseline: expected 'none', as {type(run.method).__name__} is no method of one network"
        )
    classifier = softmax_classifier(network, has_norm=baseline == "same")
    params = _updates.train_beside(
        trained,
        work,
        classifier,
        name=SOFTMAX,
        piece="softmax",
        depends_on={"baseline": baseline},
        num_steps=num_steps,
        shown=("loss", "accuracy"),
    )
    return classifier, params


def num_parameters(params: Any) -> int:
    """Numbers in a tree of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
