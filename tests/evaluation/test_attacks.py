"""Attacks on classifiers whose nearest wrong point is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.classification import attacks, refinement

KEY = jax.random.key(3)
NUM, SHAPE = 24, (3, 2, 1)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, *SHAPE)).astype(np.float32)
X = RNG.uniform(0.3, 0.7, (NUM, *SHAPE)).astype(np.float32)
LABEL = (np.arange(NUM) % 2).astype(np.int32)
INDEX = np.arange(NUM, dtype=np.int32)
RADIUS = np.linspace(0.02, 0.25, NUM).astype(np.float32)
AXES = (1, 2, 3)


def linear(x, weights=WEIGHTS):
    """Logits of energies -w_y x."""
    return jnp.einsum("nijk,yijk->ny", x, weights)


def score_fn(x, label=LABEL):
    return attacks.scores_of_logits(linear(x), label)


def strict(x=X, radius=RADIUS, index=INDEX, label=LABEL, **options):
    options = {"norm": "linf", "num_steps": 20, "num_restarts": 2} | options
    return attacks.strict_pgd(lambda x: score_fn(x, label), x, radius, KEY, index, **options)


def lowest_margin(norm, radius):
    """Of the linear energies, in closed form: w x - radius |w|_dual."""
    difference = WEIGHTS[LABEL] - WEIGHTS[1 - LABEL]
    dual = np.abs(difference).sum(AXES) if norm == "linf" else np.sqrt((difference**2).sum(AXES))
    return np.sum(difference * X, AXES) - radius * dual


@pytest.mark.parametrize("norm", attacks.NORMS)
@pytest.mark.parametrize("num_steps", [20, 100])
def test_optimum_of_linear_energies(norm, num_steps):
    """On a cube exactly. On a sphere tan(angle / 2) to the optimum falls by exp(-2.5)."""
    found = strict(norm=norm, num_steps=num_steps, box=None)
    clean, lowest = lowest_margin(norm, 0 * RADIUS), lowest_margin(norm, RADIUS)
    share = (clean - np.asarray(found.margin)) / (clean - lowest)
    assert np.all(share < 1 + 1e-4)
    assert np.all(share > (0.999 if norm == "linf" else 0.9))
    change = np.asarray(found.x) - X
    size = np.abs(change).max(AXES) if norm == "linf" else np.sqrt((change**2).sum(AXES))
    np.testing.assert_allclose(size, RADIUS, rtol=1e-4)
    np.testing.assert_allclose(score_fn(found.x).margin, found.margin, atol=1e-5)


def test_optimum_inside_the_box():
    """With radius 1/2 about the middle each value goes to a wall."""
    found = strict(radius=np.full(NUM, 0.7, np.float32))
    difference = WEIGHTS[LABEL] - WEIGHTS[1 - LABEL]
    np.testing.assert_allclose(found.x, difference < 0, atol=1e-6)


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_random_search_never_beats_it_and_steps_never_help_the_defender(norm):
    """On energies that are no longer linear, sum_j tanh of them."""

    def curved(x):
        return attacks.scores_of_logits(jnp.tanh(3 * linear(x)) + 0.1 * linear(x), LABEL)

    def attacked(steps, restarts=2):
        return attacks.strict_pgd(
            curved, X, RADIUS, KEY, INDEX, norm=norm, num_steps=steps, num_restarts=restarts
        ).margin

    searched = attacks.random_search(curved, X, RADIUS, KEY, INDEX, norm=norm, num_draws=200)
    few, many = np.asarray(attacked(20)), np.asarray(attacked(100))
    assert np.all(few <= searched.margin + 1e-4)
    assert np.all(many <= few + 1e-4)
    assert np.all(attacked(20, restarts=4) <= few)
    change = np.asarray(searched.x) - X
    size = np.abs(change).max(AXES) if norm == "linf" else np.sqrt((change**2).sum(AXES))
    assert np.all(size <= RADIUS * (1 + 1e-5))
    assert np.all((size > 0.5 * RADIUS) | (searched.margin >= curved(X).margin))


def test_nothing_is_right_at_a_large_radius_and_nothing_changes_at_0():
    for norm, radius in (("linf", 0.5), ("l2", 2.0)):
        assert np.all(strict(norm=norm, radius=np.full(NUM, radius, np.float32)).margin < 0)
    found = strict(radius=np.zeros(NUM, np.float32))
    np.testing.assert_array_equal(found.x, X)


def test_saturated_softmax_is_attacked_through_its_margin():
    """The gradient of its cross-entropy is exactly 0; the first start does not look at it."""

    def sure(x):
        return attacks.scores_of_logits(1e4 * linear(x), label)

    label = np.asarray(linear(X)).argmax(1)
    radius = np.full(NUM, 0.5, np.float32)
    assert np.all(jax.grad(lambda x: jnp.sum(sure(x).loss))(X) == 0)
    found = attacks.strict_pgd(
        sure, X, radius, KEY, INDEX, norm="l2", num_steps=20, num_restarts=2, box=None
    )
    difference = WEIGHTS[label] - WEIGHTS[1 - label]
    dual = np.sqrt((difference**2).sum(AXES))
    expected = 1e4 * (np.sum(difference * X, AXES) - radius * dual)
    np.testing.assert_allclose(found.margin, expected, rtol=0.1)


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_draws_are_of_the_index(norm):
    """Other examples beside it, and another place in the batch, change nothing of an example."""
    some = slice(5, 9)
    for attack, options in (
        (attacks.strict_pgd, {"num_steps": 3, "num_restarts": 2}),
        (attacks.random_search, {"num_draws": 5}),
        (attacks.published_pgd, {"num_steps": 3}),
    ):

        def run(rows, attack=attack, options=options):
            found = attack(
                lambda x: score_fn(x, LABEL[rows]), X[rows], RADIUS[rows], KEY, INDEX[rows],
                norm=norm, **options,
            )  # fmt: skip
            return np.asarray(getattr(found, "x", found))

        np.testing.assert_allclose(run(slice(None))[some], run(some), atol=1e-6)


def test_uniform_in_the_l2_ball():
    number = 20_000
    like, radius = jnp.zeros((number, 3)), jnp.full(number, 2.0)
    x = attacks.uniform_in_ball(KEY, jnp.arange(number), like, radius, "l2")
    share = (np.linalg.norm(x, axis=1) / 2) ** 3  # uniform on 0..1
    assert np.mean(share) == pytest.approx(0.5, abs=4 / np.sqrt(12 * number))
    assert np.var(share) == pytest.approx(1 / 12, rel=0.05)
    np.testing.assert_allclose(np.mean(x, 0), 0, atol=0.05)


def test_uniform_in_the_cube():
    number = 20_000
    like, radius = jnp.zeros((number, 2)), jnp.array([2.0, 0.5] * (number // 2))
    x = attacks.uniform_in_ball(KEY, jnp.arange(number), like, radius, "linf")
    for part, bound in ((x[::2], 2.0), (x[1::2], 0.5)):
        assert bound * 0.999 < np.max(part) <= bound
        assert -bound <= np.min(part) < -bound * 0.999
        assert np.mean(part) == pytest.approx(0, abs=4 * bound / np.sqrt(3 * number))
        assert np.var(part) == pytest.approx(bound**2 / 3, rel=0.05)


def test_directions_have_length_one_or_none():
    """Also where a square is no float."""
    x = jnp.array([[3.0, 0.0, -4.0], [0.0, 0.0, 0.0], [-1e-30, 0.0, 0.0], [6e25, 8e25, 0.0]])
    expected = [[0.6, 0, -0.8], [0, 0, 0], [-1, 0, 0], [0.6, 0.8, 0]]
    np.testing.assert_allclose(attacks._direction(x), expected, rtol=1e-6)
    np.testing.assert_allclose(attacks._direction(x.reshape(4, 3, 1))[..., 0], expected, rtol=1e-6)


def searched(margin_fn, norm, num_draws, **options):
    found = attacks.random_search(
        lambda x: attacks.Scores(margin_fn(x), margin_fn(x)), X, RADIUS, KEY, INDEX,
        norm=norm, num_draws=num_draws, **options,
    )  # fmt: skip
    change = np.asarray(found.x) - X
    size = np.abs(change).max(AXES) if norm == "linf" else np.sqrt((change**2).sum(AXES))
    return found, size


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_every_second_random_point_is_on_the_surface(norm):
    """The farthest and the nearest of the first one, two and three points, by their margins."""

    def farthest(x):
        return -jnp.sum((x - X) ** 2, AXES)

    def nearest(x):
        size = jnp.sum((x - X) ** 2, AXES)
        return jnp.where(size == 0, 9.0, size)

    share = searched(farthest, norm, 1)[1] / RADIUS  # 6 / 7 on average, of six values
    assert np.all(share < 1)
    assert 0.75 < np.mean(share) < 0.95
    np.testing.assert_allclose(searched(farthest, norm, 2)[1], RADIUS, rtol=1e-4)
    one, two, three = (searched(nearest, norm, number)[1] for number in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    assert np.any(three < two)


def test_random_points_are_inside_the_box():
    """Corners from a radius of 2 are on its walls; without it they are where they are."""
    for options, low, high in (
        ({}, 0, 1), ({"box": (-0.5, 1.25)}, -0.5, 1.25), ({"box": None}, X - 2, X + 2)
    ):  # fmt: skip
        found = attacks.random_search(
            lambda x: attacks.Scores(x[:, 0, 0, 0], -jnp.abs(x - X).max(AXES)),
            X, np.full(NUM, 2.0, np.float32), KEY, INDEX, norm="linf", num_draws=2, **options,
        ).x  # fmt: skip
        assert np.all((low - 1e-6 <= found) & (found <= high + 1e-6))
        assert 0.3 < np.mean(np.abs(found - low) < 1e-6) < 0.7
        assert 0.3 < np.mean(np.abs(found - high) < 1e-6) < 0.7


def test_of_equal_margins_the_clean_example_is_kept():
    def constant(x):
        return attacks.Scores(jnp.sum(x, AXES), jnp.ones(len(x)))

    options = {"norm": "linf"}
    strict = attacks.strict_pgd(
        constant, X, RADIUS, KEY, INDEX, num_steps=2, num_restarts=2, **options
    )
    random = attacks.random_search(constant, X, RADIUS, KEY, INDEX, num_draws=2, **options)
    for found in (strict, random):
        np.testing.assert_array_equal(found.x, X)
        np.testing.assert_array_equal(found.margin, 1)


def test_published_attack_in_closed_form():
    """L-infinity: about the clean image. L2: each step is about the point before it."""
    sign = np.sign(WEIGHTS[1 - LABEL] - WEIGHTS[LABEL])
    radius = np.full(NUM, 0.05, np.float32)
    far = attacks.published_pgd(score_fn, X, radius, KEY, INDEX, norm="linf", num_steps=20)
    np.testing.assert_allclose(far, X + 0.05 * sign, atol=1e-6)  # 16/255 more than suffice
    start = attacks.published_pgd(
        score_fn, X, np.full(NUM, 9.0, np.float32), KEY, INDEX, norm="linf", num_steps=1
    )
    moved = np.asarray(start - X) * 255 - 2 * sign
    np.testing.assert_allclose(moved, np.round(moved), atol=1e-2)
    assert set(np.round(moved).ravel()) == set(range(-8, 9))
    radius = np.full(NUM, 0.01, np.float32)
    far = attacks.published_pgd(score_fn, X, radius, KEY, INDEX, norm="l2", num_steps=30)
    length = np.sqrt(np.sum((np.asarray(far) - X) ** 2, AXES))
    assert np.all(length > 0.25)  # 29 steps of .01 along one direction, where the ball has .01
    none = attacks.published_pgd(
        score_fn, X, np.zeros(NUM, np.float32), KEY, INDEX, norm="l2", num_steps=3
    )
    np.testing.assert_array_equal(none, X)


# --------------------------------------------------------------------------- refinement


def class_energy(label):
    """|x - c_y|^2 / 2 about 0 and 1."""
    return lambda x: jnp.sum((x - label) ** 2, AXES) / 2


def test_the_papers_chains():
    """IGEBM's: ten steps of 10, noise of .005, within eight intensities; nothing is bounded."""
    assert refinement.Refinement() == (10, 10.0, 0.005, 8 / 255, None, None)


