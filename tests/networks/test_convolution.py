"""Three formulations of one convolution: values and all derivatives, alone and inside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.networks import convolution, prepared

WAYS = ("native", "flipped", "dense")
CASES = {  # batch, height, width, c_in, c_out, kernel size, stride
    "odd image": (2, 3, 5, 2, 3, 3, 1),
    "two pixels": (3, 2, 2, 2, 4, 3, 1),
    "wide kernel": (2, 4, 4, 3, 2, 5, 1),
    "pointwise": (2, 3, 3, 2, 3, 1, 1),
    "stride 2": (2, 4, 6, 2, 3, 3, 2),
    "stride 2, odd image": (2, 5, 5, 1, 2, 3, 2),
    "stride 2, even kernel": (2, 4, 4, 2, 2, 4, 2),
    "stride 2, pointwise": (2, 5, 4, 2, 3, 1, 2),
}


def by_definition(x, kernel, stride):
    """float64: y[p] = sum over taps k of W[k] x[stride p + k - before], zero outside."""
    size = kernel.shape[0]
    out, pads = [], []
    for n in x.shape[1:3]:
        out.append(-(-n // stride))
        total = max((out[-1] - 1) * stride + size - n, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    y = np.zeros((len(x), *out, kernel.shape[-1]))
    for i, j in np.ndindex(size, size):
        rows, columns = (slice(k, k + (n - 1) * stride + 1, stride)
                         for k, n in zip((i, j), out, strict=True))  # fmt: skip
        y += padded[:, rows, columns] @ kernel[i, j].astype(np.float64)
    return y


def arrays(case):
    batch, height, width, c_in, c_out, size, stride = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, c_in)).astype(np.float32)
    kernel = rng.normal(size=(size, size, c_in, c_out)).astype(np.float32)
    return x, kernel, stride


def conv(way, x, kernel, stride=1):
    weights = convolution.prepare_kernel(kernel, x.shape[1:3], formulation=way, stride=stride)
    return convolution.convolve(x, weights, stride=stride)


def derivatives(way, stride):
    """First and second derivatives of a loss that is no linear or quadratic form of either."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(conv(way, x, kernel, stride)))

    def slope(x, kernel):  # as in score matching: a loss made of the gradient in x
        return jnp.sum(jnp.cos(jax.grad(loss)(x, kernel)))

    def all_of_them(x, kernel):
        return jax.grad(loss, (0, 1))(x, kernel), jax.grad(slope, (0, 1))(x, kernel)

    return all_of_them


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_definition(case):
    x, kernel, stride = arrays(case)
    wanted = by_definition(x, kernel, stride)
    actual = jax.jit(lambda x, k: {way: conv(way, x, k, stride) for way in WAYS})(x, kernel)
    for way in WAYS:
        np.testing.assert_allclose(actual[way], wanted, atol=2e-5, err_msg=way)


