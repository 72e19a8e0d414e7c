"""What the fields of modes that compare energies of examples do, on a run that is known."""

import numpy as np
import pytest
from effects_stubs import full_bars, images, stubs
from effects_table import shows
from known_model import A_BAR, SAMPLES, SIGMA_BAR, VARIANCE, columns_of, config_of, rows_of, run

from ebm_jax.evaluation import ood as ood_scores
from ebm_jax.io import charts, image_grids
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks import neighbours

__all__ = ["full_bars", "run", "stubs"]


@shows(*rows_of("neighbours"))
def test_neighbours(run, monkeypatch):
    drawn = columns_of(monkeypatch)
    found = run("neighbours", config_of(*rows_of("neighbours")))
    assert found["num_energies"] == {"training": 16, "held out": 16}
    assert found["measured_on"]["num_samples"] == 8
    names = {"energy 0", "energy 5", "energy, sum"}
    assert set(found["kolmogorov_smirnov_of_energies"]) == names
    assert [list(columns) for columns in drawn] == [["sample", "nearest 1", "nearest 2"]] * 2
    training = images("train").images.reshape(120, 4) / 127.5 - 1
    nearest = np.linalg.norm(SAMPLES[:8].reshape(8, 1, 4) - training, axis=2).min(1)
    pixels = found["distance_to_nearest_training_image"]["pixels"]
    assert pixels["median_sample"] == pytest.approx(np.median(nearest), rel=1e-3)


@shows(*(row for row in rows_of("ood") if row != "ood.of_classes"))
def test_ood(run, monkeypatch):
    """Held-out images have energies chi^2_4 / 2; those of uniform values by simulation."""
    asked, usual = [], ood_scores.auroc
    monkeypatch.setattr(
        ood_scores, "auroc", lambda *a, **kw: asked.append((*map(len, a), kw)) or usual(*a, **kw)
    )
    found = run("ood", config_of(*(row for row in rows_of("ood") if row != "ood.of_classes")))
    assert list(found["auroc"]) == ["uniform_noise", "digits"]
    assert found["levels"] == [0, 2, 5]
    assert found["measured_on"]["num_samples"] == 40
    assert {(n, m, kw["num_bootstrap"]) for n, m, kw in asked} == {(40, 40, 20)}
    rng = np.random.default_rng(0)
    uniform = A_BAR[0] * rng.uniform(-1, 1, (100_000, 4)) + SIGMA_BAR[0] * rng.normal(
        size=(100_000, 4)
    )
    inside = rng.chisquare(4, 100_000) / 2
    outside = np.sum(uniform**2, 1) / (2 * VARIANCE[0])
    area = np.mean(outside > inside)
    assert area > 0.8
    value = found["auroc"]["uniform_noise"]["energy 0"]["value"]
    assert value == pytest.approx(area, abs=4 * np.sqrt(area * (1 - area) / 40))
    config = config_of(ood={"num_images": 20, "num_bootstrap": 5, "max_levels": 1})
    config.held_out_split = "validation"
    sets = run("ood", config)
    assert (found["inside"], sets["inside"]) == ("cifar10, test", "cifar10, validation")
    assert len(sets["auroc"]) == 6
    assert sets["levels"] == [0]
    few = {"num_images": 20, "num_bootstrap": 5, "max_levels": 1, "sets": ()}
    assert list(run("ood", config_of(ood={**few, "others": ("digits",)}))["auroc"]) == ["digits"]
    with pytest.raises(
        ConfigError, match=r"ood\.sets, ood\.others: expected one or more, got none"
    ):
        run("ood", config_of(ood=few))


@pytest.mark.parametrize(
    ("mode", "numbers", "changes"),
    [
        ("neighbours", "kolmogorov_smirnov_of_energies", {"max_levels": 3, "num_images": 100}),
        ("neighbours", "kolmogorov_smirnov_of_energies", {"num_images": 100}),  # the first are kept
        ("ood", "auroc", {"max_levels": 3}),
        ("ood", "auroc", {"num_images": 120}),  # of which the training images are others
        ("ood", "auroc", {"sets": ("uniform_noise",)}),
    ],
)
def test_energies_that_an_interrupted_command_leaves_are_its_own(
    run, monkeypatch, mode, numbers, changes
):
    """Another command, of other levels, images or sets, does not take them up."""
    usual = {"num_images": 64, "max_levels": 2}
    usual |= {"sets": ("flipped",), "num_bootstrap": 5} if mode == "ood" else {"num_samples": 8}

    def interrupted(*_):
        raise RuntimeError("as the figure is drawn")

    def tiny(*_):
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(neighbours, "supports", lambda *_: False)
    monkeypatch.setattr(image_grids, "columns_picture", tiny)
    monkeypatch.setattr(charts, "histograms_picture", interrupted)
    with pytest.raises(RuntimeError, match="figure"):
        run(mode, config_of(**{mode: usual}))
    monkeypatch.setattr(charts, "histograms_picture", tiny)
    found, whole = (run(mode, config_of(**{mode: usual | changes})) for _ in range(2))
    assert found[numbers] == whole[numbers]
