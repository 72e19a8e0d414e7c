"""What compiles again and what does not, and that kernels are made without waiting."""

import functools
import time
import types

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.samplers import _compilation
from ebm_jax.samplers._compilation import Static

KEY, X = jax.random.key(0), jnp.ones((3, 2))
OFFSET = 1.0


class Counted:
    """x^2 / 2 that counts its traces."""

    def __init__(self):
        self.count = 0

    def __call__(self, x):
        self.count += 1
        return 0.5 * jnp.sum(x**2, axis=1)


def traces_of(run):
    """Traces that three more calls cost after the first."""
    counted = Counted()
    run(counted, jax.random.key(9))
    first = counted.count
    for seed in range(3):
        run(counted, jax.random.key(seed))
    return counted.count - first


def test_functions_written_at_the_call_do_not_compile_again():
    def keep(energy_fn, key):
        kernel = samplers.mala(energy_fn, 0.1)
        samplers.run_chain(key, kernel, X, 4, keep_every=2, keep=lambda s: s.energy)

    def project(energy_fn, key):
        kernel = samplers.langevin(energy_fn, 0.1, project=lambda x: jnp.clip(x, -1.0, OFFSET))
        samplers.run_chain(key, kernel, X, 4)

    def schedule(energy_fn, key):
        levels = jnp.ones(2)
        samplers.run_schedule(key, lambda h: samplers.mala(energy_fn, h), levels, X, 2)

    assert traces_of(keep) == 0
    assert traces_of(project) == 0
    assert traces_of(schedule) > 0  # it reads an object that may have changed since


def test_what_a_function_reads_is_part_of_what_it_is():
    def clipped(bound):
        kernel = samplers.langevin(
            lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.1, project=lambda x: jnp.clip(x, bound, None)
        )
        return samplers.run_chain(KEY, kernel, X, 4)[0].x.min()

    assert clipped(2.0) == 2.0
    assert clipped(3.0) == 3.0

    def at_offset(x):
        return x + OFFSET

    global OFFSET
    before = Static(at_offset)
    OFFSET = 2.0
    after = Static(at_offset)
    OFFSET = 1.0
    assert before != after
    assert before == Static(at_offset)

    settings = {"low": 0.0}
    first, second = (Static(lambda x: x + settings["low"]) for _ in range(2))
    assert first != second
    first = Static(lambda x: jnp.sum(np.pi * x))
    second = Static(lambda x: jnp.sum(np.pi * x))  # on another line
    assert first == second
    assert hash(first) == hash(second)
    assert Static(lambda x: x + 1) != Static(lambda x: x + 1.0)
    assert Static(lambda x: x * 0.0) != Static(lambda x: x * -0.0)
    assert Static(lambda x: (x, (1, 2))) != Static(lambda x: (x, (1.0, 2)))
    first = Static(lambda x: (lambda y: y + 1)(x))
    second = Static(lambda x: (lambda y: y + 1)(x))  # nor is a function within it
    assert first == second


def test_making_a_kernel_waits_for_no_device():
    """A step size that is still being computed is taken as it is."""

    slow = jax.jit(lambda x: jnp.linalg.norm(jax.lax.fori_loop(0, 300, lambda _, a: a @ a, x)))
    value = slow(jnp.eye(600)) * 0 + 0.1
    begin = time.perf_counter()
    samplers.langevin(lambda x: jnp.sum(x, axis=1), value, temperature=value)
    samplers.hmc(lambda x: jnp.sum(x, axis=1), value, 2, mass=value)
    made = time.perf_counter() - begin
    jax.block_until_ready(value)
    assert made < 0.5 * (time.perf_counter() - begin) or made < 0.05


def test_functions_are_known_by_what_they_read():
    """Equal lines are one program; defaults, keywords and closures are part of it."""

    def made(value, default=1.0):
        def function(x, y=default, *, z=value):
            return x + y + z

        return _compilation._key_of_function(function, 2)

    assert made(1.0) == made(1.0)
    assert made(1.0) != made(2.0)
    assert made(1.0, default=2.0) != made(1.0)


def test_functions_of_libraries_are_taken_as_they_are():
    def own():
        pass

    assert _compilation._is_of_a_library(jax.vmap)
    assert _compilation._is_of_a_library(np)
    assert not _compilation._is_of_a_library(own)
    own.__module__ = None
    assert not _compilation._is_of_a_library(own)
    assert not _compilation._is_of_a_library(samplers)
    assert not _compilation._is_of_a_library(1.0)


