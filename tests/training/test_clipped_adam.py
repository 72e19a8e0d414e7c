import jax
import jax.numpy as jnp
import numpy as np
import optax
from reference_files import assert_close, below, load_reference

from ebm_jax.training.clipped_adam import ClippedAdamState, igebm_adam, scale_by_clipped_adam


def run(optimizer, params, grads):
    """Parameters and optimiser state after each gradient."""
    state, history = optimizer.init(params), []
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


def test_igebm_adam_clips_each_element_by_its_running_magnitude():
    grads = np.random.default_rng(0).normal(size=(6, 5)) * [1e-3, 0.05, 0.3, 3.0, 100.0]
    options = {"b1": 0.4, "b2": 0.9, "eps": 1e-3, "clip_factor": 2.0, "clip_offset": 0.2}
    history = run(igebm_adam(0.01, **options), jnp.ones(5), jnp.asarray(grads, jnp.float32))

    p, m, v, num_clipped = np.ones(5), np.zeros(5), np.zeros(5), 0
    for t, g in enumerate(grads, start=1):
        bound = 2.0 * np.sqrt(v / (1 - 0.9**t)) + 0.2
        num_clipped += np.sum(np.abs(g) > bound)
        g = np.clip(g, -bound, bound)
        m, v = 0.4 * m + 0.6 * g, 0.9 * v + 0.1 * g**2
        p = p - 0.01 * np.sqrt(1 - 0.9**t) / (1 - 0.4**t) * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(history[t - 1][0], p, rtol=2e-6)
    assert 5 < num_clipped < 25  # both branches


def test_igebm_adam_without_clipping_is_adam_but_for_where_epsilon_stands():
    grads = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
    ours = run(igebm_adam(0.1, b1=0.5, b2=0.99, eps=0.0, clip_offset=1e9), jnp.zeros(4), grads)
    adam = run(optax.adam(0.1, b1=0.5, b2=0.99, eps=0.0), jnp.zeros(4), grads)
    np.testing.assert_allclose(ours[-1][0], adam[-1][0], atol=1e-6)


def test_igebm_adam_takes_a_schedule():
    schedule = optax.linear_schedule(0.0, 1.0, 2)
    history = run(igebm_adam(schedule, clip_offset=1e9), jnp.zeros(1), jnp.ones((3, 1)))
    np.testing.assert_allclose([h[0][0] for h in history], [0.0, -0.5, -1.5], atol=1e-5)


def test_usual_constants_are_those_of_the_published_code():
    """The first step: a tiny gradient beside epsilon, 1e-8; a large one is clipped at .1."""
    g = np.array([1e-6, 5.0])
    ((step, _),) = run(igebm_adam(1.0), jnp.zeros(2), [jnp.asarray(g, jnp.float32)])
    ((usual, _),) = run(igebm_adam(), jnp.zeros(2), [jnp.asarray(g, jnp.float32)])
    np.testing.assert_allclose(usual, 3e-4 * step, rtol=1e-5)
    # v is 0 when the bound is computed, so that only the offset counts.
    g = np.minimum(g, 0.1)
    size = np.sqrt(1 - 0.999)
    np.testing.assert_allclose(step, -size * g / (size * g + 1e-8), rtol=1e-4)
    steady = [jnp.full(1, 0.01)] * 3 + [jnp.full(1, 9.0)]
    before, after = (h[1] for h in run(igebm_adam(1.0), jnp.zeros(1), steady)[-2:])
    nu = float(jax.tree.leaves(before, is_leaf=is_moments)[0].nu[0])
    bound = 3 * np.sqrt(nu / (1 - 0.999**4)) + 0.1
    clipped = jax.tree.leaves(after, is_leaf=is_moments)[0].mu[0]
    np.testing.assert_allclose(clipped, bound, rtol=1e-4)
    grads = jnp.asarray([[1e-6, 5.0], [1e-2, 9.0]])
    descent = optax.chain(scale_by_clipped_adam(), optax.scale(-1.0))
    (*_, alone), (*_, whole) = (run(o, jnp.zeros(2), grads) for o in (descent, igebm_adam(1.0)))
    np.testing.assert_array_equal(alone[0], whole[0])


def is_moments(node):
    return isinstance(node, ClippedAdamState)


def test_igebm_adam_against_the_published_code():
    reference = below(load_reference("igebm"), "adam")
    hp = below(reference, "hp")
    optimizer = igebm_adam(
        float(hp["lr"]),
        b1=float(hp["beta1"]),
        b2=float(hp["beta2"]),
        eps=float(hp["eps"]),
        clip_factor=float(hp["clip_factor"]),
        clip_offset=float(hp["clip_offset"]),
    )
    params = jnp.asarray(reference["p_init"])
    history = run(optimizer, params, jnp.asarray(reference["grads"]))
    for step, (params, (adam, *_)) in enumerate(history):
        assert isinstance(adam, ClippedAdamState)
        assert_close(params, reference["p"][step], 1e-6, f"p after step {step}")
        assert_close(adam.mu, reference["m"][step], 1e-5, f"m after step {step}")
        assert_close(adam.nu, reference["v"][step], 1e-5, f"v after step {step}")
