"""Every config and variant is built, and every value of every field is checked before any work."""

import math

import every_config
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ebm_jax import data, tasks
from ebm_jax.data import Dataset
from ebm_jax.data.sources.factors import VALUES
from ebm_jax.data.sources.trajectories import cut
from ebm_jax.methods.registry import METHODS
from ebm_jax.runs import build, settings
from ebm_jax.runs.settings import ConfigError
from ebm_jax.settings import check, check_values, fields

CONFIGS = dict(every_config.configs())
SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "svhn": ((32, 32, 3), 10),
    "imagenet32": ((32, 32, 3), 1_000),
    "celeba": ((32, 32, 3), 1),
    "lsun_church": ((64, 64, 3), 1),
    "lsun_bedroom": ((64, 64, 3), 1),
    "mnist": ((32, 32, 1), 10),
    "mnist5k": ((28, 28, 1), 10),
    "fashion_mnist": ((32, 32, 1), 10),
    "digits": ((8, 8, 1), 10),
    "folder": ((64, 64, 3), 1),
}


MILLIONS = {  # of the papers' networks
    "cifar10": 34.83,
    "celeba64": 56.27,
    "lsun_church64": 19.15,
    "lsun_bedroom64": 19.15,
    "lsun_church128": 29.12,
    "lsun_bedroom128": 71.90,
    "cifar10_mdsm": 62.3,
    "imagenet32_igebm": 89.6,
    "imagenet128_igebm": 21.2,
}


_NUM_EXAMPLES = 8
SAMPLES, PARAMS = {}, {}  # traced once for all configs of the same method, network, data's shape


def stub(config, split):
    """Some examples of the shape that the config's data set has."""
    name, value_range = config.data.name, (0.0, 255.0)
    labels = np.zeros(_NUM_EXAMPLES, np.int32)
    if name in ("dsprites", "shapes"):
        shape = (64, 64, 1) if name == "dsprites" else (32, 32, 1)
        num_classes = 3 if config.data.label == "shape" else 1
        if size := VALUES.get(config.data.label):
            labels = np.zeros((_NUM_EXAMPLES, size), np.float32)
    elif name in SHAPES:
        shape, num_classes = SHAPES[name]
        if size := config.data.image_size:
            shape = (size, size, shape[-1])
        if name == "folder":  # has as many as there are folders in it
            num_classes = config.network.get("num_classes") or 1
    elif name in ("pendulum", "linear_gaussian", "trajectories"):
        size = {"pendulum": 3, "linear_gaussian": 2, "trajectories": 31}[name]
        states = np.zeros((2, 6, size))
        actions = (np.zeros((2, 6, 20)),) * 2 if config.data.actions else None
        return cut(
            name, split, states, of_training=states, columns=["x"] * size,
            context=config.data.context, actions=actions,
        )  # fmt: skip
    else:
        density = data.toy_density(name)  # raises for any other
        shape, num_classes, value_range = (2,), 1, (-density.bound, density.bound)
    dtype = np.uint8 if len(shape) == 3 else np.float32
    examples = np.random.default_rng(0).integers(0, 2, (_NUM_EXAMPLES, *shape)).astype(dtype)
    return Dataset(name, split, examples, labels, num_classes, value_range)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_built(name, monkeypatch):
    """Its parameters have shapes, its optimizer takes them, and its samples have the data's."""
    config = CONFIGS[name]
    monkeypatch.setattr(build, "load_split", stub)
    tasks.check(config)
    assert config.data.name in data.dataset_names()
    run = build.build(config)
    described = repr(run.method), run.dataset.example_shape
    initialized = *described, config.optimizer.to_json_best_effort()
    if initialized not in PARAMS:
        PARAMS[initialized] = build.params_template(run)
    params = PARAMS[initialized]
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert number > 100
    if name in MILLIONS:
        assert number / 1e6 == pytest.approx(MILLIONS[name], rel=0.003)
    if described not in SAMPLES:
        SAMPLES[described] = jax.eval_shape(
            run.method.sample, params, run.key("sample"), np.arange(3, dtype=np.int32)
        )
    assert SAMPLES[described].shape == (3, *run.dataset.example_shape)


