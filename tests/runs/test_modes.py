"""The harness of modes, with a task and a method of a few lines."""

import dataclasses
import json
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default, toy2d
from ebm_jax import parallel, tasks
from ebm_jax.data import Dataset
from ebm_jax.runs import build, modes
from ebm_jax.runs.results import Result
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES = Dataset(
    "made", "train", np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int32), 1, (0, 255)
)


class Counting:
    """A method whose samples are their indices."""

    def sample(self, params, rng_key, index):
        """[n, 2, 2, 1]."""
        return jnp.broadcast_to(1.0 * index[:, None, None, None], (len(index), 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the mode `evaluate`, whose section of the config this task has."""

    num_samples: int = setting(40, "samples", at_least=1)
    from_levels: tuple[int, ...] = setting((), "not asked for here", at_least=1)


def task(fails):
    """Sums its samples, or fails when they are there."""

    def run(trained, settings, work):
        samples = trained.samples(work, settings.num_samples)
        if fails:
            raise ValueError("a cheap setting is wrong")
        return Result(len(samples), {"sum": samples.sum()}, ["summed"], {}, {"x": {"x": samples}})

    return types.SimpleNamespace(Settings=Settings, IMAGES_ONLY=False, run=run)


@pytest.fixture
def batches(monkeypatch):
    """The first index of every batch that was computed."""
    made, plain = [], parallel.map_examples

    def counted(fn, batch_size):
        mapped = plain(fn, batch_size)

        def call(common, *arrays):
            made.append(int(arrays[0][0]))
            return mapped(common, *arrays)

        return call

    def load_trained(config, workdir):
        general, sections = build.check_sections(config)
        run = build.Run(config, IMAGES, Counting(), general, sections["data"], sections["sampling"])
        return TrainedRun(run, 3, {"unused": np.zeros(())}, 0.9)

    monkeypatch.setattr(parallel, "map_examples", counted)
    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))
    return made


def config_of(**sections):
    config = default.get_config()
    config.sampling.batch_size = 16
    config.evaluate.num_samples = 40
    for name, fields in sections.items():
        config[name].update(fields)
    return config


def run(config, path, *, fails=False):
    return modes.run_task(task(fails), "evaluate", config, path, other_modes=["ood", "fid"])


def test_what_results_on_the_way_depend_on():
    """All sections but those of training and of other modes, whatever they are called."""
    trained = types.SimpleNamespace(step=3)

    def of(**sections):
        return modes.fingerprint(config_of(**sections), trained, "evaluate", ["ood", "evaluate"])

    usual = of()
    assert (usual["mode"], usual["checkpoint_step"]) == ("evaluate", 3)
    for free in ({"ood": {"num_images": 7}}, {"optimizer": {"learning_rate": 0.5}}):
        assert of(**free) == usual
    for matters in ({"evaluate": {"num_samples": 7}}, {"sampler": {"noise_scale": 0.5}}):
        assert of(**matters) != usual


def test_sections_of_other_modes_are_checked_too(tmp_path):
    config = config_of(ood={"num_images": 0})
    with pytest.raises(
        ConfigError, match=r"^ood\.num_images: expected a whole number >= 2, got 0$"
    ):
        tasks.run("report", config, tmp_path)


def test_a_result_is_written(tmp_path, batches, capsys):
    assert run(config_of(), tmp_path) == 0
    assert batches == [0, 16, 32]
    found = json.loads((tmp_path / "evaluate/evaluate.json").read_text())
    assert found["sum"] == 4 * sum(range(40))
    assert found["measured_on"]["checkpoint_step"] == 3
    assert found["settings"] == {"num_samples": 40, "from_levels": []}
    assert "summed\n" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "evaluate").iterdir())
    assert names == ["evaluate.json", "x.npz"]  # no partial work, no lock


KEPT = {
    "nothing": {},
    "more samples": {"evaluate": {"num_samples": 48}},
    "fewer samples": {"evaluate": {"num_samples": 36}},
    "another mode's setting": {"ood": {"num_images": 7}},
    "the number of the grid": {"sampling": {"num_samples": 7}},
    "how it was trained": {"optimizer": {"learning_rate": 0.5}},
}


@pytest.mark.parametrize(("change", "again"), [
    *((change, []) for name, change in KEPT.items() if name not in ("more samples",)),
    (KEPT["more samples"], [32]),
    ({"sampler": {"noise_scale": 0.5}}, [0, 16, 32]),
    ({"sampling": {"seed": 5}}, [0, 16, 32]),
    ({"ensemble": {"temperature": 2.0}}, [0, 16, 32]),
    ({"compute": {"dtype": "bfloat16"}}, [0, 16, 32]),
])  # fmt: skip
def test_samples_are_kept_unless_they_would_be_others(change, again, tmp_path, batches):
    with pytest.raises(ConfigError, match=r"^a cheap setting is wrong$"):
        run(config_of(), tmp_path, fails=True)
    assert batches == [0, 16, 32]
    batches.clear()
    assert run(config_of(**change), tmp_path) == 0
    number = change.get("evaluate", {}).get("num_samples", 40)
    if number == 36:
        again = [32]  # the last batch has fewer
    assert batches == again
    np.testing.assert_array_equal(
        np.load(tmp_path / "evaluate/x.npz")["x"][:, 0, 0, 0], range(number)
    )
    assert not (tmp_path / "evaluate/partial").exists()


def test_samples_of_another_checkpoint_are_made_again(tmp_path, batches, monkeypatch):
    with pytest.raises(ConfigError):
        run(config_of(), tmp_path, fails=True)
    batches.clear()
    load = modes.load_trained
    monkeypatch.setattr(
        modes, "load_trained", lambda *given: dataclasses.replace(load(*given), step=4)
    )
    assert run(config_of(), tmp_path) == 0
    assert batches == [0, 16, 32]


def test_two_at_once(tmp_path, batches):
    (tmp_path / "evaluate").mkdir()
    with modes.Lock(tmp_path / "evaluate"), pytest.raises(ConfigError, match="is in use by"):
        run(config_of(), tmp_path)
    assert batches == []


def test_a_folder_that_cannot_be_written(tmp_path, batches):
    (tmp_path / "evaluate").write_text("a file")
    with pytest.raises(ConfigError, match="evaluate cannot be written"):
        run(config_of(), tmp_path)
    assert batches == []


def test_what_is_for_images_refuses_points(tmp_path):
    """Statistics of real images too, which need no trained model, before any file is asked for."""
    config = toy2d.get_config()
    with pytest.raises(ConfigError, match=r"fid_stats is for images and checkerboard has points: "):
        tasks.run("fid_stats", config, tmp_path)
    run = build.build(config)
    with pytest.raises(ConfigError, match=r"--mode=fid is for .*: use --mode=evaluate, which"):
        modes.check_images(run, "fid")
