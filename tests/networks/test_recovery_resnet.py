"""The recovery network: its equations in float64, the reference values, sizes, preparation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from reference_files import assert_close, below, load_reference

from ebm_jax import convert, networks
from ebm_jax.networks.recovery_resnet import (
    RecoveryResNet,
    level_embedding,
)

SMALL = RecoveryResNet(image_size=4, channels=2, width=4, multipliers=(1, 2), num_blocks=1)
LEVEL = np.array([0, 3, 5])


@pytest.fixture(scope="module")
def weights():
    """Flat float32 weights, of a size at which every one of them matters."""
    return plain.random_weights(SMALL)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).normal(size=(3, *SMALL.input_shape)).astype(np.float32)


@pytest.fixture(scope="module")
def prepared_and_direct(weights, x):
    """(E, dE/dx) of the prepared energy and of module.apply, for levels of one each and for one."""
    params = plain.as_tree(weights)

    def with_gradient(energy_fn):
        value, vjp = jax.vjp(energy_fn, x)
        return value, vjp(jnp.ones_like(value))[0]

    def everything(params, level):
        normalized, _ = networks.normalize_params(SMALL, params)
        return {
            "prepared": with_gradient(networks.make_energy_fn(SMALL, params, level)),
            "direct": with_gradient(lambda x: SMALL.apply({"params": normalized}, x, level)),
            "one level": with_gradient(networks.make_energy_fn(SMALL, params, level[1])),
        }

    return jax.jit(everything)(params, LEVEL)


def numpy_energy(weights):
    normalized = plain.normalize(weights, plain.singular_vectors(weights))
    return lambda x, level: plain.network(normalized, x, level, multipliers=(1, 2), num_blocks=1)


def test_energy_and_its_gradient_are_the_equations(weights, x, prepared_and_direct):
    wanted = numpy_energy(weights)
    actual, gradient = prepared_and_direct["prepared"]
    assert_close(actual, wanted(x, LEVEL), 2e-5, "E")
    slope = plain.input_gradient(lambda x, example: wanted(x, LEVEL[example]), x)
    assert_close(gradient, slope, 2e-5, "dE/dx")


def test_parameter_gradients_go_through_the_norm_as_the_equations_do(weights, x):
    vectors = {name: np.ones(weights[name].shape[-1]) for name in plain.normalized_names(weights)}

    def total(params):  # vectors far from converged
        return jnp.sum(
            networks.make_energy_fn(
                SMALL, params, LEVEL, power_state={k: jnp.asarray(u) for k, u in vectors.items()}
            )(x)
        )

    def wanted(weights):
        normalized = plain.normalize(weights, vectors)
        return plain.network(normalized, x, LEVEL, multipliers=(1, 2), num_blocks=1).sum()

    grads = plain.as_flat(jax.jit(jax.grad(total))(plain.as_tree(weights)))
    plain.assert_same_slopes(grads, wanted, weights, 1e-4)


def test_prepared_energy_is_the_module_applied(prepared_and_direct):
    for actual, wanted in zip(
        prepared_and_direct["prepared"], prepared_and_direct["direct"], strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_one_level_for_all_is_that_level_for_each(prepared_and_direct):
    for one, each in zip(
        prepared_and_direct["one level"], prepared_and_direct["prepared"], strict=True
    ):
        np.testing.assert_allclose(one[1], each[1], rtol=1e-5, atol=1e-5)


def test_prepared_energy_does_nothing_that_x_does_not_need(weights, x):
    """No level embedding, no norm, no flipped kernel is left to do in each evaluation."""
    params, left, whole = plain.as_tree(weights), [], []

    def inspect(params):
        energy_fn = networks.make_energy_fn(SMALL, params, LEVEL)
        for fn, texts in [
            (energy_fn, left),
            (lambda x: SMALL.apply({"params": params}, x, LEVEL), whole),
        ]:
            texts.append(str(jax.make_jaxpr(jax.grad(lambda x, fn=fn: jnp.sum(fn(x))))(x)))

    jax.eval_shape(inspect, params)
    for operation in (" sin ", " cos ", " rev[", " gather["):
        assert operation in whole[0], operation
        assert operation not in left[0], operation


def test_an_energy_does_not_depend_on_its_neighbours(weights, x, prepared_and_direct):
    params = plain.as_tree(weights)
    alone = jax.jit(lambda x, level: networks.make_energy_fn(SMALL, params, level)(x))
    energies = [alone(x[i : i + 1], LEVEL[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(energies, prepared_and_direct["prepared"][0], rtol=2e-6)


def test_reference_energy_and_gradient():
    reference = load_reference("drl")
    energy_fn = convert.from_reference("drl", below(reference, "w")).energy_fn

    def energy_and_gradient(x, level):
        value, vjp = jax.vjp(lambda x: energy_fn(x, level), x)
        return value, vjp(jnp.ones_like(value))[0]

    value, gradient = jax.jit(energy_and_gradient)(reference["x"], reference["t"])
    assert_close(value, -reference["f"], 1e-4, "E")
    assert_close(gradient, -reference["df_dx"], 1e-4, "dE/dx")


def test_reference_energy_after_one_power_iteration():
    """One call of the published code: one iteration first, then the new vectors are used."""
    reference = load_reference("drl")
    energy_fn = convert.from_reference("drl", below(reference, "w0")).energy_fn
    value = jax.jit(energy_fn)(reference["x"], reference["t"])
    assert_close(value, -reference["f_raw"], 1e-4)


@pytest.mark.parametrize(
    ("image_size", "multipliers", "num_blocks", "millions"),
    [
        (32, (1, 2, 2, 2), 8, 34.83),
        (64, (1, 2, 2, 2, 4), 6, 56.27),
        (64, (1, 2, 2, 2, 4), 2, 19.15),
        (128, (1, 2, 2, 2, 4, 4), 2, 29.12),
        (128, (1, 2, 2, 2, 4, 4), 5, 71.90),
    ],
)
def test_parameter_counts_of_the_published_networks(image_size, multipliers, num_blocks, millions):
    module = RecoveryResNet(
        image_size=image_size, multipliers=multipliers, num_blocks=num_blocks, formulation="native"
    )
    shapes = plain.shapes(module)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


def test_initialisation_is_uniform_with_the_mean_of_the_fans():
    module = RecoveryResNet(image_size=2, channels=3, width=16, multipliers=(1, 2), num_blocks=1)
    init = jax.jit(module.init)
    params = plain.as_flat(
        init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), jnp.zeros((1,), int))["params"]
    )
    for name, leaf in params.items():
        if name.endswith("/kernel"):
            taps = int(np.prod(leaf.shape[:-2]))
            scale = 1e-10 if "/conv2/" in name else 1.0
            bound = np.sqrt(3 * scale / (taps * sum(leaf.shape[-2:]) / 2))
            assert np.abs(leaf).max() <= bound, name
            assert np.abs(leaf).max() > 0.98 * bound, name
            assert abs(leaf.std() / (bound / np.sqrt(3)) - 1) < 4 * 0.45 / np.sqrt(leaf.size), name
        else:
            assert np.all(leaf == (1 if name.endswith("/gain") else 0)), name


def test_level_embedding_is_sines_then_cosines():
    level, k = np.array([0, 1, 5]), np.arange(4)
    angle = level[:, None] * 10_000 ** (-k / 3)
    wanted = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(level_embedding(level, 8), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("image_size", "wanted"), [(28, "such as 32"), (20, "such as 16"), (3, "such as 8")]
)
def test_an_image_that_cannot_be_halved_is_refused(image_size, wanted):
    module = RecoveryResNet(image_size=image_size, width=4, num_blocks=1)
    with pytest.raises(
        ValueError, match=f"halved 3 times, {wanted}, or fewer multipliers, got {image_size}"
    ):
        plain.shapes(module)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_width_that_has_no_embedding_is_refused(width):
    with pytest.raises(ValueError, match=f"^width: expected an even number >= 4, got {width}"):
        plain.shapes(SMALL.clone(width=width))


def test_half_precision_stays_close_and_returns_float32(weights, x, prepared_and_direct):
    half = SMALL.clone(dtype=jnp.bfloat16)
    params = plain.as_tree(weights)
    value = jax.jit(lambda x: networks.make_energy_fn(half, params, LEVEL)(x))(x)
    assert value.dtype == jnp.float32
    assert_close(value, prepared_and_direct["prepared"][0], 0.15)
