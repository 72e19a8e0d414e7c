"""Every config and variant that there is, and other legal values for their fields."""

import importlib
import pathlib
import typing

from ebm_jax import tasks
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs import settings
from ebm_jax.settings import check_values, fields
from ebm_jax.training.optimizers import OPTIMIZERS

FOLDER = pathlib.Path(__file__).parents[2] / "configs"


def configs():
    """(name, config) of every file and variant: 'digits', 'digits:t1k'."""
    for path in sorted(FOLDER.glob("*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        for variant in getattr(module, "VARIANTS", ("",)):
            name = f"{path.stem}:{variant}" if variant else path.stem
            yield name, module.get_config(variant) if variant else module.get_config()


def settings_of(config, section):
    """The dataclass whose settings a section holds; that of no section for ''."""
    named = {"network": NETWORKS, "method": METHODS, "optimizer": OPTIMIZERS}
    if section in named:
        return named[section][config[section].name]
    if section == "sampler":
        return settings.sampler_settings(METHODS[config.method.name])
    if section == "":
        return settings.General
    return settings.SECTIONS.get(section) or tasks.load(section).Settings


def all_fields(config):
    """(section, dataclass field, kind) of every setting of a config, names of networks aside."""
    sections = [name for name, value in config.items() if hasattr(value, "items")]
    for section in ["", *sections]:
        cls = settings_of(config, section)
        kinds = typing.get_type_hints(cls)
        for field in fields(cls):
            yield section, field, kinds[field.name]


def another(value, field, kind):
    """A legal value of a field that differs from a given one."""
    one_of, bounds = field.metadata["one_of"], field.metadata["bounds"]
    if typing.get_origin(kind) is tuple:
        (item, *_) = typing.get_args(kind)
        if not value:
            return (another(None, field, item),)
        return tuple(value)[:-1] if len(value) > 1 else (*value, *value)
    if typing.get_args(kind):  # X | None; configs have 0 for None
        kind = typing.get_args(kind)[0]
    if kind is bool:
        return not value
    if kind is str:
        candidates = one_of or ("other", "another")
    else:
        candidates = [kind(n) for n in (1, 2, 0, 20, 21)] + ([0.5, 0.25] if kind is float else [])
        candidates = [n for n in candidates if bounds.allow(n)]
    return next(candidate for candidate in candidates if candidate != value)


def is_legal(cls, name, value):
    """Whether `check_values` takes a value."""
    try:
        check_values(cls, {name: value})
    except ValueError:
        return False
    return True
