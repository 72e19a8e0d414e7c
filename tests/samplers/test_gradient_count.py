"""How many gradients a run really computes, counted while it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers


class Counted:
    """x^2 / 2 whose forward and backward passes count themselves.

    The counting calls are pure to the compiler, so those whose results nobody reads disappear as
    an ordinary energy's work would.
    """

    def __init__(self):
        self.energies = self.gradients = 0

        def count_energy(x):
            self.energies += 1
            return np.asarray(0.5 * np.sum(np.square(x), axis=1), np.float32)

        def count_gradient(x):
            self.gradients += 1
            return np.asarray(x)

        @jax.custom_vjp
        def energy_fn(x):
            return jax.pure_callback(count_energy, jax.ShapeDtypeStruct(x.shape[:1], x.dtype), x)

        def backward(x, cotangent):
            grad = jax.pure_callback(count_gradient, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
            return (grad * cotangent[:, None],)

        energy_fn.defvjp(lambda x: (energy_fn(x), x), backward)
        self.energy_fn = energy_fn

    def run(self, fn):
        x0 = jnp.ones((4, 3))
        jax.block_until_ready(jax.jit(fn)(jax.random.key(0), x0))
        return self.gradients


def positions_only(make_kernel, num_steps, **options):
    def fn(counted):
        def run(key, x):
            kernel = make_kernel(counted.energy_fn)
            state, info = samplers.run_chain(key, kernel, x, num_steps, **options)
            return state.x, info.kept

        return run

    return fn


@pytest.mark.parametrize("num_steps", [1, 2, 30])
def test_langevin_costs_one_gradient_per_step(num_steps):
    counted = Counted()
    run = positions_only(lambda e: samplers.langevin(e, 0.1), num_steps)(counted)
    assert counted.run(run) == num_steps


def test_energies_that_nobody_reads_are_not_computed():
    counted = Counted()
    counted.run(positions_only(lambda e: samplers.langevin(e, 0.1), 30)(counted))
    assert counted.energies == 0


def test_kept_positions_do_not_cost_more():
    counted = Counted()
    run = positions_only(lambda e: samplers.langevin(e, 0.1), 30, keep_every=10)(counted)
    assert counted.run(run) == 30


def test_energy_and_norms_of_the_last_step_are_free():
    counted = Counted()

    def run(key, x):
        state, info = samplers.run_chain(key, samplers.langevin(counted.energy_fn, 0.1), x, 30)
        return state.x, info

    assert counted.run(run) == 30


def test_the_last_state_costs_one_more():
    counted = Counted()

    def run(key, x):
        return samplers.run_chain(key, samplers.langevin(counted.energy_fn, 0.1), x, 30)[0]

    assert counted.run(run) == 31


def test_metropolis_kernels():
    counted = Counted()
    assert counted.run(positions_only(lambda e: samplers.mala(e, 0.1), 10)(counted)) == 11
    counted = Counted()
    assert counted.run(positions_only(lambda e: samplers.hmc(e, 0.1, 4), 10)(counted)) == 41


def test_presets_and_schedules_cost_one_gradient_per_step():
    counted = Counted()
    igebm = positions_only(lambda e: samplers.igebm_langevin(e, 0.1, max_grad=0.01), 12)
    assert counted.run(igebm(counted)) == 12
    counted = Counted()

    def run(key, x):
        def make_kernel(t):
            return samplers.mdsm_langevin(counted.energy_fn, t)

        return samplers.run_schedule(key, make_kernel, jnp.linspace(1.0, 0.0, 6), x, 3)[0].x

    assert counted.run(run) == 18
