"""The table of effects has every field of every section, and a test for each row."""

import importlib
import pathlib

import pytest
from effects_table import SHOWN, TABLE, value_of

from ebm_jax import tasks
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs import settings
from ebm_jax.settings import check_values, fields
from ebm_jax.training.optimizers import OPTIMIZERS


def every_section():
    """{name in the table: dataclass} of every kind of section."""
    found = {"": settings.General, **settings.SECTIONS}
    for section, known in (("network", NETWORKS), ("method", METHODS), ("optimizer", OPTIMIZERS)):
        found |= {f"{section}:{name}": cls for name, cls in known.items()}
    found |= {f"sampler:{name}": settings.sampler_settings(cls) for name, cls in METHODS.items()}
    modes = {name: tasks.load(name) for name in tasks.names()}
    return found | {
        name: task.Settings for name, task in modes.items() if hasattr(task, "Settings")
    }


FIELDS = {
    f"{section}.{field.name}" if section else field.name: (cls, field)
    for section, cls in every_section().items()
    for field in fields(cls)
}


def test_every_field_is_in_the_table():
    assert set(FIELDS) - set(TABLE) == set()
    assert set(TABLE) - set(FIELDS) == set()


@pytest.mark.parametrize("name", FIELDS)
def test_rows_have_another_legal_value(name):
    cls, field = FIELDS[name]
    assert value_of(name) != field.default
    check_values(cls, {field.name: value_of(name)})


def test_every_row_has_a_test():
    for file in pathlib.Path(__file__).parent.glob("test_*_effects.py"):
        importlib.import_module(file.stem)
    assert set(TABLE) - set(SHOWN) == set()