def refined(x, index=INDEX, key=KEY, **settings):
    options = {"num_steps": 4, "step_size": 0.3, "noise_std": 0.0, "radius": 9.0} | settings
    return refinement.refined_logits(
        class_energy, 2, refinement.Refinement(**options), key, x, index
    )


def test_chains_of_each_class_in_closed_form():
    left = (1 - 0.3) ** 4
    expected = np.stack([-np.sum((left * (X - y)) ** 2, AXES) / 2 for y in (0, 1)], 1)
    np.testing.assert_allclose(refined(X), expected, rtol=1e-5)
    near = np.stack([np.sum((np.clip(left * (X - y) + y, X - 0.1, X + 0.1) - y) ** 2, AXES) / 2
                     for y in (0, 1)], 1)  # fmt: skip
    np.testing.assert_allclose(refined(X, radius=0.1), -near, rtol=1e-5)
    clipped = np.clip(X - 0.3 * 0.05, 0.25, 0.6)
    one = refined(X, num_steps=1, max_grad=0.05, box=(0.25, 0.6))
    np.testing.assert_allclose(one[:, 0], -np.sum(clipped**2, AXES) / 2, rtol=1e-5)


def test_gradient_through_the_chains():
    """Of the closed form: the second half of an attack on the defense itself."""
    left = (1 - 0.3) ** 4
    grad = jax.grad(lambda x: jnp.sum(refined(x)[:, 1]))(X)
    np.testing.assert_allclose(grad, -(left**2) * (X - 1), rtol=1e-4)


def test_noise_is_of_the_index_the_class_and_the_key():
    noisy = np.asarray(refined(X, noise_std=0.1))
    np.testing.assert_allclose(refined(X[5:9], INDEX[5:9], noise_std=0.1), noisy[5:9], rtol=1e-5)
    assert not np.allclose(refined(X, key=jax.random.key(4), noise_std=0.1), noisy)
    still = refined(np.full_like(X, 0.5), noise_std=0.1)
    assert np.std(still[:, 0] - still[:, 1]) > 1e-3  # from the middle, the two differ by noise


def test_expected_scores_are_means_over_draws():
    def logits_fn(key, x):
        return refined(x, noise_std=0.2, key=key)

    found = refinement.expected_scores(logits_fn, LABEL, KEY, 3)(X)
    each = [
        attacks.scores_of_logits(logits_fn(jax.random.fold_in(KEY, i), X), LABEL) for i in range(3)
    ]
    np.testing.assert_allclose(found.loss, np.mean([s.loss for s in each], 0), rtol=1e-5)
    np.testing.assert_allclose(found.margin, np.mean([s.margin for s in each], 0), rtol=1e-4)
