"""What a result leaves in its folder and says; a run's last words; what `--help` lists."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest
from PIL import Image

from ebm_jax import overview, parallel
from ebm_jax.runs.results import Result, write_result
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.workdir import config_from_json, differences, has_checkpoints, resolve
from ebm_jax.tasks import card, train

IMAGES = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2, 1)


def write(folder, **fields):
    result = Result(
        **{"num_examples": 3, "metrics": {"value": 0.5}, "summary": ["one", "two"], "figures": {}}
        | fields
    )
    write_result(result, {"checkpoint_step": 7}, "a_mode", {"width": 2}, folder)


def test_a_result_is_files_and_words(tmp_path, capsys):
    folder = tmp_path / "a_mode"
    (folder / "grids").mkdir(parents=True)
    (folder / "grids/99.png").write_text("of an earlier result")
    write(
        folder,
        figures={"picture": IMAGES[1]},
        archives={"arrays": {"x": np.arange(3)}},
        image_folders={"grids": IMAGES},
        other_files={"a.txt": b"text"},
    )
    assert capsys.readouterr().out == (
        f"one\ntwo\n{folder}/a_mode.json; picture.png, arrays.npz, grids/*.png, a.txt\n"
    )
    assert json.loads((folder / "a_mode.json").read_text()) == {
        "mode": "a_mode", "measured_on": {"checkpoint_step": 7}, "settings": {"width": 2},
        "summary": ["one", "two"], "value": 0.5,
        "files": ["picture.png", "arrays.npz", "grids/*.png", "a.txt"],
    }  # fmt: skip
    names = sorted(path.name for path in (folder / "grids").iterdir())
    assert names == [f"{i:02d}.png" for i in range(12)]
    with Image.open(folder / "grids/03.png") as image:
        np.testing.assert_array_equal(np.asarray(image), IMAGES[3, ..., 0])
    with Image.open(folder / "picture.png") as image:
        np.testing.assert_array_equal(np.asarray(image), IMAGES[1, ..., 0])
    np.testing.assert_array_equal(np.load(folder / "arrays.npz")["x"], [0, 1, 2])
    assert (folder / "a.txt").read_bytes() == b"text"


def test_what_an_earlier_result_alone_wrote_is_removed(tmp_path):
    outside, folder = tmp_path / "kept.png", tmp_path / "a_mode"
    outside.write_text("not of this result")
    figures = {"left_out": IMAGES[0], "again": IMAGES[1]}
    write(folder, figures=figures, image_folders={"grids": IMAGES}, other_files={"b.txt": b"b"})
    (folder / "mine.txt").write_text("put there by hand")
    described = json.loads((folder / "a_mode.json").read_text())
    described["files"] += ["../kept.png", "..", "never_there.png", "gone/*.png", 3]
    (folder / "a_mode.json").write_text(json.dumps(described))
    write(folder, figures={"again": IMAGES[2]})
    assert {path.name for path in folder.iterdir()} == {"a_mode.json", "again.png", "mine.txt"}
    assert outside.exists()
    for damaged in ("not JSON", "[]", '{"files": 3}'):
        (folder / "a_mode.json").write_text(damaged)
        write(folder)
        assert (folder / "again.png").exists()


def test_a_result_by_another_name(tmp_path, capsys):
    write(tmp_path / "new", file_name="samples", metrics={"mode": "its own"})
    assert capsys.readouterr().out.endswith("new/samples.json; \n")
    assert json.loads((tmp_path / "new/samples.json").read_text())["mode"] == "its own"


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write(tmp_path / "new")
    train._say("said by the first alone")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("trajectories", "judge"), [(True, "rollout"), (False, "evaluate")])
def test_the_last_words_of_training(capsys, trajectories, judge):
    session = types.SimpleNamespace(
        run=types.SimpleNamespace(has_trajectories=trajectories), workdir=pathlib.Path("runs/x")
    )
    train._Session._summarize(session, 1200, types.SimpleNamespace(compile_seconds=12.4))
    assert capsys.readouterr().out == (
        "trained to step 1200; the first step took 12 s with its compilation\n"
        "  samples      runs/x/samples/step_0001200.png\n"
        "  checkpoints  runs/x/checkpoints/\n"
        "  metrics      runs/x/metrics.jsonl; tensorboard --logdir runs/x\n"
        f"next: the same command with --mode=sample or --mode={judge}\n"
    )
    train._Session._summarize(session, 1, types.SimpleNamespace(compile_seconds=None))
    assert "the first step took 0 s" in capsys.readouterr().out


def test_parts_of_the_examples_on_a_device():
    """Eight devices: of 96 examples each has 12."""
    assert [train._num_parts(96, size) for size in (0, 1, 3, 12)] == [1, 12, 4, 1]
    with pytest.raises(ConfigError, match=r"a divisor of the 12 examples .* as 4, got 5$"):
        train._num_parts(96, 5)
    with pytest.raises(ConfigError, match=r"as 12, got 100$"):
        train._num_parts(96, 100)


def test_going_back_says_so(capsys, tmp_path):
    """To the newest good step, with one more attempt."""
    from ebm_jax.training import divergence

    state = types.SimpleNamespace(attempt=np.int32(0), _replace=lambda **given: given)
    session = types.SimpleNamespace(
        checkpoints=types.SimpleNamespace(steps=lambda: [10, 20], restore=lambda step, _: state),
        settings=types.SimpleNamespace(max_retries=1),
        workdir=tmp_path,
    )
    at = divergence.DivergedAt(25, divergence.Divergence("the loss", float("nan")))
    assert train._Session.go_back(session, state, at)["attempt"] == 1
    assert capsys.readouterr().out == "diverged at step 25: going back to step 20\n"
    state.attempt = np.int32(1)
    with pytest.raises(divergence.DivergenceError, match=rf"{tmp_path}/checkpoints/20"):
        train._Session.go_back(session, state, at)


def test_columns_of_the_overview():
    """Names at the left, up to 26 characters with their indent; longer ones on a line above."""
    long = "a" * 25
    rows = {"short": "what it is", "b" * 24: "just fits", long: "beside " + "word " * 20}
    first, fits, above, *rest = overview._columns(rows)
    assert first == f"{'  short':<26}  what it is"
    assert fits == f"  {'b' * 24}  just fits"
    assert above == f"  {long}"
    assert rest[0].startswith(f"{'':<28}beside word")
    assert rest[1].startswith(f"{'':<28}word")
    assert max(map(len, rest)) <= 100
    variants = "name.py " + " ".join(f":variant_{i}" for i in range(12))
    lines = overview._columns({variants: "x"})
    assert lines[0].startswith("  name.py :variant_0")
    assert lines[1].startswith("    :variant_")
    assert lines[-1] == f"{'':<28}x"
    assert max(map(len, lines)) <= 100


def test_first_lines():
    assert overview._first_line("\n  one\ntwo") == "one"
    assert overview._first_line(None) == ""
    assert "report" in overview.modes()
    assert overview.modes()["report"].startswith("all that the workdir holds")
    assert not any(name.startswith("default") for name in overview.configs())


def test_numbers_and_devices():
    assert [parallel.round_up(n, 3) for n in (0, 1, 3, 4)] == [0, 3, 3, 6]
    assert parallel.round_up(9) == 16  # the eight devices of the tests
    parallel.check_divides("x", 6, 3)
    for number, nearest in ((1, 3), (7, 6), (8, 9)):
        with pytest.raises(ValueError, match=f"^x: .* 3 devices, such as {nearest}, got {number}$"):
            parallel.check_divides("x", number, 3)


def test_names_of_workdirs(tmp_path):
    assert resolve(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert resolve(f"file://localhost{tmp_path}") == tmp_path
    assert resolve("~") == pathlib.Path.home()
    for name, said in (
        ("", "expected a directory, got ''"),
        ("gs://bucket/x", "of this machine (mount a bucket as one), got gs://bucket/x"),
        ("file://elsewhere/x", "of this machine"),
        (tmp_path / ("x" * 256), "names of at most 255 bytes, got 256"),
        (tmp_path / "/".join(["y" * 200] * 30), "a path of at most"),
    ):
        with pytest.raises(ConfigError) as error:
            resolve(name)
        assert said in str(error.value)
    assert resolve(tmp_path / ("x" * 255)).name == "x" * 255
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="got the file"):
        resolve(tmp_path / "file")


def test_what_counts_as_trained(tmp_path):
    folder = tmp_path / "checkpoints"
    assert not has_checkpoints(tmp_path)
    folder.mkdir()
    (folder / "tmp").mkdir()
    assert not has_checkpoints(tmp_path)
    (folder / "damaged-3").mkdir()
    assert has_checkpoints(tmp_path)
    (folder / "damaged-3").rmdir()
    (folder / "3").mkdir()
    assert has_checkpoints(tmp_path)


def test_configs_come_back_from_json():
    found = config_from_json({"a": [1, [2, "NaN"]], "b": {"c": "-Infinity", "d": "text"}})
    assert found.a[0] == 1
    assert isinstance(found.a, tuple)
    assert found.a[1][0] == 2
    assert np.isnan(found.a[1][1])
    assert (found.b.c, found.b.d) == (-np.inf, "text")


def test_fields_that_differ():
    """More steps are free with constant learning rates alone; absent fields differ too."""
    config = config_from_json(
        {"seed": 1, "training": {"num_steps": 5}, "optimizer": {"schedule": "constant"},
         "report": {"x": 1}}
    )  # fmt: skip
    saved = {"seed": 2, "training": {"num_steps": 3, "gone": 1},
             "optimizer": {"schedule": "constant"}, "report": {"x": 2}}  # fmt: skip
    assert differences(saved, config, "resume") == ["seed: 2 -> 1", "training.gone: 1 -> absent"]
    assert differences(saved, config, "evaluate") == []
    config.optimizer.schedule = "cosine"
    assert differences(saved, config, "resume") == [
        "optimizer.schedule: constant -> cosine", "seed: 2 -> 1", "training.gone: 1 -> absent",
        "training.num_steps: 3 -> 5",
    ]  # fmt: skip


def test_a_card_quotes_what_was_measured_of_its_checkpoint(tmp_path):
    config = config_from_json({"sampler": {"num_steps": 3, "name": "x", "noise": 0.5}})
    ours = {"checkpoint_step": 7, "ensemble": None, "sampler": config.sampler.to_dict()}
    results = {
        "ood": {"measured_on": ours, "summary": ["a", "b"]},
        "fid": {"measured_on": ours | {"checkpoint_step": 6}, "summary": ["a"]},
        "inpaint": {"measured_on": ours | {"ensemble": {"x": 1}}, "summary": ["a"]},
        "restore": {"measured_on": ours | {"sampler": {}}, "summary": ["a"]},
        "classify": {"measured_on": ours, "summary": []},
        "card": {"measured_on": ours, "summary": ["a"]},
        "sample": {"measured_on": ours, "summary": ["a"]},
        "list": [1],
    }
    for name, content in results.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(json.dumps(content))
    (tmp_path / "half").mkdir()
    (tmp_path / "half/x.json").write_text("{")
    trained = types.SimpleNamespace(
        workdir=tmp_path, step=7, run=types.SimpleNamespace(config=config)
    )
    assert card._measured(trained) == {"ood": ["a", "b"]}
    trained.workdir = None
    assert card._measured(trained) == {}
    assert card._values(config.sampler) == "noise 0.5, num_steps 3"
