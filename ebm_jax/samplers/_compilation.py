"""One shared `jax.jit` for the runners: what compiles again, and what does not."""

import dis
import functools
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers._trees import flatten, is_traced

_DATA = (jax.Array, np.ndarray, np.generic, float)
_PLAIN = (int, float, complex, str, bytes, type(None), np.dtype, np.generic)
_UNCHANGING = (
    type,
    jax.Array,
    np.ufunc,
    jnp.ufunc,
    types.BuiltinFunctionType,
    jax.custom_jvp,
    jax.custom_vjp,
    type(jax.jit(lambda: None)),
)
_LOOKUPS = ("LOAD_GLOBAL", "LOAD_NAME")
_LIBRARIES = {"jax", "jaxlib", "numpy", "math", "functools", "operator", "builtins"}
_MAX_DEPTH = 4
_MOST_PROGRAMS = 1024  # whose keys are kept: functions made anew without end take no more memory


def is_data(leaf: Any) -> bool:
    """Whether a leaf is an input of a compiled function, rather than part of its program."""
    return not (callable(leaf) or isinstance(leaf, bool | int | str | bytes))


class Static:
    """A part of a compiled program, hashable: functions compare by code and by what they read.

    A function that is written anew at each call, such as a lambda, equals the last one if it has
    the same code and reads the same objects. A function that reads something that may have changed
    since (a list, a dict, an object with attributes) equals itself alone.
    """

    __slots__ = ("_key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._key = _key(value)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key


class _Identity:
    """A value that equals itself alone; holding it keeps its id from being used again."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value


class _Changeable(Exception):
    """Raised for a value that may change while its identity stays."""


def _key(value: Any) -> Hashable:
    if isinstance(value, types.FunctionType):
        try:
            return _key_of_function(value, _MAX_DEPTH)
        except _Changeable:
            return value
    if isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
        return "partial", tuple(value.keywords), len(value.args), *map(_key, parts)
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return value.__class__, value


def _key_of_function(function: types.FunctionType, depth: int) -> Hashable:
    """The function's code and all that it reads; raises _Changeable where that may have changed."""
    code = function.__code__
    looked_up, names = _names(code)
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a variable that has no value yet
        raise _Changeable from None
    keywords = function.__kwdefaults__ or {}
    found = [function.__globals__[name] for name in looked_up if name in function.__globals__]
    read = (*cells, *(function.__defaults__ or ()), *keywords.values(), *found)
    return (
        _program(code),
        tuple(keywords),
        *(_key_of_constant(value, names, depth) for value in read),
    )


@functools.lru_cache(_MOST_PROGRAMS)
def _program(code: types.CodeType) -> Hashable:
    """All of a function's code but where it stands, so that two equal lines are one program."""
    constants = tuple(
        _program(c) if isinstance(c, types.CodeType) else (c.__class__, repr(c))
        for c in code.co_consts
    )
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, code.co_exceptiontable, constants, arguments, names


@functools.lru_cache(_MOST_PROGRAMS)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that a function, and those within it, look up in their module; these and attributes."""
    own = (i.argval for i in dis.get_instructions(code) if i.opname in _LOOKUPS)
    inner = [_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    looked_up = (*own, *(name for names, _ in inner for name in names))
    return looked_up, (*code.co_names, *(name for _, names in inner for name in names))


def _key_of_constant(value: Any, names: tuple[str, ...], depth: int) -> Hashable:
    """Key of a value that a function with these names reads; raises _Changeable."""
    if is_traced(value) or depth == 0:
        raise _Changeable
    if _is_plain(value):
        return value.__class__, value
    if isinstance(value, _UNCHANGING) or _is_of_a_library(value):
        return _Identity(value)
    if isinstance(value, tuple):
        return "tuple", *(_key_of_constant(v, names, depth - 1) for v in value)
    if isinstance(value, types.FunctionType):
        return _key_of_function(value, depth - 1)
    if isinstance(value, types.ModuleType):  # its attributes, as far as the code names them
        found = [vars(value)[name] for name in names if name in vars(value)]
        return value, *(_key_of_constant(v, names, depth - 1) for v in found)
    raise _Changeable


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN)


def _is_of_a_library(value: Any) -> bool:
    """Whether this is a function or a module of Python, NumPy or JAX."""
    if not isinstance(value, types.FunctionType | types.ModuleType):
        return False
    name: str = value.__name__ if isinstance(value, types.ModuleType) else value.__module__ or ""
    return name.partition(".")[0] in _LIBRARIES


def compiled(function: Callable[..., Any], args: Any, **options: Any) -> Any:
    """`function(*args, **options)`, through a shared `jit` unless something is traced already.

    `args` may hold kernels: their arrays and floats become inputs of the compiled function, their
    functions and other values become part of its cache key.
    """
    leaves, structure = flatten(args)
    if any(is_traced(leaf) for leaf in leaves):
        return function(*args, **options)
    mask = tuple(isinstance(leaf, _DATA) for leaf in leaves)
    data = [leaf for leaf, d in zip(leaves, mask, strict=True) if d]
    fixed = tuple(Static(leaf) for leaf, d in zip(leaves, mask, strict=True) if not d)
    named = tuple((name, Static(value)) for name, value in options.items())
    return _compiled(data, function, structure, mask, fixed, named)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _compiled(
    data: list[Any],
    function: Callable[..., Any],
    structure: Any,
    mask: tuple[bool, ...],
    fixed: tuple[Static, ...],
    named: tuple[tuple[str, Static], ...],
) -> Any:
    arrays, others = iter(data), iter(fixed)
    leaves = [next(arrays) if d else next(others).value for d in mask]
    return function(*structure.unflatten(leaves), **{name: option.value for name, option in named})
