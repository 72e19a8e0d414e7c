"""What all kernels have in common: numbers spread over trees of positions, names, norms, checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers import _trees

X = {"a": jnp.zeros((3, 2), jnp.bfloat16), "b": jnp.zeros((3, 2, 4), jnp.float32)}


def test_numbers_are_spread_over_the_leaves():
    """A scalar, one per chain, one per dimension, or a tree of any of these; of the leaf's type."""
    found = _trees.spread(0.3, X, "h")
    assert found["a"] == jnp.bfloat16(0.3)
    assert (found["a"].shape, found["b"].dtype) == ((), jnp.float32)
    found = _trees.spread(np.array([1, 2, 3]), X, "h")
    np.testing.assert_array_equal(found["a"], [[1], [2], [3]])
    np.testing.assert_array_equal(found["b"], [[[1]], [[2]], [[3]]])
    found = _trees.spread({"a": np.array([[4, 5]]), "b": np.arange(12).reshape(3, 1, 4)}, X, "h")
    np.testing.assert_array_equal(found["a"], [[4, 5]])
    np.testing.assert_array_equal(found["b"], np.arange(12).reshape(3, 1, 4))
    alone = _trees.spread(np.array([[7.0], [8.0], [9.0]]), X["a"], "h")
    np.testing.assert_array_equal(alone, [[7], [8], [9]])


@pytest.mark.parametrize("shape", [(2,), (1, 4), (3, 2, 1), (2, 1), (1, 2, 1, 1), (0,)])
def test_other_shapes_are_ambiguous(shape):
    with pytest.raises(ValueError, match="expected mass of shape") as refused:
        _trees.spread(np.ones(shape), jnp.zeros((3, 2)), "mass")
    assert str(refused.value) == (
        f"expected mass of shape (), (3,) per chain or (1, 2) per dimension, got {shape} for "
        "positions (3, 2)"
    )
    with pytest.raises(ValueError, match="expected mass with the positions' structure, got an"):
        _trees.spread({"a": 1.0}, X, "mass")
    with pytest.raises(ValueError, match="expected mass with the positions' structure, got an"):
        _trees.spread({"a": 1.0}, X["a"], "mass")


def test_parameters_are_checked_at_their_bounds():
    found = _trees.parameter({"a": 2, "b": np.float64(0.5)}, "h")
    assert found["a"].dtype == found["b"].dtype == jnp.float32
    assert _trees.parameter(0.0, "h", strict=False) == 0
    assert _trees.parameter(-2.0, "h", minimum=-2.5) == -2
    for options, value, wanted in (
        ({}, 0.0, "> 0, got 0"),
        ({}, np.inf, "> 0, got inf"),
        ({"strict": False}, -0.25, ">= 0, got -0.25"),
        ({"minimum": 1.5, "below": 2.0}, [1.75, 2.0, 1.5], "> 1.5 and < 2, got 2"),
        ({"minimum": 1.5, "strict": False}, {"a": 1.5, "b": np.nan}, ">= 1.5, got nan"),
        ({}, False, "> 0, got 0"),
        ({}, jnp.zeros(2, bool), "> 0, got 0"),
    ):
        with pytest.raises(ValueError, match="expected a finite h") as refused:
            _trees.parameter(value, "h", **options)
        assert str(refused.value) == f"expected a finite h {wanted}"


def test_parameters_that_lie_elsewhere_are_not_looked_at(monkeypatch):
    """Those of other processes cannot be read; those on devices can, wherever transfers may not."""
    array = jnp.array([0.5, -1.0])
    with jax.transfer_guard("disallow"), pytest.raises(ValueError, match="h > 0, got -1"):
        _trees.parameter(array, "h")
    monkeypatch.setattr(type(array), "is_fully_addressable", False)
    assert _trees.parameter(array, "h") is array


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "2", None])
def test_anything_but_a_count_is_refused(count):
    with pytest.raises(ValueError, match="expected K to be a Python int >= 1, got ") as refused:
        _trees.check_count(count, "K")
    assert str(refused.value).endswith(f"got {count}")
    for good in (1, 7, np.int64(1)):
        _trees.check_count(good, "K")


def test_names_are_places_in_the_tree():
    assert _trees.leaf_names({"b": [1, {"c": 2}], "a": 3}) == {"a": 3, "b.0": 1, "b.1.c": 2}
    assert _trees.leaf_names(5) == {"x": 5}


def test_norms_are_of_all_entries_of_a_chain():
    """In float32 also of half types whose squares would overflow; without slope at 0."""
    tree = {"a": jnp.array([[3.0, 0.0], [0.0, 0.0], [400.0, 0.0]], jnp.float16)}
    tree["b"] = jnp.array([4.0, 0.0, 300.0], jnp.float16)
    np.testing.assert_array_equal(_trees.norm(tree), [5.0, 0.0, 500.0])
    assert _trees.norm(tree).dtype == _trees.sum_over_dims(tree).dtype == jnp.float32
    np.testing.assert_array_equal(_trees.sum_over_dims(tree), [7.0, 0.0, 700.0])
    other = jax.tree.map(jnp.zeros_like, tree)
    np.testing.assert_array_equal(_trees.distance(other, tree), [5.0, 0.0, 500.0])
    near, far = jnp.array([[2.0**-12]], jnp.float16), jnp.array([[1.0]], jnp.float16)
    for x, y in ((near, far), (far, near), (near.astype(float), far)):
        assert _trees.distance(x, y) == 1 - 2.0**-12  # which float16 rounds to 1
    slope = jax.grad(lambda x: _trees.norm(x).sum())(jnp.array([[0.3, 0.4], [0.0, 0.0], [3, 4]]))
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_arrays_of_numpys_are_float32_where_there_is_no_float64():
    tree = {"a": np.full((2, 1), 3.0), "b": np.array([4.0, 0.0], np.float16)}
    for leaf in _trees.widen(tree).values():
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
    np.testing.assert_array_equal(_trees.norm(tree), [5.0, 3.0])
    moved = samplers.langevin_update(tree["a"], tree["a"], tree["a"], 0.5, 0.25)
    assert moved.dtype == jnp.float32
    np.testing.assert_allclose(moved, 3 - 0.5 * 3 + 0.5 * tree["a"])


def test_chains_are_selected_and_pairs_turned_round():
    new = jax.tree.map(jnp.ones_like, X)
    found = _trees.select(jnp.array([True, False, True]), new, X)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf[:, 0].reshape(3, -1)[:, 0], [1, 0, 1])
    pairs = {"a": (1, 2, 3), "b": (4, 5, 6)}
    first, second, third = _trees.transpose(pairs, X, 3)
    assert (first, second, third) == ({"a": 1, "b": 4}, {"a": 2, "b": 5}, {"a": 3, "b": 6})
