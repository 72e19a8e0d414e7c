"""A model's samples are its objective's; paths end in them; scores are energies of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from reference_files import jit_once

from ebm_jax.diffusion import make_schedule, q_sample
from ebm_jax.evaluation.interpolation import sample_paths
from ebm_jax.evaluation.model import Restoration, annealed_model, chain_model, recovery_model
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.contrastive_divergence import igebm, igebm_kernel
from ebm_jax.objectives.denoising_score_matching import denoising_score_matching
from ebm_jax.samplers import random

KEY = jax.random.key(3)
X = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
INDEX = np.arange(3)
TEMPERATURES = np.array([4.0, 2.0, 1.0, 0.0])
SCHEDULE = make_schedule(3)
STEPS = {"step_scale": 1e-2, "step_growth": 1.0}
CHAIN = {"step_size": 0.1, "noise_std": 0.05, "max_grad": 0.5, "max_batch_norm": None}
BOX = {"low": 0.0, "high": 1.0}


class Bowl(nn.Module):
    """scale (1 + condition) |x - centre|^2 / 2, with its condition and without."""

    num_classes: int | None = None
    input_shape = (2, 2, 1)

    @nn.compact
    def __call__(self, x, condition=None):
        scale = self.param("scale", nn.initializers.constant(2.0), ())
        condition = 0 if condition is None else condition
        return scale * (1 + condition) * jnp.sum((x - 0.25) ** 2, (1, 2, 3)) / 2


PARAMS = {"scale": jnp.asarray(2.0)}


def recovery_pair():
    objective = recovery.recovery_likelihood(Bowl(), SCHEDULE, num_steps=3, **STEPS)
    model = recovery_model(
        Bowl(), PARAMS, SCHEDULE, recovery.energy_scale(SCHEDULE, **STEPS),
        recovery.langevin_per_level(SCHEDULE, noise_scale=0.99, **STEPS), num_steps=3,
    )  # fmt: skip
    return objective, model


def chain_pair(num_classes=None):
    module = Bowl(num_classes)
    model = chain_model(
        module, PARAMS, igebm_kernel(**CHAIN, **BOX),
        num_steps=4, temperature=1.0, start_noise="uniform", **BOX,
    )  # fmt: skip
    return igebm(module, num_steps=4, **CHAIN, **BOX), model


def annealed_pair():
    options = {"step_size": 0.1, "target_sigma": 0.2}
    objective = denoising_score_matching(
        Bowl(), [0.1, 1.0], batch_size=2, temperatures=TEMPERATURES, **options
    )
    return objective, annealed_model(Bowl(), PARAMS, TEMPERATURES, centre=0.5, **options)


PAIRS = {"levels": recovery_pair, "chain": chain_pair, "annealed": annealed_pair,
         "classes": lambda: chain_pair(2)}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_samples_are_the_objectives_and_paths_end_in_them(name):
    objective, model = PAIRS[name]()
    samples = jit_once(lambda: objective.sample(KEY, PARAMS, 4))()
    paths = jax.tree.map(jnp.asarray, sample_paths(2, 3))
    plain, found = jit_once(lambda *chains: [model.generate(KEY, chain) for chain in chains])(
        jnp.arange(4), paths
    )
    np.testing.assert_allclose(plain, samples, rtol=1e-6, atol=1e-6)
    if name != "classes":  # there a path has the class of its first end
        np.testing.assert_allclose(found[jnp.array([0, 2, 3, 5])], samples, rtol=1e-6, atol=1e-6)
        assert np.min(np.abs(found[1] - samples[0])) > 1e-4


@pytest.mark.parametrize("name", PAIRS)
def test_inpainting_keeps_what_is_known_and_does_not_see_the_rest(name):
    _, model = PAIRS[name]()
    is_known = np.array([[True, False], [False, True]])[..., None]
    label = np.array([0, 1, 1])

    @jit_once
    def fill(x, index):
        return model.inpaint(KEY, x, is_known, index, label, 0, 2)

    filled = np.asarray(fill(X, INDEX))
    known = np.broadcast_to(is_known, X.shape)
    np.testing.assert_array_equal(filled[known], X[known])
    other = np.where(is_known, X, 7.0)
    np.testing.assert_allclose(fill(other, INDEX), filled, rtol=1e-6, atol=1e-6)
    assert np.all(filled[~known] != X[~known])


def test_scores_are_energies_of_the_networks_variable():
    _, model = recovery_pair()
    level = 1
    found = jit_once(lambda: model.score(KEY, jnp.asarray(level), X, INDEX))()
    noise = random.normal(jax.random.fold_in(KEY, level), INDEX, jnp.asarray(X))
    y = np.asarray(SCHEDULE.multiplier[level] * q_sample(SCHEDULE, X, level, noise))
    curvature = 2.0 * (1 + level) * float(recovery.energy_scale(SCHEDULE, **STEPS)[level])
    squares = ((y - 0.25) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(found["energy"], curvature * squares / 2, rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], curvature * np.sqrt(squares), rtol=1e-5)

    squares = ((X - 0.25) ** 2).sum((1, 2, 3))
    for name, energies in (
        ("chain", squares),
        ("annealed", squares),
        ("classes", -np.log((np.exp(-squares) + np.exp(-2 * squares)) / 2)),
    ):
        score = PAIRS[name]()[1].score
        found = jit_once(lambda score=score: score(KEY, jnp.asarray(0), X, INDEX))()
        np.testing.assert_allclose(found["energy"], energies, rtol=1e-5, err_msg=name)


def test_restoring_goes_no_further_than_asked():
    how = Restoration(level=1, num_steps=1, temperature=1.0)
    label = np.zeros(3, np.int32)
    x = np.clip(X, 0, 1)
    for name in ("levels", "chain", "annealed"):
        model = PAIRS[name]()[1]
        restored = jit_once(lambda x, model=model: model.restore(KEY, x, INDEX, label, how))(x)
        assert 0 < np.abs(np.asarray(restored) - x).mean() < 0.6, name
    with pytest.raises(ValueError, match=r"restore.level is 4 and the model has the levels 1 to 3"):
        recovery_pair()[1].restore(KEY, X, INDEX, label, how._replace(level=4))
    with pytest.raises(ValueError, match=r"restore.temperature is -1 and the coolest step has 0"):
        annealed_pair()[1].restore(KEY, X, INDEX, label, how._replace(temperature=-1.0))