@pytest.mark.parametrize("case", CASES)
def test_first_and_second_derivatives_agree(case):
    x, kernel, stride = arrays(case)
    both = jax.jit(lambda x, k: {way: derivatives(way, stride)(x, k) for way in WAYS})(x, kernel)
    for way in ("flipped", "dense"):
        pairs = zip(jax.tree.leaves(both[way]), jax.tree.leaves(both["native"]), strict=True)
        for actual, wanted in pairs:
            np.testing.assert_allclose(actual, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("way", WAYS)
def test_same_numbers_inside_scan_and_vmap(way):
    """Five gradient steps on sum(sin(W * x)) for two kernels at once, in a loop and unrolled."""
    x, kernel, _ = arrays("odd image")
    kernels = np.stack([kernel, -0.5 * kernel])

    def descend(way, kernel, loop):
        weights = convolution.prepare_kernel(kernel, x.shape[1:3], formulation=way)
        step = jax.grad(lambda x: jnp.sum(jnp.sin(convolution.convolve(x, weights))))
        if loop:
            return jax.lax.scan(lambda y, _: (y - 0.1 * step(y), None), x, None, 5)[0]
        y = x
        for _ in range(5):
            y = y - 0.1 * step(y)
        return y

    looped = jax.jit(jax.vmap(lambda k: descend(way, k, loop=True)))(kernels)
    for actual, k in zip(looped, kernels, strict=True):
        wanted = jax.jit(lambda k: descend("native", k, loop=False))(k)
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_no_gradient_of_a_gradient_goes_backwards_through_xlas_convolution():
    """Its kernel has outputs before inputs there, which XLA's CPU code takes five times as long."""
    x, kernel, _ = arrays("odd image")

    def backwards(way):
        def pulled(x):
            slope = jax.grad(lambda x: jnp.sum(jnp.sin(conv(way, x, kernel))))
            return jax.vjp(slope, x)[1](x)

        return jax.jit(pulled).lower(x).as_text().count("x[0, 1, o, i]")

    assert backwards("native") > 0
    assert backwards("flipped") == 0


@pytest.mark.parametrize("way", WAYS)
def test_gradients_through_a_loop_reach_the_kernel(way):
    x, kernel, _ = arrays("two pixels")

    def end(kernel):
        weights = convolution.prepare_kernel(kernel[..., :2], x.shape[1:3], formulation=way)

        def step(y, _):
            return jnp.tanh(convolution.convolve(y, weights)), None

        return jnp.sum(jax.lax.scan(step, jnp.asarray(x), None, 4)[0])

    def plainly(kernel):
        y = x
        for _ in range(4):
            y = jnp.tanh(conv("native", y, kernel[..., :2]))
        return jnp.sum(y)

    np.testing.assert_allclose(
        jax.jit(jax.grad(end))(kernel), jax.jit(jax.grad(plainly))(kernel), atol=1e-5
    )


def test_choice_by_size_on_cpu():
    choose = convolution.choose_formulation
    assert choose("auto", 3, (2, 2), 1) == "dense"
    assert choose("auto", 3, (8, 8), 1) == "flipped"
    assert choose("auto", 3, (8, 8), 2) == "native"
    assert choose("auto", 4, (8, 8), 1) == "native"  # an even kernel is not centred when flipped
    assert choose("dense", 3, (8, 8), 1) == "dense"
    assert choose("flipped", 3, (8, 8), 2) == "native"  # one strided layer among others


def test_four_pixels_are_the_most_that_are_a_matrix_by_themselves():
    for shape, chosen in (((1, 4), "dense"), ((4, 1), "dense"), ((1, 5), "flipped")):
        assert convolution.choose_formulation("auto", 3, shape, 1) == chosen
    assert convolution.choose_formulation("flipped", 2, (8, 8), 1) == "native"
    assert convolution.choose_formulation("native", 3, (1, 1), 1) == "native"


def test_a_kernel_has_one_form_alone():
    """By default as for 'auto' without a stride; a single tap is its own flipped kernel."""
    kernel = jnp.asarray(arrays("odd image")[1])
    small, large = (convolution.prepare_kernel(kernel, shape) for shape in ((2, 2), (9, 7)))
    assert (small.kernel, small.reverse, small.matrix.shape) == (None, None, (8, 12))
    assert large.matrix is None
    np.testing.assert_array_equal(large.kernel, kernel)
    np.testing.assert_array_equal(large.reverse, np.transpose(kernel[::-1, ::-1], (0, 1, 3, 2)))
    single = convolution.prepare_kernel(kernel[:1, :1], (9, 7), formulation="flipped")
    assert (single.reverse, single.matrix) == (None, None)
    np.testing.assert_array_equal(convolution.dense_matrix(kernel, (2, 2)), small.matrix)


def test_a_single_tap_is_a_product_of_matrices():
    x, kernel, _ = arrays("pointwise")
    program = str(jax.make_jaxpr(lambda x: conv("native", x, kernel))(x))
    assert "dot_general" in program
    assert "conv" not in program


def test_choice_on_an_accelerator_is_xlas_own(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolution.choose_formulation("auto", 3, (2, 2), 1) == "native"
    assert convolution.choose_formulation("flipped", 3, (8, 8), 1) == "flipped"


def test_unknown_formulation_is_refused():
    with pytest.raises(
        ValueError, match="formulation: expected one of auto, native, flipped, dense, got 'fft'"
    ):
        convolution.choose_formulation("fft", 3, (8, 8), 1)


@pytest.mark.parametrize("way", WAYS)
def test_layer_is_gain_times_convolution_plus_bias(way):
    x, kernel, stride = arrays("odd image")
    bias, gain = np.array([1.0, -2, 3]), np.array([0.5, 2, -1])
    layer = convolution.Conv(3, use_gain=True, formulation=way)
    params = {"kernel": kernel, "bias": bias, "gain": gain}
    wanted = gain * (by_definition(x, kernel, stride) + bias)
    np.testing.assert_allclose(layer.apply({"params": params}, x), wanted, atol=5e-5)

    _, stored = layer.apply({"params": params}, x[:1], mutable=[prepared.COLLECTION])
    used = {"params": {**params, "kernel": np.nan * kernel}, **stored}
    np.testing.assert_allclose(layer.apply(used, x), wanted, atol=5e-5)  # the stored one is read


def test_plain_layer_has_a_kernel_alone_and_starts_with_unit_gain_and_no_bias():
    x = jnp.zeros((1, 4, 4, 2))
    zeros = jax.nn.initializers.zeros
    plain = convolution.Conv(3, use_bias=False, kernel_init=zeros).init(jax.random.key(0), x)
    assert plain["params"].keys() == {"kernel"}
    full = convolution.Conv(3, use_gain=True, kernel_init=zeros).init(jax.random.key(0), x)
    full = full["params"]
    np.testing.assert_array_equal(full["gain"], np.ones(3))
    np.testing.assert_array_equal(full["bias"], np.zeros(3))


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_computes_in_it(way):
    x, kernel, stride = arrays("odd image")
    layer = convolution.Conv(3, use_bias=False, dtype=jnp.bfloat16, formulation=way)
    y = layer.apply({"params": {"kernel": kernel}}, x)
    assert y.dtype == jnp.bfloat16
    wanted = by_definition(x, kernel, stride)
    np.testing.assert_allclose(y.astype(np.float32), wanted, atol=0.03 * np.abs(wanted).max())


def test_a_layer_has_three_taps_by_default_that_start_by_lecuns_law():
    layer = convolution.Conv(64)
    kernel = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 5)))["params"]["kernel"]
    assert kernel.shape == (3, 3, 5, 64)
    assert np.std(kernel) == pytest.approx(1 / np.sqrt(45), rel=4 / np.sqrt(2 * kernel.size))
    assert (layer.stride, layer.formulation, layer.dtype) == (1, "auto", jnp.float32)


