"""What a method takes from the data: found once, kept in the workdir, the same ever after."""

import dataclasses

import numpy as np
import pytest

from configs import digits_dual
from ebm_jax import data
from ebm_jax.io import weights
from ebm_jax.runs import build, data_facts, init_from, model_folder, settings
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import load_trained
from ebm_jax.tasks.train import main as train


def config_of(num_components):
    config = digits_dual.get_config("mixture")
    config.network.width = 4
    config.training.batch_size = 8
    config.method.update(num_components=num_components, chain_weight=0.0)
    config.optimizer.warmup_steps = 0
    config.optimizer.schedule = "constant"
    return config


def mixture_of(config, workdir=None):
    return build.build(config, workdir=workdir).method.data_mixture


def test_a_mixture_is_that_of_the_training_images_in_model_units():
    """The weights' sum, and mean and covariance of all, which EM leaves as the data's."""
    found, facts = mixture_of(config_of(2)), build.build(config_of(1)).method.data_moments
    assert found.num_components == 2
    assert found.weights.sum() == pytest.approx(1)
    mean = found.weights @ found.means
    np.testing.assert_allclose(mean, facts.mean, atol=1e-6)
    away = found.means - mean
    both = np.einsum("k,kij->ij", found.weights, found.covariances)
    both += np.einsum("k,ki,kj->ij", found.weights, away, away)
    np.testing.assert_allclose(both, facts.covariance, atol=1e-6)
    assert mixture_of(config_of(1)) is None


def test_dequantized_intensities_are_the_middles_of_their_cells():
    images = np.arange(40, dtype=np.uint8).reshape(20, 2, 1, 1)
    dataset = data.Dataset("numbers", "train", images, np.zeros(20, np.int32), 1, (0, 255))
    options = {"num_components": 1, "noise_std": 0.1, "seed": 0}
    plain = data.data_mixture(dataset, 0.0, 255.0, **options)
    cells = data.data_mixture(dataset, 0.0, 256.0, dequantized=True, **options)
    np.testing.assert_allclose(plain.means, [[19, 20]])
    np.testing.assert_allclose(cells.means, plain.means + 0.5)
    variance = np.var(np.arange(0, 40, 2))
    np.testing.assert_allclose(plain.covariances[0], np.full((2, 2), variance), rtol=1e-9)


@pytest.mark.parametrize("dequantize", [False, True])
def test_facts_are_in_model_units_and_by_the_seed_of_the_run(monkeypatch, dequantize):
    config = config_of(2)
    config.seed = 5
    config.data.update(low=-2.0, high=4.0, dequantize=dequantize)
    asked, usual = [], data.data_mixture
    monkeypatch.setattr(
        data,
        "data_mixture",
        lambda *given, **how: asked.append((given, how)) or usual(*given, **how),
    )
    dataset = data.load_dataset("digits", "train")
    found = data_facts.of_data(config, dataset, None)
    ((given, how),) = asked
    assert given[1:] == (-2.0, 4.0)
    assert (how["seed"], how["num_components"], how["dequantized"]) == (5, 2, dequantize)
    assert how["noise_std"] == config.method.min_noise
    values = (dataset.images + 0.5) / 256 if dequantize else dataset.images / 255
    mean = -2 + 6 * values.reshape(len(values), -1).mean(0)
    np.testing.assert_allclose(found.moments.mean, mean, atol=1e-5)
    np.testing.assert_allclose(found.mixture.weights @ found.mixture.means, mean, atol=1e-5)


def test_it_is_kept_and_read_once_something_is_trained(tmp_path):
    config = config_of(2)
    found = mixture_of(config, tmp_path)  # nothing is there
    other = found._replace(means=found.means + 1)
    data_facts.keep(tmp_path, DataFacts(mixture=other))
    np.testing.assert_array_equal(mixture_of(config, tmp_path).means, found.means)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    for name, value in mixture_of(config, tmp_path)._asdict().items():
        np.testing.assert_array_equal(value, getattr(other, name))
    np.testing.assert_array_equal(
        weights.read(tmp_path / "mixture.safetensors")["data_mixture"]["means"], other.means
    )


