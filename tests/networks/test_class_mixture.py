"""The mixture of a conditional network's classes, against the classes one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_in_numpy import random_params

from ebm_jax import networks


def conditional(num_classes):
    """(network, normalized parameters) of so many classes."""
    network = networks.IgebmResNet(
        image_size=4,
        channels=1,
        width=3,
        multipliers=(1,),
        num_blocks=(1,),
        num_classes=num_classes,
    )
    params = random_params(network, np.array([0]))
    return network, networks.normalize_params(network, params)[0]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_is_minus_the_log_of_the_mean_over_the_classes(scale):
    """-log mean_y exp(-scale E(x, y)), its gradients in x and in the parameters too."""
    network, params = conditional(4)
    x = jax.random.uniform(jax.random.key(0), (3, 4, 4, 1))
    scaled = {} if scale == 1 else {"scale": scale}  # 1 by default

    def in_one(params, x):
        return networks.class_mixture(network, params, 4, **scaled)(x)

    def one_by_one(params, x):
        energies = [networks.bind(network, params, y, scale=scale)(x) for y in range(4)]
        return -jnp.log(jnp.mean(jnp.exp(-jnp.stack(energies)), axis=0))

    def everything(fn):
        total = lambda params, x: fn(params, x).sum()  # noqa: E731
        return jax.jit(lambda: (fn(params, x), jax.grad(total, (0, 1))(params, x)))()

    found, wanted = everything(in_one), everything(one_by_one)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
    spread = [networks.bind(network, params, y, scale=scale)(x) for y in range(4)]
    assert np.std(spread, axis=0).min() > 0.01  # the classes differ


def test_energies_far_apart_do_not_overflow():
    network, params = conditional(2)
    x = jnp.ones((2, 4, 4, 1))
    energy_fn = networks.class_mixture(network, params, 2, scale=1e4)
    grad = jax.grad(lambda x: energy_fn(x).sum())
    assert np.isfinite(energy_fn(x)).all()
    assert np.isfinite(grad(x)).all()


def test_its_program_does_not_grow_with_the_number_of_classes():
    def num_equations(num_classes):
        network, params = conditional(num_classes)
        fn = networks.class_mixture(network, params, num_classes)
        grad = jax.grad(lambda x: fn(x).sum())
        return str(jax.make_jaxpr(grad)(jnp.ones((1, 4, 4, 1)))).count(" = ")

    assert num_equations(3) == num_equations(40) > 50
