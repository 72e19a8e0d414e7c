"""The code on docs/samplers.md runs as it stands and says what is true."""

import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ebm_jax import samplers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "samplers.md"
SECTIONS = {
    part.split("\n", 1)[0].strip(): re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL)
    for part in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
}


FRAGMENTS = {"`ebm_jax.samplers`", "Running", "Determinism and devices"}


def what_fragments_take_for_granted():
    """An energy, a start and keys; the complete examples must bring their own."""
    return {
        "PartitionSpec": PartitionSpec,
        "NamedSharding": NamedSharding,
        "energy_fn": lambda x: 0.5 * jnp.sum(x**2, axis=1),
        "functools": functools,
        "jax": jax,
        "jnp": jnp,
        "mesh": Mesh(np.array(jax.devices()[:8]), ("devices",)),
        "rng_key": jax.random.key(0),
        "another_key": jax.random.key(1),
        "samplers": samplers,
        "x0": jnp.ones((8, 2)),
    }


def run(title):
    """Executes the section's blocks in order and returns the names they leave behind."""
    names = what_fragments_take_for_granted() if title in FRAGMENTS else {}
    for number, block in enumerate(SECTIONS[title]):
        exec(compile(block, f"{title}, block {number}", "exec"), names)
    return names


def check_mixture(names):
    share = names["share"]
    truth = 0.8 * 0.99865 + 0.2 * 0.00135  # the normal distribution function at 3
    assert abs(share.mean - truth) < 4 * share.mcse_mean
    assert share.mcse_mean < 0.02
    assert share.r_hat < 1.05
    result = names["result"]
    assert abs(names["log_z"] - math.log(2 * math.pi)) < 4 * result.standard_error


def check_logistic_regression(names):
    """Under exp(-E), E[grad E] = 0 and E[x . grad E] = 1 per coefficient, whatever E."""
    summary, posterior = names["summary"], names["posterior"]
    assert summary.r_hat["slope"].max() < 1.03
    assert summary.r_hat["intercept"] < 1.03
    assert names["accuracy"] > 0.97
    slope, intercept = (np.asarray(posterior[k], np.float64) for k in ("slope", "intercept"))
    features, sign = np.asarray(names["features"]), np.asarray(names["sign"])
    margins = sign * (slope @ features.T + intercept[..., None])
    residual = -sign / (1 + np.exp(margins))
    grad = residual @ features + slope
    for values, expected in ((grad, 0.0), (slope * grad, 1.0)):
        error = names["samplers"].mcse_mean(jnp.asarray(values, jnp.float32))
        assert (np.abs(values.mean(axis=(0, 1)) - expected) < 4.5 * error).all()  # 30 of them


def check_sum_of_energies(names):
    """Ring times band on a grid: mean (1.603, 1.038), sd (0.30, 0.21) on the right."""
    x = np.asarray(names["state"].x)
    right = x[x[:, 0] > 0]
    assert np.mean(x[:, 1] < 0) < 0.02
    assert 0.2 < len(right) / len(x) < 0.8
    np.testing.assert_allclose(right.mean(axis=0), [1.603, 1.038], atol=0.2)
    assert (right.std(axis=0) < 0.6).all()


def check_normalising_constants(names):
    truth = 5 * math.log(0.04)
    forward, reverse = names["forward"], names["reverse"]
    assert abs(forward.log_z - truth) < 4 * forward.standard_error
    assert abs(reverse.log_z + truth) < 4 * reverse.standard_error


def check_replay_buffer(names):
    assert names["state"].size.sum() == 3 * 128
    assert 0.8 < names["share_replayed"] <= 1.0


def check_blackjax(names):
    sd = names["info"].kept[50:].std(axis=(0, 1))
    np.testing.assert_allclose(sd, [1.0, 2.0], rtol=0.1)
    assert names["draws"].shape == (200, 2)


def check_fragment(names):
    """Whatever the fragments computed is finite."""
    arrays = [leaf for leaf in jax.tree.leaves(names) if isinstance(leaf, jax.Array)]
    real = [leaf for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert real
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in real)


def check_running(names):
    """The fragments' kernels run on: their chains moved and were accepted now and then."""
    check_fragment(names)
    assert names["info"].acceptance.mean() > 0.4
    assert names["info"].is_finite.all()
    assert names["found"].step_size > 0


def check_devices(names):
    check_fragment(names)
    assert len(names["x0"].sharding.device_set) == 8


CHECKS = {
    "`ebm_jax.samplers`": check_fragment,
    "Running": check_running,
    "Determinism and devices": check_devices,
    "Normalising constants": check_normalising_constants,
    "Replay buffer": check_replay_buffer,
    "BlackJAX, both ways": check_blackjax,
    "Example: a mixture in two dimensions": check_mixture,
    "Example: Bayesian logistic regression": check_logistic_regression,
    "Example: the sum of two trained energies": check_sum_of_energies,
}


@pytest.mark.parametrize("title", [title for title, blocks in SECTIONS.items() if blocks])
def test_code_of_the_page(title):
    CHECKS[title](run(title))


def test_every_check_has_its_section():
    assert FRAGMENTS <= set(CHECKS) <= set(SECTIONS)
