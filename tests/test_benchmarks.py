"""What the benchmarks count; what they time is not tested."""

import json
import os
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import data_at_size
import devices
import fashion_mnist_and_ebmkit
import held_out_combinations
import measure
import methods_on_digits
import requirements
import timed_runs
import train_step

from ebm_jax.data import load_dataset
from ebm_jax.networks.recovery_resnet import RecoveryResNet


@pytest.fixture(scope="module")
def module():
    return RecoveryResNet(8, 1, width=4, multipliers=(1, 2), num_blocks=1)


def test_layers_are_the_convolutions_of_one_evaluation(module):
    layers = [tuple(layer) for layer in train_step.layers_of(module)]
    assert layers == [(8, 1, 4), (8, 4, 4), (8, 4, 4), (4, 4, 8), (4, 8, 8), (4, 4, 8)]


def test_a_chain_costs_as_many_gradients_as_it_has_steps(module):
    assert train_step.gradients_per_step(module, 2) == train_step.NUM_STEPS


def test_floor_takes_the_fastest_formulation_of_every_layer():
    layer, other = train_step.Layer(8, 4, 4), train_step.Layer(4, 4, 8)
    seconds = {
        (layer, "chain", "native"): np.array([0.4, 0.8, 0.6]),
        (layer, "chain", "flipped"): np.array([0.2, 0.2, 9.0]),
        (other, "chain", "dense"): np.array([0.1]),
        (other, "update", "native"): np.array([7.0]),
    }
    total, each = train_step.floor_seconds([layer, other, layer], seconds, "chain")
    assert total == pytest.approx((2 * 0.2 + 0.1) / train_step.REPEATS)
    once = {
        how: 1e3 * value / train_step.REPEATS for how, value in (("native", 0.6), ("flipped", 0.2))
    }
    assert each["8x8 4->4"] == pytest.approx(once)


def test_all_reduces_are_found_with_their_bytes():
    hlo = """
    %all-reduce.1 = (f32[3,2]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}
    %done = f32[5]{0} fusion(%all-reduce.1)
    %r = bf16[4]{0} all-reduce-start(%c), channel_id=2
    """
    assert devices.all_reduces(hlo) == [4 * 7, 2 * 4]


@pytest.mark.parametrize(
    ("name", "gradients"), [("digits.py", 20), ("digits_igebm.py", 200), ("digits_mdsm.py", 561)]
)
def test_gradients_per_sample(name, gradients):
    config = timed_runs.load_config(name)
    assert methods_on_digits.gradients_per_sample(config) == gradients


def test_a_config_is_named_as_on_the_command_line():
    assert timed_runs.load_config("toy2d.py:rings").data.name == "rings"
    assert timed_runs.load_config("toy2d.py").data.name == "checkerboard"


def test_steps_of_a_given_time_are_measured_once_and_kept(tmp_path, monkeypatch):
    calls = []

    def run_main(name, workdir, *flags):
        calls.append(name)
        workdir.mkdir(parents=True)
        lines = [{"step": 30, "time": 5.0}, {"step": 60, "time": 11.0}]  # 5 steps a second
        (workdir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr(timed_runs, "run_main", run_main)
    assert timed_runs.num_steps_in("digits.py", tmp_path, 60.0) == 300
    assert timed_runs.num_steps_in("digits.py", tmp_path, 60.0) == 300
    assert calls == ["digits.py"]


def test_another_setting_wants_another_workdir(tmp_path):
    asked = {"minutes": 1.0, "peer": {"channels": (3, 4)}}
    for _ in range(2):
        fashion_mnist_and_ebmkit.check_asked(tmp_path / "asked.json", asked)
    with pytest.raises(SystemExit, match=r"expected a new one, as .* was begun with"):
        fashion_mnist_and_ebmkit.check_asked(tmp_path / "asked.json", {**asked, "minutes": 2.0})


def test_flops_are_two_for_each_multiplication_and_loops_are_multiplied_out():
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
    a, b = jnp.zeros((4, 6)), jnp.zeros((6, 7))

    def function(a, b, image, kernel):
        def step(total, _):
            return total + jnp.sum(jax.jit(jnp.dot)(a, b)), None

        out = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.scan(step, jnp.sum(out), length=10)[0]

    found = requirements.count_flops(jax.make_jaxpr(function)(a, b, image, kernel).jaxpr)
    assert found == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3) + 10 * 2 * 4 * 6 * 7


def test_a_row_in_parts_says_what_it_needs():
    args = types.SimpleNamespace(devices=4, parts=8)
    run, on_device, parts = requirements.run_of("cifar10:t1k", {"microbatch": True}, args)
    assert run.dataset.example_shape == (32, 32, 3)
    assert (on_device, parts) == (64, 8)
    line = requirements._line(
        "x", {
            "plain": {"refused": "no memory"},
            "parts": {
                "parameters": 1_230_000, "batch_size_per_device": 8, "argument_bytes": 2**29,
                "flops_per_step_and_device": 2.5e12, "temporary_bytes": 2**30,
            },
        }
    )  # fmt: skip
    assert line == ["x", "1.23", "8", "2.5", "more than there is", "1.5 GiB"]


