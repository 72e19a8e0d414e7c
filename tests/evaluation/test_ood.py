"""AUROC against the formula of two Gaussians and scikit-learn; sets of other images; scores."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from ebm_jax.evaluation import ood
from ebm_jax.evaluation.level_energies import evenly_spaced_levels, ood_scores

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(30, 6, 4, 3))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.0, 1.0), (1.5, 2.0)])
def test_two_gaussians(mean, deviation):
    """N(0, 1) against N(m, s^2): Phi(m / sqrt(1 + s^2)), the interval as Hanley and McNeil have it.

    Their variance (1982): [A (1 - A) + (n - 1)(Q1 - A^2 + Q2 - A^2)] / n^2, by the scores' own
    Q1 = P(two outside > one inside), Q2 = P(one outside > two inside), here by simulation.
    """
    n = 1_500
    found = ood.auroc(
        RNG.normal(size=n), mean + deviation * RNG.normal(size=n), num_bootstrap=500, seed=0
    )
    area = norm.cdf(mean / np.sqrt(1 + deviation**2))
    x, y = RNG.normal(size=(2, 200_000)), mean + deviation * RNG.normal(size=(2, 200_000))
    q1, q2 = np.mean((y > x[0]).all(0)), np.mean((y[0] > x).all(0))
    deviation_of_area = np.sqrt((area * (1 - area) + (n - 1) * (q1 + q2 - 2 * area**2)) / n**2)
    assert found.value == pytest.approx(area, abs=4 * deviation_of_area)
    assert found.low < found.value < found.high
    width = 2 * norm.ppf(0.975) * deviation_of_area
    assert found.high - found.low == pytest.approx(width, rel=0.2)


def test_ties_count_half_and_intervals_are_of_resamples():
    inside, outside = RNG.integers(0, 4, 40), RNG.integers(1, 5, 50)
    found = ood.auroc(inside, outside, num_bootstrap=4_000, seed=1)
    label = np.repeat([0, 1], [40, 50])
    value = roc_auc_score(label, np.concatenate([inside, outside]))
    assert found.value == pytest.approx(value, abs=1e-14)
    resampled = [
        roc_auc_score(label, np.concatenate([RNG.choice(inside, 40), RNG.choice(outside, 50)]))
        for _ in range(400)
    ]
    np.testing.assert_allclose(
        [found.low, found.high], np.percentile(resampled, [2.5, 97.5]), atol=0.03
    )
    for one, other, area in ((0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (2.0, 2.0, 0.5)):
        single = ood.auroc(np.array([one]), np.array([other]), num_bootstrap=2, seed=0)
        assert single == (area, area, area)
    same = ood.auroc(np.zeros(9), np.zeros(9), num_bootstrap=1, seed=0)
    assert same == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="some scores are not finite"):
        ood.auroc(np.array([0.0, np.inf]), outside, num_bootstrap=1, seed=0)
    for scores, others, num_bootstrap in (
        (inside, outside, 0), (inside[:0], outside, 9), (inside, outside[:0], 9),
    ):  # fmt: skip
        said = f"got {len(scores)} and {len(others)} scores and {num_bootstrap}$"
        with pytest.raises(ValueError, match=rf"^expected .* and num_bootstrap >= 1, {said}"):
            ood.auroc(scores, others, num_bootstrap=num_bootstrap, seed=0)


@pytest.mark.parametrize("decimals", [0, 15])
def test_interval_is_scikit_learns_area_of_each_resample(decimals):
    inside, outside = RNG.normal(size=70).round(decimals), RNG.normal(0.5, 2, 90).round(decimals)
    found = ood.auroc(inside, outside, num_bootstrap=200, seed=3)
    rng, label = np.random.default_rng(3), np.repeat([0, 1], [70, 90])
    areas = []
    for _ in range(200):
        chosen = [x[rng.integers(0, len(x), len(x))] for x in (inside, outside)]
        areas.append(roc_auc_score(label, np.concatenate(chosen)))
    np.testing.assert_allclose(found[1:], np.percentile(areas, [2.5, 97.5]), rtol=1e-13)


def test_sets_of_other_images_are_what_they_say():
    made = {name: ood.synthetic_set(name, IMAGES, seed=0) for name in ood.NAMES}
    assert all(x.shape == IMAGES.shape for x in made.values())
    assert made["uniform_noise"].mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * IMAGES.size))
    assert np.ptp(made["constants"], axis=(1, 2)).max() == 0
    assert len(np.unique(made["constants"])) == 30 * 3
    hit = np.all((made["salt_and_pepper"] == 0) | (made["salt_and_pepper"] == 1), axis=3)
    assert hit.mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / hit.size))
    np.testing.assert_array_equal(made["salt_and_pepper"][~hit], IMAGES[~hit])
    np.testing.assert_array_equal(made["flipped"][:, 0], IMAGES[:, -1])
    flat = IMAGES.reshape(30, -1, 3)
    shuffled = made["shuffled"].reshape(30, -1, 3)
    for before, after in zip(flat, shuffled, strict=True):
        assert {tuple(p) for p in before} == {tuple(p) for p in after}
        assert np.any(before != after)
    pair = 2 * made["interpolations"] - IMAGES  # the other image of each
    distance = np.abs(pair[:, None] - IMAGES).max((2, 3, 4))
    assert distance.min(1).max() < 1e-12
    assert np.all(distance.argmin(1) != np.arange(30))
    two = ood.synthetic_set("interpolations", IMAGES[:2], seed=0)
    np.testing.assert_allclose(two, [IMAGES[:2].mean(0)] * 2)
    one = ood.synthetic_set("interpolations", IMAGES[:1], seed=0)  # there is no other
    np.testing.assert_array_equal(one, IMAGES[:1])
    other = ood.synthetic_set("uniform_noise", IMAGES, seed=1)
    assert np.all(other != made["uniform_noise"])
    with pytest.raises(ValueError, match="unknown set 'fog': expected some of uniform_noise"):
        ood.synthetic_set("fog", IMAGES, seed=0)


def test_images_of_another_data_set_are_resized():
    images = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    small = ood.resize_to(images, (8, 8, 3))
    means = images.reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(small, means, atol=1.5)
    gray = ood.resize_to(images, (16, 16, 1))
    assert gray.shape == (3, 16, 16, 1)
    luminance = images @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray[..., 0], luminance, atol=1)
    tall = ood.resize_to(gray, (8, 4, 1))
    np.testing.assert_allclose(tall, gray.reshape(3, 8, 2, 4, 4, 1).mean((2, 4)), atol=1.5)
    repeated = ood.resize_to(images[..., :1], (16, 16, 3))
    np.testing.assert_array_equal(repeated, np.repeat(images[..., :1], 3, 3))


def test_scores_by_name():
    energy, gradient = RNG.normal(size=(2, 7, 3))
    training = {"energy": RNG.normal(size=(50, 3))}
    found = ood_scores({"energy": energy, "grad_norm": gradient}, training, np.array([0, 2, 5]))
    assert list(found) == [
        "energy 0", "energy 2", "energy 5", "energy, sum", "typicality",
        "gradient norm 0", "gradient norm 2", "gradient norm 5",
    ]  # fmt: skip
    np.testing.assert_allclose(found["energy, sum"], energy.sum(1))
    typical = np.abs(energy.sum(1) - training["energy"].sum(1).mean())
    np.testing.assert_allclose(found["typicality"], typical)
    one = ood_scores(
        {"energy": energy[:, :1], "grad_norm": gradient[:, :1]},
        {"energy": training["energy"][:, :1]}, np.array([0]),
    )  # fmt: skip
    assert list(one) == ["energy", "typicality", "gradient norm"]
    np.testing.assert_array_equal(evenly_spaced_levels(6, 6), np.arange(6))
    np.testing.assert_array_equal(evenly_spaced_levels(1000, 3), [0, 500, 999])
    np.testing.assert_array_equal(evenly_spaced_levels(1, 6), [0])
    with pytest.raises(ValueError, match="max_levels: expected at least 1, got 0"):
        evenly_spaced_levels(6, 0)