def test_a_run_keeps_its_own_and_one_that_starts_from_it_takes_it(tmp_path):
    """From the workdir, and from the model's folder, whatever noise it begins at."""
    config, first = starting_from_nothing(2), tmp_path / "first"
    assert train(config, first) == 0
    found = data_facts.kept(first).mixture
    trained = load_trained(config, first)
    for mixture in (mixture_of(config), trained.run.method.data_mixture):
        for name, value in found._asdict().items():
            np.testing.assert_array_equal(value, getattr(mixture, name))
    (tmp_path / "model").mkdir()
    for name, content in model_folder.contents(trained).items():
        (tmp_path / "model" / name).write_bytes(content)
    for name in ("first", "model"):
        config, workdir = starting_from(tmp_path / name, 2), tmp_path / f"from_{name}"
        config.method.min_noise = 0.1
        assert train(config, workdir) == 0
        again = load_trained(config, workdir).run.method
        for mixture in (data_facts.kept(workdir).mixture, again.data_mixture):
            np.testing.assert_array_equal(mixture.covariances, found.covariances)
        x = found.means[:1].astype(np.float32).reshape(1, 8, 8, 1)
        noised = found._replace(covariances=found.covariances + 0.01 * np.eye(64))
        energy = again.base_law.energy(x, np.float32(0.01))
        np.testing.assert_allclose(-energy, noised.log_density(x), rtol=1e-4)


def starting_from(origin, num_components):
    """Its own mixture would be another, by the seed."""
    config = config_of(num_components)
    config.seed, config.training.num_steps = 5, 0
    config.training.init_from = str(origin)
    return config


def test_parameters_about_another_number_of_gaussians_are_refused(tmp_path):
    """Unless they are about one and are to be trained; other methods may start anywhere."""
    for number in (1, 2):
        assert train(starting_from_nothing(number), tmp_path / str(number)) == 0
    for origin, number, said in (
        (2, 3, "a mixture of 2 Gaussians: expected method.num_components=2, got 3"),
        (2, 1, "a mixture of 2 Gaussians: expected method.num_components=2, got 1"),
        (1, 2, "1 Gaussian: expected method.num_components=1, got 2"),
    ):
        workdir = tmp_path / f"{number}_from_{origin}"
        with pytest.raises(ConfigError, match=f"learned about {said}$"):
            train(starting_from(tmp_path / str(origin), number), workdir)
        assert not (workdir / "config.json").exists()
    config = starting_from(tmp_path / "2", 3)
    config.training.num_steps = 1  # which learns nothing of another number either
    with pytest.raises(ConfigError, match=r"expected method\.num_components=2, got 3$"):
        train(config, tmp_path / "trained_on")
    config = starting_from(tmp_path / "1", 2)
    config.training.num_steps = 1
    assert train(config, tmp_path / "trained_on") == 0
    assert load_trained(config, tmp_path / "trained_on").run.method.data_mixture is not None


def starting_from_nothing(num_components):
    config = config_of(num_components)
    config.training.num_steps = 1
    return config


def test_what_is_not_there_or_cannot_be_is_said_in_one_line(tmp_path):
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"mixture.safetensors is missing or of an earlier version"
    ):
        mixture_of(config_of(2), tmp_path)
    with_its_noise = mixture_of(config_of(2))._asdict()  # as it was kept before, by another name
    content = weights.to_bytes({"mixture": with_its_noise})
    (tmp_path / "mixture.safetensors").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"mixture.safetensors is missing or of an earlier version"
    ):
        mixture_of(config_of(2), tmp_path)
    (tmp_path / "mixture.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"mixture.safetensors is no safetensors file"):
        mixture_of(config_of(2), tmp_path)
    with pytest.raises(ConfigError, match=r"^method.num_components: expected at most 901, .* 902$"):
        mixture_of(config_of(902))


def test_runs_of_other_methods_keep_nothing(tmp_path):
    data_facts.keep(tmp_path, DataFacts(moments=data.Moments(np.zeros(2), np.eye(2))))
    assert not list(tmp_path.iterdir())


@dataclasses.dataclass(frozen=True)
class Taking:
    """Takes all that there is."""

    data_moments: object = None
    labels: object = None
    data_mixture: object = None


@dataclasses.dataclass(frozen=True)
class TakingNothing:
    """Takes nothing, though its config has a number."""


MIXTURE = data.Mixture(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])