def test_functions_are_timed_in_turn_and_not_at_their_first_call():
    calls = []
    seconds = measure.time_in_turn({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=3)
    assert "".join(calls) == "ab" + "ab" * 3
    assert all(len(values) == 3 and (values >= 0).all() for values in seconds.values())


def composed(number, **factors):
    """What --mode=compose writes, of so many models: errors that say what they are of."""
    rows = {
        name: {
            place: {"error": value + i, "standard_error": 0.01}
            for i, place in enumerate([str(number), "real", "chance"])
        }
        for name, value in factors.items()
    }
    pixels = {str(number): {"rmse": 0.1, "standard_error": 0.0, "psnr": 20.0}}
    pixels["chance"] = {"rmse": 0.3, "standard_error": 0.0, "psnr": 10.0}
    return {"models": ["any"] * number, "factors": rows, "pixels": pixels}


def test_what_was_measured_otherwise_is_measured_again(tmp_path):
    """With other settings, or before a run was trained further."""
    asked = {"workdirs": ("there",), "num_steps": 40}
    measured = held_out_combinations.measured
    (tmp_path / "checkpoints/10").mkdir(parents=True)
    assert measured(tmp_path, asked, (tmp_path,)) is None
    path = tmp_path / "compose/compose.json"
    path.parent.mkdir()
    wrote = {"settings": {"workdirs": ["there"], "num_steps": 40, "order": "sum"}, "models": []}
    path.write_text(json.dumps(wrote))
    assert measured(tmp_path, asked, (tmp_path,)) == wrote
    assert measured(tmp_path, {**asked, "num_steps": 60}, (tmp_path,)) is None
    assert measured(tmp_path, {**asked, "workdirs": ()}, (tmp_path,)) is None
    (tmp_path / "checkpoints/20").mkdir()
    later = path.stat().st_mtime + 1
    os.utime(tmp_path / "checkpoints/20", (later, later))
    assert measured(tmp_path, asked, (tmp_path,)) is None


def test_curves_of_held_out_combinations():
    """The sum's last model is the whole sum; floor and chance are of the sum's regressions."""
    both, one = held_out_combinations.MODELS
    results = {
        share: {
            both: composed(2, size=10 * share, position=20 * share),
            one: composed(1, size=30 * share, position=40 * share),
        }
        for share in (0.1, 0.5)
    }
    found = held_out_combinations.errors(results)
    assert found["size"] == {
        both: [[1.0, 0.01], [5.0, 0.01]],
        "real images": [[2.0, 0.01], [6.0, 0.01]],
        "another image": [[3.0, 0.01], [7.0, 0.01]],
        one: [[3.0, 0.01], [15.0, 0.01]],
    }
    assert found["position"][one] == [[4.0, 0.01], [20.0, 0.01]]
    assert found["pixels"] == {
        both: [[0.1, 0.0]] * 2, "another image": [[0.3, 0.0]] * 2, one: [[0.1, 0.0]] * 2
    }  # fmt: skip
    picture = held_out_combinations.picture([0.1, 0.5], found)
    assert picture.dtype == np.uint8
    assert picture.min() < 100


@pytest.mark.parametrize("name", ["celeba", "church"])
def test_written_sets_are_read(name, tmp_path):
    """In the published formats, as many as were written, each decoded from its own bytes."""
    chosen = data_at_size.small(data_at_size.SETS[name])
    assert chosen.write(tmp_path, chosen.numbers) > 1_000
    for split, number in chosen.numbers.items():
        dataset = load_dataset(chosen.name, split, data_dir=tmp_path, image_size=8)
        assert dataset.images.shape == (number, 8, 8, 3)
        different = np.unique(dataset.images.reshape(number, -1), axis=0)
        assert len(different) == min(number, data_at_size.NUM_ENCODED)


def test_a_process_is_measured_and_its_refusal_kept():
    """What it allocates is anonymous; a refusal is its last line."""
    done = data_at_size.run("-c", "import time; x = b'x' * 10**8; time.sleep(.3)")
    assert done.refusal == ""
    assert done.seconds > 0.3
    assert 1e8 < done.anonymous_bytes <= done.resident_bytes + 2**20
    assert data_at_size.run("-c", "import sys; sys.exit('no')").refusal == "no"


def test_rows_of_sizes():
    one = data_at_size.Measured(3.2, 3_000_000, 2_000_000, "")
    commands = {
        "first load": one._asdict(),
        "fid_stats": one._replace(refusal="no weights")._asdict(),
        "neighbours": one._replace(is_ended=True)._asdict(),
    }
    found = {"examples": {"train": 1_200, "test": 34}, "decoded_bytes": 5e9, "commands": commands}
    assert data_at_size.rows({"any": found}) == [
        ["any (1,234; 5.00 GB)", "first load", "3", "2", "3"],
        ["", "fid_stats", "refused", "2", "3"],
        ["", "neighbours", "3, ended", "2", "3"],
    ]


def test_a_process_is_ended_after_so_many_seconds():
    found = data_at_size.run("-c", "import time; time.sleep(60)", at_most=2)
    assert found.is_ended
    assert found.refusal == ""
    assert 2 <= found.seconds < 30
    failed = data_at_size.run("-c", "import sys; sys.exit('no data')")
    assert (failed.is_ended, failed.refusal) == (False, "no data")
