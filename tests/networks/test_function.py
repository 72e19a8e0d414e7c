"""A plain function of (params, x) as a network: its parameters, energies, and every method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax import networks
from ebm_jax.data.moments import Moments
from ebm_jax.methods.registry import METHODS
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step

KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (128, 3)), jnp.float32)


def quadratic(params, x, condition=0):
    (center, [scale]) = params
    level = jnp.asarray(condition, jnp.float32)
    return 0.5 * scale * jnp.sum((x - center) ** 2, axis=1) + 0.1 * level


def init_params(rng_key):
    """A tuple with a list in it: any pytree will do."""
    return jax.random.normal(rng_key, (3,)), [jnp.ones(())]


def network():
    return networks.FunctionNetwork(quadratic, init_params, input_shape=(3,))


def test_energies_are_those_of_the_function():
    params = network().init(KEY, X)["params"]
    given = params["energy"]
    assert jax.tree.structure(given) == jax.tree.structure(init_params(KEY))
    energy_fn = networks.make_energy_fn(network(), params)
    np.testing.assert_array_equal(energy_fn(X), quadratic(given, X))
    at_level = networks.make_energy_fn(network(), params, jnp.array(2))
    np.testing.assert_array_equal(at_level(X), quadratic(given, X, 2))


def test_parameters_that_exist_already():
    ready = jnp.array([1.0, 2.0, 3.0]), [jnp.array(4.0)]
    made = networks.FunctionNetwork(quadratic, lambda rng_key: ready, (3,))
    params = made.init(KEY, X)["params"]
    np.testing.assert_array_equal(made.apply({"params": params}, X), quadratic(ready, X))


def test_an_energy_of_another_shape_is_refused():
    wrong = networks.FunctionNetwork(lambda params, x: x**2, lambda rng_key: (), (3,))
    with pytest.raises(ValueError, match=r"expected energies of shape \(128,\).*got \(128, 3\)"):
        wrong.init(KEY, X)


def test_one_x_may_meet_many_conditions():
    """An energy for each of them, whether they are numbers or vectors."""
    made = networks.FunctionNetwork(
        lambda params, x, condition: jnp.sum(x, 1) + jnp.sum(jnp.atleast_2d(condition.T), 0),
        lambda rng_key: (),
        (3,),
    )
    vectors = jnp.arange(10.0).reshape(5, 2)
    for condition in (vectors[:, 0], vectors):
        for x in (X[:1], X[:5]):
            found = made.apply({"params": {"energy": ()}}, x, condition)
            wanted = x.sum(1) + condition.reshape(5, -1).sum(1)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected energies of shape \(5,\).*got \(2,\)"):
        networks.FunctionNetwork(lambda params, x, c: c[0], lambda _: (), (3,)).apply(
            {"params": {"energy": ()}}, X[:1], vectors
        )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_it(name):
    """Two steps change the parameters; all remains finite; samples have the input's shape."""
    cls = METHODS[name]
    known = {"low": -1.0, "high": 1.0, "data_moments": Moments(np.zeros(3), np.eye(3))}
    fields = {name: value for name, value in known.items() if name in cls.__dataclass_fields__}
    method = cls(network(), **fields)
    optimizer = optax.sgd(1e-2)
    batch = {"image": X, "label": jnp.zeros(128, jnp.int32)}
    state = init_train_state(KEY, method, optimizer, batch)
    step_fn = jax.jit(make_train_step(method, optimizer, rng_key=KEY, ema_decay=0.9))
    first = state.params
    for _ in range(2):
        state, metrics = step_fn(state, batch)
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first, state.params)
    assert max(jax.tree.leaves(moved)) > 0
    energies = method.densities(state.ema_params).energy(jnp.array(0))(X)
    assert np.isfinite(energies).all()
    assert jax.eval_shape(method.sample, state.params, KEY, jnp.arange(4)).shape == (4, 3)
