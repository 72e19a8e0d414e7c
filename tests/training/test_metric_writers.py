"""metrics.jsonl and TensorBoard events: valid, each step once, also after a kill and a resume."""

import json
import math
import os
import struct
import time
import types

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ebm_jax.training import metric_writers
from ebm_jax.training.metric_writers import MetricWriter


def read_lines(workdir):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def read_events(workdir):
    """The events of all files, in the order of the files' names (TFRecord framing)."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def scalars(events):
    return [
        (value.tag, event.step, value.simple_value)
        for event in events
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_lines_and_events(tmp_path):
    before = time.time()
    with MetricWriter(tmp_path / "run") as writer:
        assert not (tmp_path / "run").exists()  # nothing is made before there is something
        writer.write(1, {"loss": np.float32(0.5), "gap": jax.numpy.asarray([1.0, 2.0]), "n": 3})
        writer.write(20, {"loss": 0.25})
        writer.images(20, {"samples": np.full((4, 6, 1), 128, np.uint8)})
    first, second = read_lines(tmp_path / "run")
    assert {k: v for k, v in first.items() if k != "time"} == {
        "step": 1,
        "loss": 0.5,
        "gap": [1.0, 2.0],
        "n": 3,
    }
    assert second["step"] == 20
    assert before - 1 < first["time"] <= second["time"] < time.time() + 1
    events = read_events(tmp_path / "run")
    assert scalars(events) == [
        ("loss", 1, 0.5),
        ("gap/0", 1, 1.0),
        ("gap/1", 1, 2.0),
        ("n", 1, 3.0),
        ("loss", 20, 0.25),
    ]
    (image,) = [v.image for e in events for v in e.summary.value if v.HasField("image")]
    assert (image.height, image.width) == (4, 6)


def test_a_line_is_on_disk_at_once(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [1]
    writer.images(1, {"samples": np.zeros((2, 2, 3), np.uint8)})
    file = writer._file
    writer.close()
    assert file.closed
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_steps_of_numpy_are_plain_numbers_and_times_are_in_milliseconds(tmp_path, monkeypatch):
    """Step 0 may be the first; services get the same numbers as the file, without TensorBoard."""
    sent = []
    others = types.SimpleNamespace(
        scalars=lambda step, values: sent.append((step, values)),
        images=lambda step, images: sent.append((step, sorted(images))),
    )
    monkeypatch.setattr(time, "time", lambda: 12.34567)
    folder = str(tmp_path / "runs" / "one")
    with MetricWriter(folder, tensorboard=False, others=others) as writer:
        with pytest.raises(ValueError, match="step -1 cannot be written after step -1"):
            writer.write(-1, {})
        for step in np.arange(2):
            writer.write(step, {"gap": np.array([1.5])})
        writer.images(step, {"samples": np.zeros((2, 2, 1), np.uint8)})
    assert (tmp_path / "runs/one/metrics.jsonl").read_text() == (
        '{"step": 0, "time": 12.346, "gap": [1.5]}\n{"step": 1, "time": 12.346, "gap": [1.5]}\n'
    )
    assert sent == [(0, {"gap/0": 1.5}), (1, {"gap/0": 1.5}), (1, ["samples"])]
    assert {type(step) for step, _ in sent} == {int}


def test_events_are_handed_over_twice_a_minute_and_when_asked_to(tmp_path, monkeypatch):
    done = []

    class Events:
        def __init__(self, folder, **options):
            done.append((folder, options["purge_step"], options["flush_secs"]))

        add_scalar = flush = close = lambda self, *of: done.append(of)

    monkeypatch.setattr(metric_writers, "SummaryWriter", Events)
    with MetricWriter(tmp_path) as writer:
        writer.flush()
        assert done == []
        writer.write(3, {"loss": 0.5})
        assert done == [(str(tmp_path / "tensorboard"), None, 30), ("loss", 0.5, 3)]
        writer.flush()
        assert done[2:] == [()]


def test_a_file_without_anything_to_drop_is_left_as_it_is(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0.0}\n')
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    with MetricWriter(tmp_path) as writer:
        writer.rewind(1)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before


def test_non_finite_values_stay_valid_json(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": np.nan, "e": jax.numpy.asarray([jax.numpy.inf, -jax.numpy.inf])})
    (line,) = read_lines(tmp_path)
    assert (line["loss"], line["e"]) == ("NaN", ["Infinity", "-Infinity"])
    assert math.isnan(float(line["loss"]))
    assert [float(e) for e in line["e"]] == [math.inf, -math.inf]


def test_tensorboard_gets_no_nan_and_stays_silent(tmp_path, caplog):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": np.nan, "gap": np.array([1.0, np.nan, 3.0])})
        writer.write(2, {"loss": 2.0})
    assert scalars(read_events(tmp_path)) == [
        ("gap/0", 1, 1.0),
        ("gap/2", 1, 3.0),
        ("loss", 2, 2.0),
    ]
    assert not caplog.records


def test_resume_drops_later_steps_and_a_line_cut_short(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(10, 60, 10):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "time": 1.0, "lo')  # killed in the middle of a line
    with MetricWriter(tmp_path) as writer:
        writer.rewind(30)
        writer.write(40, {"loss": -40.0})
        writer.rewind(30)  # and once more within the same run, within the same second
        writer.write(40, {"loss": -41.0})
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, 30.0),
        (40, -41.0),
    ]
    ends = [path.name.split(".")[-2:] for path in sorted((tmp_path / "tensorboard").iterdir())]
    assert ends[-2:] == [[str(os.getpid()), "0"], [str(os.getpid()), "1"]]
    events = read_events(tmp_path)
    starts = [e.step for e in events if e.session_log.status == SessionLog.START]
    assert starts == [31, 31]  # TensorBoard forgets the steps from 31 on, twice
    assert scalars(events)[-2:] == [("loss", 40, -40.0), ("loss", 40, -41.0)]


def test_a_line_cut_short_never_joins_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0.0}\n{"step": 2, "ti')
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]


def test_rewind_to_the_start_and_past_the_end(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(5, {"loss": 1.0})
        writer.rewind(100)
        assert [line["step"] for line in read_lines(tmp_path)] == [5]
        writer.rewind(0)
        assert (tmp_path / "metrics.jsonl").read_text() == ""
        writer.write(1, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [1]


def test_refusals(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(5, {"loss": 1.0})
        with pytest.raises(ValueError, match="step 5 cannot be written after step 5"):
            writer.write(5, {"gap": 1.0})
        with pytest.raises(ValueError, match="cannot be called 'time'"):
            writer.write(6, {"time": 1.0})
        with pytest.raises(ValueError, match=r"'gap' has shape \(2, 2\)"):
            writer.write(6, {"gap": np.ones((2, 2))})
    with MetricWriter(tmp_path, tensorboard=False) as writer:  # also in a later process
        with pytest.raises(ValueError, match="after step 5"):
            writer.write(4, {"loss": 1.0})
    assert [line["step"] for line in read_lines(tmp_path)] == [5]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path) as writer:
        writer.rewind(3)
        writer.write(4, {"loss": 1.0})
        writer.images(4, {"samples": np.zeros((2, 2, 3), np.uint8)})
        writer.flush()
    assert list(tmp_path.iterdir()) == []