def test_values_that_cannot_be_hashed_are_themselves_alone():
    """Equal arrays may yet become different: each is another."""
    one, other = np.ones(2), np.ones(2)
    assert _compilation._key(one) == _compilation._key(one)
    assert hash(_compilation._key(one)) == hash(_compilation._key(one))
    assert _compilation._key(one) != _compilation._key(other)
    assert _compilation._key(1) != _compilation._key(1.0)  # of which one is a whole number


def test_numbers_are_inputs_and_all_else_is_the_program():
    for data in (1.0, np.float32(1), np.int64(1), np.ones(2), jnp.ones(2)):
        assert _compilation.is_data(data)
    for fixed in (1, True, "a", b"a", len, jnp.tanh, lambda: None):
        assert not _compilation.is_data(fixed)


def reads(value):
    return Static(lambda x: (x, value))


def test_values_that_cannot_change_are_compared():
    """And libraries' functions; arrays are themselves alone, though not of one reader alone."""
    for make in (
        lambda: 1.5, lambda: "a", lambda: None, lambda: b"a", lambda: 1j, lambda: np.float32(2.0),
        lambda: np.dtype("int8"), lambda: (1, ("a", 2.0)), lambda: jnp.tanh, lambda: np.sin,
        lambda: len, lambda: jax.nn.relu, lambda: jax.vmap, lambda: float, lambda: np,
        lambda: (lambda y: y + OFFSET), lambda: X,
    ):  # fmt: skip
        assert reads(make()) == reads(make())
        assert hash(reads(make())) == hash(reads(make()))
    for one, other in (
        (1, 1.0),
        (1, True),
        ((1, 2), (1, 3)),
        ((1,), (1, 1)),
        (X, jnp.ones((3, 2))),
    ):
        assert reads(one) != reads(other)
    assert reads((((1,),),)) == reads((((1,),),))
    for changeable in ([1], {"a": 1}, ([1],), Counted(), np.ones(2), ((((1,),),),)):
        assert reads(changeable) != reads(changeable)
        alone = reads(changeable)
        assert alone == Static(alone.value)
    assert Static(reads(1).value) != 1


def test_a_traced_value_or_one_yet_to_come_is_of_one_function_alone():
    @jax.jit
    def traced(x):
        assert reads(x) != reads(x)
        return x

    traced(1.0)

    def early():
        def function():
            return later

        key = Static(function)
        later = 1
        return key, later

    assert early()[0] != early()[0]


def nested(depth, value):
    """A function that reads another, so deep."""
    if depth == 0:
        return lambda: 1
    inner = nested(depth - 1, value)
    return lambda: inner


def test_functions_within_functions_are_followed_to_some_depth():
    assert Static(nested(4, 1)) == Static(nested(4, 1))
    assert Static(nested(5, 1)) != Static(nested(5, 1))

    def of_an_inner_one():
        return Static(lambda x: (lambda y: y + OFFSET)(x))

    global OFFSET
    before = of_an_inner_one()
    assert before == of_an_inner_one()
    OFFSET = 2.0
    after = of_an_inner_one()
    OFFSET = 1.0
    assert before != after


def test_of_a_module_what_is_named_counts():
    settings = types.ModuleType("settings")
    settings.level, settings.other = 1.0, 1.0

    def key():
        return Static(lambda x: x + settings.level)

    before = key()
    settings.other = 2.0
    assert key() == before
    settings.level = 2.0
    assert key() != before
    for depth, is_followed in ((2, True), (3, False)):
        settings.level = nested(depth, 1)
        before = key()
        settings.level = nested(depth, 1)
        assert (key() == before) is is_followed
    settings.level = 2.0
    other = types.ModuleType("settings")
    other.level = 2.0
    assert reads(other) != reads(settings)


def test_partial_functions_are_their_parts():
    def function(*args, **options):
        return args, options

    def key(*args, **options):
        return Static(functools.partial(function, *args, **options))

    assert key(1, a=2.0) == key(1, a=2.0)
    assert hash(key(1, a=2.0)) == hash(key(1, a=2.0))
    for other in (key(1), key(1, 2.0), key(1, b=2.0), key(1, a=3.0), key(2, a=2.0), key(a=2.0)):
        assert key(1, a=2.0) != other
    assert Static(functools.partial(max, 1)) != Static(functools.partial(min, 1))
    array = np.ones(2)
    assert key(array) == key(array)
    assert key(array) != key(np.ones(2))
