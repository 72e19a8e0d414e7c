"""What binds a workdir follows from the section of a field alone: every field of every config."""

import json

import every_config
import pytest

from ebm_jax import tasks
from ebm_jax.runs import workdir
from ebm_jax.runs.settings import BINDS, FREE, ConfigError

CONFIGS = dict(every_config.configs())
SEEN = set()  # what was tried for one config is not tried again for others that have the same


def modes_with_settings():
    return [name for name in tasks.names() if hasattr(tasks.load(name), "Settings")]


def trained(config, path):
    """The workdir of a run that has a checkpoint."""
    (path / "checkpoints" / "1").mkdir(parents=True)
    workdir.describe_run(path, config)
    return path


def is_refused(path, config, purpose, name):
    try:
        workdir.check_config(path, config, purpose)
    except ConfigError as error:
        line = str(error)
    else:
        return False
    assert f" {name}: " in line
    assert len(line.splitlines()) == 1
    return True


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_binds_where_its_section_does(name, tmp_path):
    config = CONFIGS[name].copy_and_resolve_references()
    path = trained(config, tmp_path)
    is_constant = config.optimizer.schedule == "constant"
    for section, field, kind in every_config.all_fields(config):
        group = config[section] if section else config
        full = f"{section}.{field.name}" if section else field.name
        usual = group[field.name]
        cls = every_config.settings_of(config, section)
        tried = section, cls, field.name, repr(usual), is_constant
        if tried in SEEN:
            continue
        SEEN.add(tried)
        changed = every_config.another(usual, field, kind)
        assert changed != usual, full
        with config.unlocked(), group.ignore_type():
            group[field.name] = changed
        for purpose in ("resume", "evaluate"):
            binds = (section or field.name) in BINDS[purpose]
            if full == "training.num_steps" and is_constant:
                binds = False
            assert is_refused(path, config, purpose, full) == binds, (full, usual, changed)
        with config.unlocked(), group.ignore_type():
            group[field.name] = usual
    assert not is_refused(path, config, "resume", "")


@pytest.mark.parametrize("section", ["network", "method", "optimizer"])
def test_names_bind_too(section, tmp_path):
    config = CONFIGS["digits"].copy_and_resolve_references()
    path = trained(config, tmp_path)
    config[section].name = "another"
    assert is_refused(path, config, "resume", f"{section}.name")
    assert is_refused(path, config, "evaluate", f"{section}.name") == (section != "optimizer")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_section_is_said_to_bind_or_not(name):
    """A new one that is in no list fails here: say in `runs.settings` what it binds."""
    binding = {*BINDS["resume"], *BINDS["evaluate"]}
    free = {*FREE, *modes_with_settings()}
    assert not binding & free
    assert set(CONFIGS[name]) <= binding | free


def test_a_run_without_a_checkpoint_binds_nothing(tmp_path):
    """It diverged before the first one, say, and goes on with a lower learning rate."""
    config = CONFIGS["digits"].copy_and_resolve_references()
    workdir.describe_run(tmp_path, config)
    (tmp_path / "checkpoints").mkdir()
    config.optimizer.learning_rate = 1e-5
    assert not is_refused(tmp_path, config, "resume", "")
    (tmp_path / "checkpoints" / "5").mkdir()
    assert is_refused(tmp_path, config, "resume", "optimizer.learning_rate")


VALUES = {
    "training.ema_decay": [0.1 + 0.2, 1e-38, 0.0],
    "optimizer.learning_rate": [3e38, 2.0**-126, 1 / 3],
    "train.max_abs_energy": [1, 1e30],
    "method.noise_levels": [(), (0.1, 1 / 3)],
    "network.multipliers": [(1,), (1, 2, 3)],
    "data.name": ['a "quoted" näme\n', ""],
    "training.num_steps": [2**31 - 1],
}


@pytest.mark.parametrize("field", VALUES)
def test_values_survive_config_json(field, tmp_path):
    config = CONFIGS["digits"].copy_and_resolve_references()
    section, name = field.split(".")
    for value in VALUES[field]:
        with config[section].ignore_type():
            config[section][name] = value
        workdir.describe_run(tmp_path, config)
        saved = json.loads((tmp_path / "config.json").read_text())[section][name]
        assert (tuple(saved) if isinstance(saved, list) else saved) == value
        assert workdir.differences(workdir.saved_config(tmp_path), config, "resume") == []
