"""docs/metrics.md names what a run of each method writes, and its code reads it."""

import json
import re

import documents
import pytest
from main_processes import TINY, TINY_IGEBM, run_main

PAGE = documents.ROOT / "docs/metrics.md"
METHODS = re.findall(r"^### `(\w+)`", PAGE.read_text(), flags=re.MULTILINE)
OPTIONAL = {"classifier_of_neighbors", "classifier_of_levels"}  # the page says of what

_POINTS = (
    "--config.cpu_devices=1",
    "--config.network.width=4",
    "--config.network.depth=1",
    "--config.sampler.num_steps=2",
    "--config.optimizer.schedule=constant",
    "--config.training.batch_size=8",
    "--config.train.log_every=1",
    "--config.train.sample_every=0",
    "--config.sampling.num_samples=8",
    "--config.sampling.batch_size=8",
)
_MDSM = (
    "--config=configs/digits_mdsm.py",
    "--config.network.width=4",
    "--config.network.multipliers=(1,)",
    "--config.network.num_blocks=1",
    "--config.method.num_levels=8",
    "--config.sampler.num_hot=1",
    "--config.sampler.num_cooling=1",
    "--config.sampler.num_final=1",
    "--config.training.batch_size=16",
    *(word for word in _POINTS if "optimizer" in word or "train." in word or "devices" in word),
    "--config.sampling.num_samples=8",
    "--config.sampling.batch_size=8",
)
RUNS = {
    "recovery_likelihood": TINY,
    "contrastive_divergence": TINY_IGEBM,
    "denoising_score_matching": _MDSM,
    "energy_discrepancy": ("--config=configs/toy2d.py:two_moons_energy_discrepancy", *_POINTS),
    "dual_score_matching": (
        "--config=configs/toy2d.py:two_moons_dual_score_matching",
        "--config.method.chain_weight=1.0",
        "--config.method.num_components=2",
        *_POINTS,
    ),
}


def fields(heading):
    """{name: whether it is by level} of the table under a heading."""
    section = re.split(r"^#", PAGE.read_text().partition(f"# {heading}\n")[2], flags=re.MULTILINE)[
        0
    ]
    named = re.findall(r"^\| `(\w+)`( by level)? \|", section, flags=re.MULTILINE)
    assert named, heading
    return {name: bool(by_level) for name, by_level in named}


def documented(name, known):
    """The field of the page that a name of a line is of; None where there is none."""
    base, _, member = name.partition("/")
    base = re.sub("_from_(buffer|chain|data|noise)$", "_from_S", base)
    if base not in known or known[base] != bool(re.fullmatch(r"levels?_\d+(_to_\d+)?", member)):
        return None
    return base


def test_every_method_is_there():
    from ebm_jax.methods.registry import METHODS as registered

    assert sorted(METHODS) == sorted(registered) == sorted(RUNS)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_what_is_said_and_no_more(method, tmp_path):
    result = run_main(*RUNS[method], f"--workdir={tmp_path}", "--config.training.num_steps=2")
    assert result.code == 0, result.err
    known = fields("Fields of every run") | fields(f"`{method}`")
    first, last = (json.loads(s) for s in (tmp_path / "metrics.jsonl").read_text().splitlines())
    names = {name: documented(name, known) for name in first | last}
    assert not [name for name, field in names.items() if field is None]
    assert set(names.values()) == set(known) - OPTIONAL
    assert "steps_per_second" not in first
    assert last["steps_per_second"] > 0
    read = documents.run_in_order(documents.blocks(PAGE, "python"))["read_metrics"](tmp_path)
    assert set(read) == set(names) - {"step", "time"}
    assert [step for step, _ in read["loss"]] == [1, 2]
    assert read["loss"][1][1] == last["loss"]
