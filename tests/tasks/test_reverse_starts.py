"""Where reverse annealing starts: the steps that are asked for, and whether chains agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.io.resumable import ResumableWork
from ebm_jax.tasks.likelihood.reverse_starts import _some_values, settled

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (64, 2, 2, 1))


def independent(x, first, number):
    """Draws of a law, whatever x is."""
    del number
    y = jax.random.normal(jax.random.fold_in(KEY, first), x.shape)
    return y, jnp.sum(y**2, (1, 2, 3))


def still(x, first, number):
    """Chains that keep to where they began."""
    y = X + 0.01 * jax.random.normal(jax.random.fold_in(KEY, first), x.shape)
    return y, jnp.sum(y**2, (1, 2, 3))


@pytest.mark.parametrize("num_steps", [0, 1, 7, 100, 230])
def test_as_many_steps_as_asked_for(num_steps, tmp_path):
    calls, shown = [], []

    def settle(x, first, number):
        calls.append((first, number))
        return x + number, jnp.arange(len(x)) + 1.0 * first

    with ResumableWork(tmp_path / "work", {}) as work:
        advance = work.advance
        work.advance = lambda *given: shown.append(given) or advance(*given)
        starts = settled(work, lambda: X, settle, num_steps, 40)
        assert work._bar.done == (40 if num_steps else 0)
        kept = work.load("starts")
    np.testing.assert_allclose(starts.x, X + num_steps, rtol=1e-5)
    assert sum(number for _, number in calls) == num_steps
    assert [first for first, _ in calls] == list(np.cumsum([0, *(n for _, n in calls)])[:-1])
    assert len(calls) == min(num_steps, 100)
    assert [metrics for _, metrics in shown] == [{"energy": 31.5 + first} for first, _ in calls]
    assert {type(amount) for amount, _ in shown} <= {int}
    assert kept["done"] == len(calls)
    last = calls[-50:]
    expected = np.arange(64) + np.array([[first] for first, _ in last]).reshape(-1, 1)
    np.testing.assert_array_equal(kept["energies"].reshape(-1, 64), expected)
    for draws, (first, number) in zip(kept["draws"], last, strict=True):
        np.testing.assert_allclose(draws, X.reshape(64, 4) + first + number, rtol=1e-5)
    assert (starts.split_r_hat is None) == (num_steps == 0)


def test_values_that_chains_are_judged_by():
    """All of a few; of many 256 at equal distances, the first and the last among them."""
    x = np.arange(12.0).reshape(2, 2, 3, 1)
    np.testing.assert_array_equal(_some_values(x), x.reshape(2, 6))
    (values,) = _some_values(np.arange(511.0).reshape(1, 73, 7))
    np.testing.assert_array_equal(values, np.arange(0, 511, 2))


@pytest.mark.parametrize(("settle", "agree"), [(independent, True), (still, False)])
def test_chains_that_forget_where_they_began_agree(settle, agree, tmp_path):
    with ResumableWork(tmp_path / "work", {}) as work:
        starts = settled(work, lambda: X, settle, 1_000, 10)
    assert starts.do_agree is agree
    assert starts.split_r_hat is not None
    for name in ("energy", "median_of_values"):
        assert (starts.split_r_hat[name] < 1.05) is agree
        assert (starts.split_r_hat[name] > 2) is not agree


def test_after_an_interrupt_it_is_the_same(tmp_path):
    def interrupted(x, first, number):
        if first >= 60:
            raise KeyboardInterrupt
        return independent(x, first, number)

    with ResumableWork(tmp_path / "one", {}) as work:
        expected = settled(work, lambda: X, independent, 100, 10)
    with pytest.raises(KeyboardInterrupt), ResumableWork(tmp_path / "two", {}) as work:
        settled(work, lambda: X, interrupted, 100, 10)
    calls = []

    def counted(x, first, number):
        calls.append(first)
        return independent(x, first, number)

    with ResumableWork(tmp_path / "two", {}) as work:
        found = settled(work, lambda: pytest.fail("begun again"), counted, 100, 10)
        assert work._bar.done == 10  # six of an earlier command, and four
        again = settled(work, lambda: pytest.fail("begun again"), interrupted, 100, 10)
    assert calls == list(range(60, 100))
    for one in (found, again):
        np.testing.assert_array_equal(one.x, expected.x)
        assert one.split_r_hat == expected.split_r_hat
