"""Temperature ladders of equal rejection: a closed form, and where Gaussians lead them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers import ladder

KEY = jax.random.key(0)


def test_the_barrier_is_divided_equally():
    """With pairs refused in proportion to the distance in 1 / T, 1 / T becomes equidistant."""
    temperatures = jnp.array([1.0, 1.5, 3.0, 10.0])
    inverse = 1 / np.asarray(temperatures)
    found = samplers.equal_rejection(temperatures, jnp.asarray(0.5 * -np.diff(inverse)))
    np.testing.assert_allclose(1 / found, np.linspace(1, 0.1, 4), rtol=1e-5)
    kept = samplers.equal_rejection(temperatures, jnp.full(3, 0.3))
    np.testing.assert_allclose(kept, temperatures, rtol=1e-5)


def test_a_ladder_that_was_never_refused_stays():
    """Its pairs are all alike, also where a rounded acceptance lies above 1."""
    temperatures = jnp.array([8.0, 2.0, 1.5, 0.5])
    for rejection in (jnp.zeros(3), jnp.array([-1e-7, 0.0, -1e-7])):
        found = samplers.equal_rejection(temperatures, rejection)
        np.testing.assert_allclose(found, temperatures, rtol=1e-5)
    found = samplers.equal_rejection(temperatures, jnp.array([0.6, 0.0, 0.0]))
    inverse = 1 / np.asarray(temperatures[:2])  # all of the barrier lies between the first two
    np.testing.assert_allclose(
        1 / found[1:3], inverse[0] + np.diff(inverse)[0] * np.array([1, 2]) / 3, rtol=1e-4
    )
    assert (found[0], found[3]) == (8.0, 0.5)
    found = samplers.equal_rejection(temperatures, jnp.array([1.5e-6, 0.0, 0.0]))
    wanted = np.interp(np.linspace(0, 3.5, 4), [0, 1.5, 2.5, 3.5], 1 / np.asarray(temperatures))
    np.testing.assert_allclose(1 / found, wanted, rtol=1e-4)  # at least 1e-6 each
    half = samplers.equal_rejection(temperatures.astype(jnp.bfloat16), jnp.full(3, 0.3))
    assert half.dtype == jnp.bfloat16


def test_gaussians_lead_to_a_geometric_ladder():
    """The overlap of N(0, T I) and N(0, T' I) depends on T / T' alone."""

    def energy(x):
        return 0.5 * jnp.sum(x**2, axis=1)

    def make_replica(energy_fn, temperature):  # one function: rounds share a compiled program
        return samplers.mala(energy_fn, 0.3 * temperature, temperature=temperature)

    def make_kernel(temperatures):
        return samplers.parallel_tempering(energy, temperatures, make_replica)

    x = jax.random.normal(KEY, (100, 4))
    found = samplers.adapt_temperatures(
        KEY, make_kernel, x, [1.0, 1.1, 1.3, 8.0, 16.0], num_rounds=7, num_steps=10
    )
    ratios = np.asarray(found.temperatures[1:] / found.temperatures[:-1])
    np.testing.assert_allclose(ratios, 2.0, rtol=0.1)
    assert np.ptp(found.rejection) < 0.06
    assert (found.temperatures[0], found.temperatures[-1]) == (1, 16)
    np.testing.assert_array_equal(found.state.num_rounds, 10 * 127)  # each round twice the last
    state, info = samplers.run_chain(KEY, make_kernel(found.temperatures), found.state, 10)
    np.testing.assert_allclose(1 - info.swap_acceptance.mean(0), found.rejection, atol=0.08)
    assert float(state.x.std()) == pytest.approx(1, abs=0.1)


def test_every_round_but_the_last_makes_a_new_ladder(monkeypatch):
    rounds = []

    def compiled(function, args, *, num_steps):
        rounds.append((*args, num_steps))
        return f"state {len(rounds)}", f"rejection {len(rounds)}"

    monkeypatch.setattr(ladder, "compiled", compiled)
    monkeypatch.setattr(ladder, "start", lambda rng_key, kernel, x, first: (kernel, x, first))
    monkeypatch.setattr(ladder, "equal_rejection", lambda temperatures, said: (temperatures, said))
    found = samplers.adapt_temperatures(
        KEY, lambda t: ("kernel", t), "x", [1.0, 2.0, 4.0], num_rounds=3, num_steps=5
    )
    keys, kernels, states, pieces, counts = zip(*rounds, strict=True)
    assert keys == tuple(samplers.random.fold_in(KEY, n) for n in range(3))
    (_, first), (_, second), (_, third) = kernels
    np.testing.assert_array_equal(first, [1, 2, 4])
    assert isinstance(first, jax.Array)
    assert second == (first, "rejection 1")
    assert third == (second, "rejection 2")
    np.testing.assert_array_equal(states[0][0][1], first)
    assert states[0][1:] == ("x", None)
    assert states[1:] == ("state 1", "state 2")
    assert (*map(int, pieces), *counts) == (1, 2, 4, 5, 5, 5)
    assert found == (third, "rejection 3", "state 3")


class SwapInfo(NamedTuple):
    """What a round looks at."""

    swap_acceptance: jax.Array
    displacement: jax.Array


def test_a_round_is_a_run_whose_exchanges_are_averaged():
    """Of a kernel that adds its uniform numbers and says them: three times two steps."""

    def step(rng_key, state):
        u = samplers.random.uniform(rng_key, state.chain, ())
        said = SwapInfo(jnp.stack([u, u / 4], axis=1), u)
        return state._replace(x=state.x + u[:, None]), said

    chain = jnp.array([4, 5])
    state = samplers.State(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros((2, 1)), chain)
    kernel = samplers.Kernel(lambda x: state, step)
    end, rejection = ladder._round(KEY, kernel, state, jnp.int32(3), num_steps=2)
    keys = [samplers.random.fold_in(KEY, n) for n in range(6)]
    u = np.stack([samplers.random.uniform(key, chain, ()) for key in keys])
    np.testing.assert_allclose(end.x[:, 0], u.sum(0), rtol=1e-6)
    np.testing.assert_allclose(rejection, 1 - np.array([u.mean(), u.mean() / 4]), rtol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match=r"three of which the ends stay, got shape \(2,\)"):
        samplers.adapt_temperatures(KEY, None, jnp.zeros((2, 1)), [1.0, 2.0])
    for shape in ((3, 2), ()):
        with pytest.raises(ValueError, match=r"expected temperatures \[replicas\]") as refused:
            samplers.adapt_temperatures(KEY, None, jnp.zeros((2, 1)), np.ones(shape))
        assert str(refused.value).endswith(f"the ends stay, got shape {shape}")
    with pytest.raises(ValueError, match="num_rounds"):
        samplers.adapt_temperatures(KEY, None, jnp.zeros((2, 1)), [1, 2, 3], num_rounds=0)
