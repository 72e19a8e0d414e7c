"""What README.md, CONTRIBUTING.md and docs/ say runs, is there, and has these names.

A block of Python that cannot be run alone has `<!-- not run: why -->` on the line before it.
docs/samplers.md has a test of its own for its code, samplers/test_samplers_docs.py.
"""

import functools
import importlib
import pathlib
import re
import tomllib

import documents
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from documents import PAGES, ROOT
from ml_collections import config_flags

import ebm_jax
from configs import default, toy2d
from ebm_jax import data, samplers, tasks
from ebm_jax.data import registry
from ebm_jax.methods.base import Method
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs import build

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON = [
    block
    for page in PAGES
    if page.name not in ("samplers.md", "CONTRIBUTING.md")
    for block in documents.blocks(page, "python")
]
PACKAGES = {path.stem for path in (ROOT / "ebm_jax").iterdir()}


@pytest.mark.parametrize("block", PYTHON, ids=lambda b: f"{b.page.name}:{b.line}")
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a block writes does not land in the tree
    if block.is_run:
        documents.run_in_order([block])
    else:
        compile(block.text, str(block.page), "exec")


def shell_commands():
    """(page, command) of every shell block, and of the docstrings of configs/."""
    for page in PAGES:
        for block in documents.blocks(page, "bash"):
            yield from ((page, words) for words in documents.commands(block.text))
    for path in sorted((ROOT / "configs").glob("*.py")):
        text = "\n".join(re.findall(r"^    (python .*)$", path.read_text(), flags=re.MULTILINE))
        yield from ((path, words) for words in documents.commands(text))


def check_main(arguments):
    """Parses the flags of main.py as it does: the config loads, its overrides name its fields."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_enum("mode", "train", tasks.names(), "", flag_values=values)
    program = ["main.py", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", program)  # where config_flags looks for overrides
        assert values(program) == ["main.py"]
    assert values.config.to_dict()


def what_is_wrong(words):
    """Why a command cannot be run as it stands; None where it can."""
    if words[:2] == ["python", "main.py"]:
        try:
            check_main([word for word in words[2:] if word != "--workdir=..."])
        except Exception as error:
            return str(error)
    elif words[:2] == ["python", "-m"] and words[2].startswith("ebm_jax."):
        return None if resolves(words[2]) else f"there is no {words[2]}"
    elif words[0] == "python" and not (ROOT / words[1]).is_file():
        return f"there is no {words[1]}"
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"\.\[([\w,-]+)\]", " ".join(words))
        unknown = set(",".join(extras).split(",")) - set(PROJECT["optional-dependencies"]) - {""}
        return f"there is no extra {unknown}" if unknown else None
    elif words[0].startswith(".ci/") and not (ROOT / words[0]).is_file():
        return f"there is no {words[0]}"
    return None


def test_commands_can_be_run():
    commands = list(shell_commands())
    assert sum(words[:2] == ["python", "main.py"] for _, words in commands) > 20
    wrong = [
        f"{page.name}: {' '.join(words)}: {why}"
        for page, words in commands
        if (why := what_is_wrong(words)) is not None
    ]
    assert not wrong, "\n".join(wrong)


_FOLDERS = "ebm_jax|configs|docs|tests|benchmarks|examples|.ci"


def exists(path):
    """Whether a path of prose is there: from the root, ebm_jax/ or configs/, with * or <name>."""
    parts = pathlib.PurePosixPath(path).parts
    if any("<" in part for part in parts):  # yet to be written: its folder is there
        parts = parts[: next(i for i, part in enumerate(parts) if "<" in part)]
    pattern = "/".join(parts)
    return any(any(ROOT.glob(f"{folder}{pattern}")) for folder in ("", "ebm_jax/", "configs/"))


@each_page
def test_files_exist(page):
    missing = []
    for quoted in documents.quoted(page):
        path = re.sub(r":\w+$", "", quoted)  # a config's variant
        in_folder = re.fullmatch(rf"({_FOLDERS})/[\w./*<>-]*", path)
        if in_folder or re.fullmatch(r"[\w./*-]+\.(py|md|toml|cff|txt)", path):
            missing += [] if exists(path) else [quoted]
    assert not missing, f"{page.name} names files that are not there: {missing}"


def resolves(dotted):
    """Whether 'ebm_jax.a.b' is a module or a name in one."""
    parts = dotted.split(".")
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(parts[:i]))
            except ImportError:
                return False
    return True


@each_page
def test_dotted_names_resolve(page):
    """`ebm_jax.a.b` wherever it stands, and `a.b` in backticks where a is a module of ours."""
    fields = set(default.get_config())
    names = re.findall(r"\bebm_jax(?:\.[A-Za-z_]\w*)+", documents.prose(page))
    for quoted in documents.quoted(page):
        match = re.match(r"([a-z_]+)\.[A-Za-z_][\w.]*\w", quoted)
        if match and match[1] in PACKAGES - fields:
            names.append(f"ebm_jax.{match[0]}")
    missing = {name for name in names if not name.endswith(".py") and not resolves(name)}
    assert not missing, f"{page.name} names what is not there: {missing}"


@functools.cache
def words_of_the_code():
    """Every word of the package, the configs and the benchmarks."""
    paths = [
        p for name in ("ebm_jax", "configs", "benchmarks") for p in (ROOT / name).rglob("*.py")
    ]
    return set(re.findall(r"\w+", " ".join(path.read_text(encoding="utf-8") for path in paths)))


_CLASS_OR_CONSTANT = re.compile(r"\$?([A-Z][a-z]+[A-Z]\w*|[A-Z]{2,}[A-Z_]{2,})(\(.*\))?")


@each_page
def test_names_in_backticks_are_of_the_code(page):
    """`CamelCase` and `ALL_CAPS`."""
    code = words_of_the_code() | {"CHANGELOG", "README", "TFDS_DATA_DIR", "XLA_FLAGS"}
    matches = (_CLASS_OR_CONSTANT.fullmatch(quoted) for quoted in documents.quoted(page))
    missing = {match[1] for match in matches if match} - code
    assert not missing, f"{page.name} names what the code does not: {missing}"


@each_page
def test_links_lead_somewhere(page):
    wrong = []
    for link in documents.links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"https?://", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in documents.anchors(target)):
            wrong.append(link)
    assert not wrong, f"{page.name} links to what is not there: {wrong}"


# The recipes of CONTRIBUTING.md.

RECIPES = [f"A {name}" for name in ("data set", "network", "method", "sampler", "task")]


def skeleton(title):
    """The names that a recipe's blocks define, executed in order."""
    found = documents.blocks(ROOT / "CONTRIBUTING.md", "python")
    return documents.run_in_order([block for block in found if block.section == title])


