"""Spectral norm against exact singular values, finite differences and the reference vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from reference_files import assert_close, below, load_reference

from ebm_jax import convert
from ebm_jax.networks import spectral_norm
from ebm_jax.networks.recovery_resnet import RecoveryResNet


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def exact_norm(kernel):
    return np.linalg.norm(np.reshape(kernel, (-1, kernel.shape[-1])), 2)


def kernel_with(rng, singular_values, shape=(3, 3, 2, 4)):
    """A random kernel whose matrix has the given singular values."""
    size = shape[-1]
    left, _ = np.linalg.qr(rng.normal(size=(int(np.prod(shape[:-1])), size)))
    right, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return (left * np.asarray(singular_values) @ right).reshape(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (3, 3, 4, 2), (5, 4), (2, 7), (1, 1, 3, 3)])
def test_converged_norm_is_the_largest_singular_value(rng, shape):
    kernel = rng.normal(size=shape).astype(np.float32)
    sigma, _ = spectral_norm.power_iteration(kernel, spectral_norm.dominant_vector(kernel))
    np.testing.assert_allclose(sigma, exact_norm(kernel), rtol=3e-6)


def test_iterations_climb_to_the_largest_singular_value(rng):
    kernel, u = kernel_with(rng, [3, 2, 1, 0.5]), jax.random.normal(jax.random.key(0), (4,))
    sigmas = []
    for _ in range(30):
        sigma, u = spectral_norm.power_iteration(kernel, u)
        sigmas.append(float(sigma))
    assert np.all(np.diff(sigmas) > -1e-5)
    assert sigmas[0] < 3
    np.testing.assert_allclose(sigmas[-1], 3, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(u), 1, rtol=1e-6)


def test_dominant_vector_is_the_right_singular_vector(rng):
    kernel = kernel_with(rng, [3, 2.9, 1, 0.5])
    vector = spectral_norm.dominant_vector(kernel)
    _, _, right = np.linalg.svd(kernel.reshape(-1, 4), full_matrices=False)
    np.testing.assert_allclose(abs(vector @ right[0]), 1, atol=1e-6)


def test_dominant_vector_is_that_of_1024_iterations(rng):
    """Of a kernel whose two singular values are too near to one another for so many."""
    right, _ = np.linalg.qr(rng.normal(size=(2, 2)))
    kernel = (np.diag([1, 0.999]) @ right).astype(np.float32)
    power = np.linalg.matrix_power(kernel.T.astype(np.float64) @ kernel, 1024)
    row = power[np.argmax(np.linalg.norm(power, axis=1))]
    vector = spectral_norm.dominant_vector(kernel)
    np.testing.assert_allclose(vector, row / np.linalg.norm(row), atol=2e-3)


def test_dominant_vector_is_no_row_that_is_orthogonal_to_it():
    """The longest one is taken, wherever it is; the vector is a constant."""
    for values in ([1, 3, 2], [1, 2, 3], [3, 1, 2]):
        kernel = jnp.diag(jnp.float32(values))
        vector, pull = jax.vjp(spectral_norm.dominant_vector, kernel)
        np.testing.assert_array_equal(vector, np.array(values) == 3)
        np.testing.assert_array_equal(pull(vector)[0], np.zeros((3, 3)))


def test_products_are_of_full_precision():
    def both(kernel):
        return spectral_norm.power_iteration(kernel, spectral_norm.dominant_vector(kernel))

    program = jax.jit(both).lower(jnp.ones((2, 3))).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)


@pytest.mark.parametrize("scale", [1e-6, 1e4, -1.0])
def test_dominant_vector_does_not_depend_on_scale(rng, scale):
    kernel = kernel_with(rng, [2, 1, 0.5, 0.1])
    np.testing.assert_allclose(
        spectral_norm.dominant_vector(scale * kernel),
        spectral_norm.dominant_vector(kernel),
        atol=1e-4,
    )


def test_zero_kernel_stays_zero_and_finite():
    params = {"conv2": {"kernel": jnp.zeros((3, 3, 2, 2))}}
    u = spectral_norm.converged_power_state(params, lambda _: "cap")
    normalized, u = spectral_norm.normalize(params, u, lambda _: "cap")
    assert np.all(normalized["conv2"]["kernel"] == 0)
    assert np.all(np.isfinite(u["conv2/kernel"]))


def test_a_kernel_as_good_as_zero_is_divided_by_less_than_its_norm():
    """Squared lengths below 1e-12 count as that much: s = 1e-8 makes v = .01 and u = 1e-4."""
    kernel = jnp.diag(jnp.array([1e-8, 0.0]))
    sigma, u = spectral_norm.power_iteration(kernel, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(sigma, 1e-14, rtol=1e-6)
    np.testing.assert_allclose(u, [1e-4, 0], rtol=1e-6)


def test_a_cap_adds_a_millionth_to_the_norm():
    """Of the matrix [s]: s / (s + 1e-6) where the sum is above 1, else s."""
    for size, wanted in ((1.0, 1 / 1.000001), (0.5, 0.5), (1 - 1.5e-6, 1 - 1.5e-6)):
        params = {"kernel": jnp.full((1, 1), size)}
        state = {"kernel": jnp.ones(1)}
        found, _ = spectral_norm.normalize(params, state, lambda path: "cap")
        np.testing.assert_allclose(found["kernel"], wanted, rtol=1.2e-7)


def test_unit_gives_norm_one_and_cap_only_lowers(rng):
    large, small = kernel_with(rng, [4, 2, 1, 0.5]), kernel_with(rng, [0.8, 0.4, 0.2, 0.1])
    params = {
        name: {"kernel": k, "bias": jnp.ones(4)}
        for name, k in [("unit_large", large), ("unit_small", small), ("cap_large", large),
                        ("cap_small", small), ("free", large)]
    }  # fmt: skip

    def mode(path):
        kind = path[0].split("_")[0]
        return kind if path[-1] == "kernel" and kind != "free" else None

    power_state = spectral_norm.converged_power_state(params, mode)
    assert power_state.keys() == {
        f"{n}/kernel" for n in ("unit_large", "unit_small", "cap_large", "cap_small")
    }
    normalized, _ = spectral_norm.normalize(params, power_state, mode)
    norms = {name: exact_norm(normalized[name]["kernel"]) for name in params}
    for name, wanted in [("unit_large", 1), ("unit_small", 1), ("cap_large", 1), ("free", 4)]:
        np.testing.assert_allclose(norms[name], wanted, rtol=3e-6, err_msg=name)
    np.testing.assert_array_equal(normalized["cap_small"]["kernel"], small)
    np.testing.assert_array_equal(normalized["unit_large"]["bias"], np.ones(4))


@pytest.mark.parametrize(("kind", "size"), [("unit", 1.0), ("cap", 1.0), ("cap", 0.05)])
def test_gradient_holds_the_vectors_constant(rng, kind, size):
    """d/dW of sum(C W / sigma(W)) with u not converged, against the same by complex steps."""
    name = "block/conv2/kernel" if kind == "cap" else "block/conv1/kernel"
    weight, kernel = rng.normal(size=(2, 3, 3, 2, 4))
    kernel, u = size * kernel, np.ones(4)

    def ours(kernel):
        params, state = {"block": {"kernel": kernel}}, {"block/kernel": u}
        normalized, _ = spectral_norm.normalize(params, state, lambda path: kind)
        return jnp.sum(weight * normalized["block"]["kernel"])

    def wanted(weights):
        return np.sum(weight * plain.normalize(weights, {name: u})[name])

    grad = jax.jit(jax.grad(ours))(jnp.asarray(kernel, jnp.float32))
    for direction in rng.normal(size=(3, *kernel.shape)):
        slope = plain.directional_derivative(wanted, {name: kernel}, name, direction)
        np.testing.assert_allclose(np.sum(grad * direction), slope, rtol=2e-4)


def test_gradient_with_converged_vectors_is_that_of_the_exact_norm(rng):
    """At the singular vectors, sigma(W) with them held constant has the slope of the exact norm."""
    kernel, eps = kernel_with(rng, [3, 2, 1, 0.5]), 1e-4
    u = spectral_norm.dominant_vector(kernel)
    grad = jax.grad(lambda k: spectral_norm.power_iteration(k, u)[0])(kernel)
    for _ in range(3):
        step = eps * rng.normal(size=kernel.shape)
        slope = (exact_norm(kernel + step) - exact_norm(kernel - step)) / 2
        np.testing.assert_allclose(np.sum(grad * step), slope, rtol=1e-4)


def test_power_state_of_a_network_starts_at_random_and_per_kernel():
    module = RecoveryResNet(image_size=4, channels=1, width=4, multipliers=(1, 2), num_blocks=1)
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros((1,), int)
    )
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes["params"])
    state = spectral_norm.init_power_state(jax.random.key(0), params, module.spectral_norm_mode)
    blocks = {"conv1", "conv2", "temb_proj"}
    assert state.keys() == {
        "conv_in/kernel", "temb_dense_0/kernel", "temb_dense_1/kernel",
        *(f"resolution_0_block_0/{layer}/kernel" for layer in blocks),
        *(f"resolution_1_block_0/{layer}/kernel" for layer in blocks | {"conv_shortcut"}),
    }  # fmt: skip
    values = np.concatenate([np.asarray(u) for u in state.values()])
    assert len(np.unique(values)) == len(values)
    assert abs(values.mean()) < 4 / np.sqrt(len(values))
    assert state["resolution_1_block_0/conv1/kernel"].shape == (8,)
    with pytest.raises(KeyError, match="conv_in/kernel"):
        spectral_norm.normalize(params, {}, module.spectral_norm_mode)


def test_power_state_does_not_depend_on_the_order_of_the_kernels():
    kernels = {name: {"kernel": jnp.ones((2, 3))} for name in ("b", "a", "c")}
    states = [
        spectral_norm.init_power_state(jax.random.key(0), params, lambda path: "unit")
        for params in (kernels, dict(sorted(kernels.items())))
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_no_kernel_named_means_nothing_is_done():
    params = {"dense": {"kernel": jnp.ones((2, 2))}}
    state = spectral_norm.init_power_state(jax.random.key(0), params, lambda path: None)
    assert spectral_norm.normalize(params, state, lambda path: None)[1] == {}


def test_one_iteration_is_that_of_the_reference():
    reference = load_reference("drl")
    module, params, power_state, _ = convert.from_reference("drl", below(reference, "w0"))
    _, iterated = jax.jit(lambda p, u: spectral_norm.normalize(p, u, module.spectral_norm_mode))(
        params, power_state
    )
    wanted = below(reference, "u_after_one")
    assert len(iterated) == len(wanted) == 22
    for name, vector in wanted.items():
        layer = name.removesuffix("/u").replace("level_", "resolution_").replace("/block", "_block")
        assert_close(iterated[f"{layer}/kernel"], vector[0], 1e-4, name)
