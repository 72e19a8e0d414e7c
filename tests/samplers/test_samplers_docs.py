"""The code on docs/samplers.md runs as it stands, and its results are right."""

import functools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
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


def test_from_a_log_density_in_one_call():
    names = run("From a log density in one call")
    result = names["result"]
    assert result.is_trustworthy, result.summary
    assert names["slope"].shape == (8, 1_000, 3)
    for name, sd in (("slope", 2.0), ("offset", 1.0)):
        found, error = (getattr(result.diagnostics.components, f)[name] for f in ("sd", "mcse_sd"))
        assert (np.abs(found - sd) < 4.5 * error).all()


def test_mixture():
    names = run("Example: a mixture in two dimensions")
    share = names["share"]
    truth = 0.8 * 0.99865 + 0.2 * 0.00135  # the normal distribution function at 3
    assert abs(share.mean - truth) < 4 * share.mcse_mean
    assert share.mcse_mean < 0.02
    assert share.r_hat < 1.05
    result = names["result"]
    assert abs(names["log_z"] - math.log(2 * math.pi)) < 4 * result.standard_error


def test_logistic_regression():
    """Under exp(-E), E[grad E] = 0 and E[x . grad E] = 1 per coefficient, whatever E."""
    names = run("Example: Bayesian logistic regression")
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


def test_sum_of_energies():
    """Ring times band on a grid: mean (1.603, 1.038), sd (0.30, 0.21) on the right."""
    names = run("Example: the sum of two trained energies")
    x = np.asarray(names["state"].x)
    right = x[x[:, 0] > 0]
    assert np.mean(x[:, 1] < 0) < 0.02
    assert 0.2 < len(right) / len(x) < 0.8
    np.testing.assert_allclose(right.mean(axis=0), [1.603, 1.038], atol=0.2)
    assert (right.std(axis=0) < 0.6).all()


def test_normalizing_constants():
    names = run("Normalizing constants")
    truth = 5 * math.log(0.04)
    forward, reverse = names["forward"], names["reverse"]
    assert abs(forward.log_z - truth) < 4 * forward.standard_error
    assert abs(reverse.log_z + truth) < 4 * reverse.standard_error
    result = names["result"]
    assert abs(result.log_z - truth) < 4 * result.standard_error
    assert abs(result.x.std() / 0.2 - 1) < 0.1


def test_replay_buffer():
    names = run("Replay buffer")
    assert names["state"].size.sum() == 3 * 128
    assert 0.8 < names["share_replayed"] <= 1.0


def test_blackjax():
    names = run("Interoperability with BlackJAX")
    sd = names["info"].kept[50:].std(axis=(0, 1))
    np.testing.assert_allclose(sd, [1.0, 2.0], rtol=0.1)
    assert names["draws"].shape == (200, 2)


def assert_finite(names):
    """Whatever the fragments computed."""
    arrays = [leaf for leaf in jax.tree.leaves(names) if isinstance(leaf, jax.Array)]
    real = [leaf for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert real
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in real)


def test_running():
    """The fragments' kernels run on: their chains moved and were accepted now and then."""
    names = run("Running")
    assert_finite(names)
    assert names["info"].acceptance.mean() > 0.4
    assert names["info"].is_finite.all()
    assert names["found"].step_size > 0


def test_devices():
    names = run("Determinism and devices")
    assert_finite(names)
    assert len(names["x0"].sharding.device_set) == 8


def test_first_lines():
    names = run("`ebm_jax.samplers`")
    assert_finite(names)
    assert names["info"].acceptance.mean() > 0.9
    assert 0.5 < names["state"].x.std() < 1.6  # of 16 draws of N(0, 1), from chains all begun at 1


def test_every_section_with_code_is_run_by_a_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert SECTIONS.keys() >= FRAGMENTS
    for title, blocks in SECTIONS.items():
        assert not blocks or f'run("{title}")' in text, f"no test runs the section {title!r}"