def test_every_recipe_has_a_checklist_and_a_skeleton():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for title in RECIPES:
        section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
        assert 3 <= section.count("\n- [ ] ") <= 4, title
        assert "```python" in section, title
    found = documents.blocks(ROOT / "CONTRIBUTING.md", "python")
    assert {block.section for block in found} == set(RECIPES)


def tiny(**sections):
    """Two steps on points of the plane with a small network, for a folder of its own."""
    config = toy2d.get_config("two_moons_energy_discrepancy")
    config.network = default.network("mlp", width=8, depth=1)
    config.sampler.num_steps = 4
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    config.training.num_steps, config.training.batch_size = 2, 16
    config.sampling.num_samples = config.sampling.batch_size = 16
    for name, section in sections.items():
        config[name] = section
    return config


def test_recipe_of_a_data_set(monkeypatch):
    source = skeleton("A data set")["SOURCE"]
    monkeypatch.setitem(registry._BY_NAME, source.name, source)
    train, test = data.load_dataset("stripes"), data.load_dataset("stripes", "test")
    assert train.example_shape == (8, 8, 1)
    assert train.images.dtype == np.uint8
    flat = np.ptp(train.images[..., 0], axis=2).max(axis=1) == 0  # each row of one intensity
    np.testing.assert_array_equal(flat, train.labels == 0)
    assert not np.array_equal(train.images, test.images)


def test_recipe_of_a_network(monkeypatch):
    monkeypatch.setitem(NETWORKS, "radial", skeleton("A network")["RadialNet"])
    network = build.build(tiny(network=default.network("radial", width=8))).method.network
    x = jnp.array([[3.0, 4.0], [5.0, 0.0], [0.0, 1.0]])
    params = network.init(jax.random.key(0), x, jnp.array(1))["params"]
    energies = np.asarray(network.apply({"params": params}, x, jnp.array([1, 1, 1])))
    assert energies.shape == (3,)
    np.testing.assert_allclose(energies[0], energies[1], rtol=1e-5)
    assert energies[0] != energies[2]


def test_recipe_of_a_method(monkeypatch, tmp_path):
    """The skeleton trains and samples as a mode; its loss at f = 0 is the size of the noise."""
    names = skeleton("A method")
    monkeypatch.setitem(METHODS, "score_matching", names["ScoreMatching"])
    config = tiny(
        method=default.method("score_matching"),
        sampler=default.sampler("score_matching", num_steps=3),
    )
    method = build.build(config).method
    assert isinstance(method, Method)
    batch = {"image": jnp.zeros((4_000, 2))}
    params, state = method.init(jax.random.key(0), batch)
    zero = jax.tree.map(jnp.zeros_like, params)
    loss, _ = method.loss(zero, state, batch, jax.random.key(1))
    assert loss == pytest.approx(2.0, abs=4 * np.sqrt(2 * 2 / 4_000))  # of chi^2_2
    assert tasks.run("train", config, tmp_path) == 0
    assert tasks.run("sample", config, tmp_path) == 0
    assert np.isfinite(np.load(tmp_path / "sample" / "samples.npz")["x"]).all()


def test_recipe_of_a_sampler():
    """A Gaussian's standard deviation, from 4,000 chains."""
    kernel = skeleton("A sampler")["random_walk"](lambda x: jnp.sum(x**2, axis=1) / 8, 3.0)
    state, info = samplers.run_chain(jax.random.key(0), kernel, jnp.zeros((4_000, 2)), 200)
    np.testing.assert_allclose(state.x.std(axis=0), 2.0, rtol=4 / np.sqrt(2 * 4_000))
    assert 0.3 < info.acceptance.mean() < 0.6


def test_recipe_of_a_task(monkeypatch, tmp_path, capsys):
    """A file in the folder of tasks is a mode, with a section of every config."""
    found = documents.blocks(ROOT / "CONTRIBUTING.md", "python")
    (block,) = (block for block in found if block.section == "A task")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "moments.py").write_text(block.text)
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    assert "moments" in tasks.names()
    config = tiny()
    assert config.moments.num_samples == 100
    config.moments.num_samples = 16
    assert tasks.run("train", config, tmp_path / "run") == 0
    assert tasks.run("moments", config, tmp_path / "run") == 0
    assert "of 16 samples" in capsys.readouterr().out
    assert (tmp_path / "run" / "moments" / "moments.json").is_file()


def test_the_package_is_this_tree():
    assert pathlib.Path(ebm_jax.__file__).parent == ROOT / "ebm_jax"