def test_what_a_method_does_not_take_is_not_looked_for(monkeypatch):
    """Nor labels of classes, nor a mixture of one; labels are of the first thousand."""
    asked = []
    monkeypatch.setattr(data_facts, "METHODS", {"all": Taking, "nothing": TakingNothing})
    monkeypatch.setattr(
        data, "moments", lambda dataset, *units, dequantized: asked.append((units, dequantized))
    )
    monkeypatch.setattr(
        data, "data_mixture", lambda dataset, *units, **how: asked.append((units, how)) or MIXTURE
    )
    config = config_of(1)
    config.seed = 5
    config.data.update(low=-2.0, high=4.0, dequantize=True)
    values = np.arange(2_004.0).reshape(1_002, 2)
    dataset = data.Dataset("made", "train", np.zeros((1_002, 1, 1, 1)), values, 1, (0, 255))

    def found(dataset=dataset, **method):
        asked.clear()
        with config.unlocked():
            config.method = {"min_noise": 0.25, **method}
        return data_facts.of_data(config, dataset, None)

    assert found(name="nothing", num_components=3) == DataFacts()
    assert asked == []
    facts = found(name="all", num_components=2)
    how = {"num_components": 2, "noise_std": 0.25, "seed": 5, "dequantized": True}
    assert asked == [((-2.0, 4.0), True), ((-2.0, 4.0), how)]
    np.testing.assert_array_equal(facts.labels, values[:1_000])
    np.testing.assert_array_equal(facts.mixture.covariances, MIXTURE.covariances)
    for others in ({"num_components": 1}, {}):
        classes = dataset._replace(labels=np.zeros(1_002, np.int32))
        assert found(classes, name="all", **others)[1:] == (None, None)
        assert len(asked) == 1


@pytest.mark.parametrize("theirs", [None, 2])
@pytest.mark.parametrize("ours", [None, 2, 3])
@pytest.mark.parametrize("is_trained_on", [False, True])
def test_mixtures_that_a_run_may_start_from(monkeypatch, tmp_path, theirs, ours, is_trained_on):
    """Its own number; or one of its own, where theirs were about none and learn anew."""
    own, kept = (data.Mixture(*[np.ones((n, 1))] * 3) if n else None for n in (ours, theirs))
    origin = tmp_path / "a@b"
    monkeypatch.setattr(data_facts, "kept", {origin: DataFacts(mixture=kept)}.__getitem__)
    described = settings.General(), settings.Data(), settings.Sampling()
    run = build.Run(None, None, Taking(data_mixture=own), *described)
    if theirs == ours or (theirs is None and is_trained_on):
        found = init_from.with_its_mixture(run, str(origin), is_trained_on=is_trained_on)
        assert found.method.data_mixture is (kept or own)
    else:
        said = "a mixture of 2 Gaussians" if theirs else "1 Gaussian"
        with pytest.raises(ConfigError) as error:
            init_from.with_its_mixture(run, str(origin), is_trained_on=is_trained_on)
        assert str(error.value) == (
            f"training.init_from: the parameters of {origin} were learned about {said}: expected "
            f"method.num_components={theirs or 1}, got {ours or 1}"
        )
    other = build.Run(None, None, TakingNothing(), *described)
    assert init_from.with_its_mixture(other, "nowhere", is_trained_on=is_trained_on) is other