def test_dsprites_has_a_variant_for_every_label_of_the_paper():
    for variant, size in {"shape": 0, "size": 1, "position": 2, "rotation": 2}.items():
        config = CONFIGS[f"dsprites_igebm:{variant}"]
        assert config.data.label == variant
        assert config.network.label_size == size
        assert config.network.num_classes == (0 if size else 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_are_within_their_bounds(name):
    for section, field, _ in every_config.all_fields(CONFIGS[name]):
        cls = every_config.settings_of(CONFIGS[name], section)
        value = field.default
        check_values(cls, {field.name: value}, f"{section}.")
        assert field.metadata["meaning"].strip()


def wrong_values(field, kind):
    """Values that a field cannot have."""
    inner = [k for k in getattr(kind, "__args__", ()) if k not in (type(None), Ellipsis)]
    is_tuple, base = getattr(kind, "__origin__", None) is tuple, inner[0] if inner else kind
    bounds, wrong = field.metadata["bounds"], [None] if kind == base else []
    if base in (int, float):
        wrong += [math.nan, -math.inf, True, "1", 10**400, [[1]], 1j]
        wrong += [] if field.metadata["may_be_infinite"] else [math.inf]
        wrong += [1.5, 2**32, -(2**32)] if base is int else [1e39, 1e-40, -1e39]
        wrong += [-1] if not bounds.allow(-1) else []
        for bound in (bounds.above, bounds.below):
            wrong += [] if bound is None else [base(bound)]
    elif base is bool:
        wrong += [0, 1, "True", math.nan]
    else:
        wrong += [0, math.nan, True, b"text"]
        wrong += ["nothing of the kind"] if field.metadata["one_of"] else []
    if is_tuple:
        return [(value,) for value in wrong] + ["1", 1, None]
    return [*wrong, (1,)]


@pytest.mark.parametrize("name", ["digits", "digits:t1k", "digits_igebm", "digits_mdsm", "toy2d"])
def test_wrong_values_of_every_field_are_refused(name):
    """By the check before any mode, with one line that names the field."""
    name = name if name in CONFIGS else f"{name}:checkerboard"
    tasks.check(CONFIGS[name])
    for section, field, kind in every_config.all_fields(CONFIGS[name]):
        cls = every_config.settings_of(CONFIGS[name], section)
        full = f"{section}.{field.name}" if section else field.name
        for value in wrong_values(field, kind):
            with pytest.raises(ValueError, match=full) as refused:
                check_values(cls, {field.name: value}, f"{section}." if section else "")
            assert len(str(refused.value).splitlines()) == 1
        config = CONFIGS[name].copy_and_resolve_references()
        group = config[section] if section else config
        with group.ignore_type():
            group[field.name] = wrong_values(field, kind)[1]
        with pytest.raises(ConfigError, match=full):
            tasks.check(config)


@pytest.mark.parametrize("value", [1.0, 1, np.float32(0.5), 3e38, 2.0**-126])
def test_numbers_that_are_right(value):
    (field,) = (f for f in fields(tasks.load("train").Settings) if f.name == "max_abs_energy")
    assert every_config.is_legal(tasks.load("train").Settings, field.name, value)


def test_sections_that_are_not_there_or_too_many():
    config = CONFIGS["digits"].copy_and_resolve_references()
    with config.unlocked():
        config.restor = ConfigDict({"num_images": 3})
        with pytest.raises(ConfigError, match="has a section 'restor'; did you mean 'restore'"):
            tasks.check(config)
        del config.restor
        config.zzzzzz = ConfigDict({"num_images": 3})  # like none of them
        with pytest.raises(ConfigError, match="has a section 'zzzzzz'; did you mean '"):
            tasks.check(config)
        del config.zzzzzz
        del config.ood
    with pytest.raises(ConfigError, match="config has no section 'ood': start from"):
        tasks.check(config)


def test_instances_are_checked_too():
    for mode in tasks.names():
        if hasattr(tasks.load(mode), "Settings"):
            check(tasks.load(mode).Settings(), f"{mode}.")
    wrong = tasks.load("likelihood").Settings(num_chains=0)
    with pytest.raises(ValueError, match=r"likelihood\.num_chains: expected .* >= 1, got 0"):
        check(wrong, "likelihood.")


def test_settings_do_not_change_once_they_are_checked():
    """Of sections, modes, methods and their samplers."""
    classes = [settings.General, *settings.SECTIONS.values(), *METHODS.values()]
    classes += [settings.sampler_settings(method) for method in METHODS.values()]
    classes += [
        task.Settings for mode in tasks.names() if hasattr(task := tasks.load(mode), "Settings")
    ]
    assert len(classes) > 30
    for cls in classes:
        assert cls.__dataclass_params__.frozen, cls
