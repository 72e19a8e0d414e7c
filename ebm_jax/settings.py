"""Settings as dataclass fields, each with its meaning and the values that it may take.

    @dataclasses.dataclass(frozen=True)
    class Settings:
        num_chains: int = setting(64, "chains in each direction", at_least=1)

Methods, networks, optimizers and tasks declare theirs so; a config is made of them, and whatever
comes from a config is checked by `check` alone.
"""

import dataclasses
import difflib
import math
import numbers
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LARGEST = 2**31 - 1  # of whole numbers: they become int32
_SMALLEST_FLOAT, _LARGEST_FLOAT = 2.0**-126, 3.4e38  # of others but 0: they become float32
_NUMBERS: Mapping[Any, Any] = {float: numbers.Real, int: numbers.Integral}  # NumPy's among them


class Bounds(typing.NamedTuple):
    """Values that a number, or each number of a tuple, may take; None is no bound."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        words = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}
        said = [f"{words[k]} {v:g}" for k, v in self._asdict().items() if v is not None]
        return " and ".join(said)

    def allow(self, value: float) -> bool:
        """Whether a value lies within the bounds; a NaN does not."""
        return (
            value == value  # math.isnan takes no integer beyond 1e308
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def setting(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Sequence[str] = (),
    may_be_infinite: bool = False,
) -> Any:
    """A dataclass field that `check` knows.

    Args:
      default: its value. meaning: one line, with the unit and the symbol of the paper.
      at_least, above, at_most, below: bounds of a number, or of each number of a tuple.
      one_of: the strings that it may be.
      may_be_infinite: whether inf is a value: of a bound that then bounds nothing.
    """
    metadata = {
        "meaning": meaning,
        "bounds": Bounds(at_least, above, at_most, below),
        "one_of": tuple(one_of),
        "may_be_infinite": may_be_infinite,
    }
    return dataclasses.field(default=default, metadata=metadata)


def fields(cls: Any) -> Iterator[dataclasses.Field[Any]]:
    """The fields of a dataclass that are settings."""
    return (field for field in dataclasses.fields(cls) if "meaning" in field.metadata)


def defaults(cls: Any) -> dict[str, Any]:
    """Every setting of a dataclass with its default."""
    return {field.name: field.default for field in fields(cls)}


def check(settings: Any, prefix: str = "") -> None:
    """Raises ValueError unless every setting of a dataclass instance has a value it may have."""
    check_values(type(settings), {f.name: getattr(settings, f.name) for f in fields(settings)},
                 prefix)  # fmt: skip


def check_values(cls: Any, values: Mapping[str, Any], prefix: str = "") -> None:
    """Checks values by name against the settings of a dataclass.

    Args:
      prefix: of the names in messages, such as 'likelihood.'.
    Raises:
      ValueError: one line that names the setting: an unknown name, a type, a bound, a NaN.
    """
    known = {field.name: field for field in fields(cls)}
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, cutoff=0)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{prefix}{name} is no setting of {cls.__name__}{hint}")
        _check_value(f"{prefix}{name}", value, hints[name], known[name].metadata)


def _check_value(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    bounds, one_of = metadata["bounds"], metadata["one_of"]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):  # X | None
        if value is None:
            return
        (kind, _) = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        (item, *_) = typing.get_args(kind)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{name}: expected a tuple of {_words(item)}, got {_repr(value)}")
        for entry in value:
            _check_value(name, entry, item, metadata)
        return
    if not _is_a(value, kind):
        raise ValueError(f"{name}: expected {_words(kind)}{_within(bounds)}, got {_repr(value)}")
    if value == math.inf and metadata["may_be_infinite"]:
        return
    if kind in (int, float):
        smallest, largest = (0, _LARGEST) if kind is int else (_SMALLEST_FLOAT, _LARGEST_FLOAT)
        expected = f"{name}: expected {_words(kind)}{_within(bounds)}"
        if not bounds.allow(value):
            raise ValueError(f"{expected}, got {_repr(value)}")
        if abs(value) > largest or 0 < abs(value) < smallest:
            raise ValueError(
                f"{expected} of a size from {smallest:.6g} to {largest:.10g}, got {_repr(value)}"
            )
    if one_of and value not in one_of:
        close = difflib.get_close_matches(value, one_of, cutoff=0)[0]
        raise ValueError(
            f"{name}: expected one of {', '.join(one_of)}, got {_repr(value)}; "
            f"did you mean {close!r}?"
        )


def _repr(value: Any) -> str:
    """repr(value), or the beginning of it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # one of the numbers otherwise
        return kind is bool
    return isinstance(value, _NUMBERS.get(kind, kind))


def _words(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}[kind]


def _within(bounds: Bounds) -> str:
    return f" {bounds}" if str(bounds) else ""
