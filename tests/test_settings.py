"""Settings as dataclass fields: which values pass, at the edges of each bound, and what is said."""

import dataclasses
import math
import typing

import numpy as np
import pytest

from ebm_jax.settings import Bounds, check, check_values, defaults, fields, setting


@dataclasses.dataclass(frozen=True)
class Chain:
    """One setting of each kind, and a field that is none."""

    network: object = None
    count: int = setting(3, "steps", at_least=2, below=7)
    scale: float = setting(0.5, "times", above=-1, at_most=4)
    any_int: int = setting(0, "whole")
    any_float: float = setting(0.0, "number")
    bound: float = setting(math.inf, "or none", above=0, may_be_infinite=True)
    name: str = setting("mala", "kind", one_of=["mala", "hmc"])
    is_on: bool = setting(False, "switch")
    sizes: tuple[int, ...] = setting((2, 3), "each", at_least=2)
    rate: float | None = setting(None, "or none", below=1)
    old: typing.Optional[int] = setting(None, "or none", at_least=1)  # noqa: UP045


RIGHT = {
    "count": [2, 6, np.int64(5)],
    "scale": [-0.999, 4, 4.0, np.float32(0.25), 0, -0.0],
    "any_int": [2**31 - 1, -(2**31) + 1, 0],
    "any_float": [3.4e38, -3.4e38, 2.0**-126, -(2.0**-126), 2**31, 0.0],
    "bound": [math.inf, 1e-3, 3.4e38],
    "name": ["mala", "hmc"],
    "is_on": [True, False],
    "sizes": [(), (2,), (5, 2, 2**31 - 1), [3, 4]],
    "rate": [None, 0.999, -5],
    "old": [None, 1],
}


@pytest.mark.parametrize("name", RIGHT)
def test_values_that_a_setting_may_have(name):
    for value in RIGHT[name]:
        check_values(Chain, {name: value})


COUNT, SCALE = "a whole number >= 2 and < 7", "a number > -1 and <= 4"
INT32, FLOAT32 = "of a size from 0 to 2147483647", "of a size from 1.17549e-38 to 3.4e+38"
WRONG = [
    ("count", 1, f"expected {COUNT}, got 1"),
    ("count", 7, f"expected {COUNT}, got 7"),
    ("count", 3.0, f"expected {COUNT}, got 3.0"),
    ("count", True, f"expected {COUNT}, got True"),
    ("count", None, f"expected {COUNT}, got None"),
    ("scale", -1, f"expected {SCALE}, got -1"),
    ("scale", 4.001, f"expected {SCALE}, got 4.001"),
    ("scale", math.nan, f"expected {SCALE}, got nan"),
    ("scale", "1", f"expected {SCALE}, got '1'"),
    ("any_int", 2**31, f"expected a whole number {INT32}, got 2147483648"),
    ("any_int", -(2**31), f"expected a whole number {INT32}, got -2147483648"),
    ("any_int", 10**5_000, f"expected a whole number {INT32}, got an integer of 16610 bits"),
    ("any_float", 3.5e38, f"expected a number {FLOAT32}, got 3.5e+38"),
    ("any_float", -3.5e38, f"expected a number {FLOAT32}, got -3.5e+38"),
    ("any_float", 2.0**-127, f"expected a number {FLOAT32}, got 5.877471754111438e-39"),
    ("any_float", -(2.0**-127), f"expected a number {FLOAT32}, got -5.877471754111438e-39"),
    ("any_float", math.inf, f"expected a number {FLOAT32}, got inf"),
    ("bound", -math.inf, "expected a number > 0, got -inf"),
    ("bound", 1e39, f"expected a number > 0 {FLOAT32}, got 1e+39"),
    ("name", "hm", "expected one of mala, hmc, got 'hm'; did you mean 'hmc'?"),
    ("name", "zzz", "expected one of mala, hmc, got 'zzz'; did you mean 'mala'?"),
    ("name", 3, "expected text, got 3"),
    ("is_on", 1, "expected True or False, got 1"),
    ("sizes", (2, 1), "expected a whole number >= 2, got 1"),
    ("sizes", 2, "expected a tuple of a whole number, got 2"),
    ("sizes", "23", "expected a tuple of a whole number, got '23'"),
    ("sizes", None, "expected a tuple of a whole number, got None"),
    ("rate", 1.0, "expected a number < 1, got 1.0"),
    ("old", 0, "expected a whole number >= 1, got 0"),
    ("count", "x" * 78, f"expected {COUNT}, got '{'x' * 78}'"),  # 80 characters with its quotes
    ("count", "x" * 79, f"expected {COUNT}, got '{'x' * 76}..."),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG, ids=range(len(WRONG)))
def test_values_that_a_setting_may_not_have(name, value, says):
    for prefix in ("", "chain."):
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            check_values(Chain, {"is_on": True, name: value}, prefix)
        assert str(refused.value) == f"{prefix}{name}: {says}"


def test_names_of_settings():
    """A field that says nothing of its meaning is none."""
    assert [field.name for field in fields(Chain)] == list(RIGHT)
    assert defaults(Chain) == {
        "count": 3, "scale": 0.5, "any_int": 0, "any_float": 0.0, "bound": math.inf,
        "name": "mala", "is_on": False, "sizes": (2, 3), "rate": None, "old": None,
    }  # fmt: skip
    by_name = {field.name: field.metadata for field in fields(Chain)}
    assert by_name["name"]["one_of"] == ("mala", "hmc")
    assert by_name["count"]["meaning"] == "steps"
    with pytest.raises(ValueError, match=r"^c\.conut is no setting of Chain; did you mean 'count'"):
        check_values(Chain, {"conut": 1}, "c.")
    with pytest.raises(ValueError, match=r"^network is no setting of Chain; did you mean "):
        check_values(Chain, {"network": None})
    nothing = dataclasses.make_dataclass("Nothing", [])
    with pytest.raises(ValueError, match=r"^count is no setting of Nothing$"):
        check_values(nothing, {"count": 1})


def test_an_instance_is_checked_without_what_is_no_setting():
    check(Chain(network=7))
    with pytest.raises(ValueError, match=r"^mine\.rate: expected a number < 1, got 2$"):
        check(Chain(rate=2), "mine.")
    with pytest.raises(ValueError, match=r"^count: "):
        check(Chain(count=0))

    @dataclasses.dataclass(frozen=True)
    class Longer(Chain):
        more: int = setting(0, "further steps", at_least=0)

    check(Longer(count=4, more=1))
    with pytest.raises(ValueError, match=r"^count: "):
        check(Longer(count=0))


def test_bounds_in_words():
    assert str(Bounds()) == ""
    assert str(Bounds(at_least=0)) == ">= 0"
    assert str(Bounds(1, 2.5, 3, 1e6)) == ">= 1 and > 2.5 and <= 3 and < 1e+06"