@pytest.mark.parametrize(("dtype", "side"), [(jnp.float32, 2**14), (jnp.float16, 2**14 + 2**13)])
def test_the_largest_dense_matrix(dtype, side):
    """2^30 bytes: 2^14 x 2^14 numbers of four bytes."""
    largest = 2**30 // (side * np.dtype(dtype).itemsize)
    for channels in (largest, largest + 1):
        kernel = jax.ShapeDtypeStruct((1, 1, side, channels), dtype)
        of_one_pixel = functools.partial(convolution.dense_matrix, image_shape=(1, 1))
        if channels > largest:
            with pytest.raises(ValueError, match="expected dense matrices of at most"):
                jax.eval_shape(of_one_pixel, kernel)
        else:
            assert jax.eval_shape(of_one_pixel, kernel).shape == (side, channels)


def test_the_largest_dense_matrix_of_a_stride():
    """Of 2 x 2 pixels every second one is one: 4 times 2^13 x 2^13 numbers of four bytes."""
    of_four_pixels = functools.partial(convolution.dense_matrix, image_shape=(2, 2), stride=2)
    kernel = jax.ShapeDtypeStruct((1, 1, 2**13, 2**13), jnp.float32)
    assert jax.eval_shape(of_four_pixels, kernel).shape == (2**15, 2**13)


def test_dense_matrices_that_no_memory_holds_are_refused_with_their_size():
    kernel = jnp.zeros((3, 3, 128, 128))
    says = r"at most 1,073,741,824 bytes, got 68,719,476,736 \(131,072 x 131,072\) for 32 x 32"
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(
            lambda kernel: convolution.prepare_kernel(kernel, (32, 32), formulation="dense"), kernel
        )
