"""Divergence: the first cause is named, undefined levels pass, retries are bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.training import divergence


def metrics(**changes):
    healthy = {
        "loss": jnp.float32(-0.3),
        "grad_norm": jnp.float32(2.0),
        "update_norm": jnp.float32(1e-3),
        "param_norm": jnp.float32(40.0),
        # level 1 had no example in this batch
        "energy_pos": jnp.asarray([1.0, jnp.nan, -3.0]),
        "energy_neg": jnp.asarray([1.5, jnp.nan, -2.0]),
        "displacement": jnp.asarray([0.1, jnp.nan, 0.2]),
    }
    return healthy | changes


def test_healthy_metrics_pass_also_with_an_empty_level_and_a_falling_loss():
    assert divergence.check(metrics()) is None
    assert divergence.check(metrics(), max_abs_energy=3.0) is None
    assert divergence.check(metrics(loss=jnp.float32(-1e9))) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": jnp.float32(jnp.nan)}, "the loss is nan"),
        ({"grad_norm": jnp.float32(jnp.inf)}, "the gradient norm is inf"),
        ({"param_norm": np.float32(np.nan)}, "the norm of the parameters is nan"),
        ({"update_norm": jnp.bfloat16(jnp.inf)}, "the norm of the update is inf"),
        ({"displacement": jnp.asarray([0.1, 0.2, jnp.inf])}, "displacement of level 2 is inf"),
        ({"energy_neg": jnp.asarray([1.0, -jnp.inf, 0.0])}, "energy_neg of level 1 is -inf"),
        ({"energy_neg": jnp.float32(-jnp.inf)}, "energy_neg is -inf"),
        ({"energy_neg": jnp.asarray([1.0, jnp.inf])}, "energy_neg of level 1 is inf"),
        ({"loss": jnp.asarray([1.0, -jnp.inf])}, "the loss is -inf"),
        (dict.fromkeys("hgfedcba", jnp.inf), "a is inf"),
        # all at once: the cause before its consequences
        ({"loss": jnp.nan, "grad_norm": jnp.nan, "param_norm": jnp.nan}, "the loss is nan"),
        ({"energy_pos": jnp.asarray([jnp.inf]), "loss": jnp.inf}, "energy_pos is inf"),
    ],
)
def test_non_finite(changes, says):
    found = divergence.check(metrics(**changes))
    assert str(found) == says
    assert found.bound is None
    assert type(found.value) is float


def test_bounds_on_energies():
    large = metrics(energy_pos=jnp.asarray([1.0, -250.0, 2.0]))
    assert divergence.check(large) is None
    assert str(divergence.check(large, max_abs_energy=200)) == (
        "energy_pos of level 1 is -250, beyond 200"
    )
    assert divergence.check(large, max_abs_energy=250) is None


def test_what_an_earlier_step_left_behind_is_said_last():
    """Adam's moments are infinite after one overflow, and later metrics finite again."""
    assert divergence.check(metrics(finite_so_far=jnp.asarray(True))) is None
    late = metrics(finite_so_far=jnp.asarray(False))
    assert str(divergence.check(late)) == (
        "the loss, the gradient or the update of an earlier step is not finite"
    )
    assert str(divergence.check(late | {"loss": jnp.nan})) == "the loss is nan"


def test_retries_are_bounded_and_then_the_message_says_all():
    found = divergence.check(metrics(loss=jnp.nan))
    options = {"step": 1234, "max_retries": 2, "checkpoints": "runs/digits/checkpoints"}
    good = [500, 1000]
    first = divergence.decide(found, good_steps=good, attempt=0, **options)
    second = divergence.decide(found, good_steps=good, attempt=first.attempt, **options)
    assert (first, second) == (divergence.Retry(1000, 1), divergence.Retry(1000, 2))
    with pytest.raises(divergence.DivergenceError) as error:
        divergence.decide(found, good_steps=good, attempt=second.attempt, **options)
    message = str(error.value)
    assert "diverged at step 1234 after 2 of 2 retries: the loss is nan" in message
    assert "the last good checkpoint is runs/digits/checkpoints/1000;" in message
    for remedy in ("sampler steps", "learning rate", "clipping", "L2", "spectral"):
        assert remedy in message
    assert "\n" not in message


def test_without_a_checkpoint_there_is_nothing_to_go_back_to():
    found = divergence.Divergence("the loss", float("nan"), None)
    with pytest.raises(divergence.DivergenceError, match="at step 3: the loss is nan; there"):
        divergence.decide(
            found, step=3, good_steps=[], attempt=0, max_retries=5, checkpoints="runs/x"
        )


def test_each_retry_draws_anew_and_the_first_run_is_unchanged():
    key = jax.random.key(0)
    draws = [jax.random.normal(divergence.retry_key(key, attempt), (4,)) for attempt in range(4)]
    np.testing.assert_array_equal(draws[0], jax.random.normal(key, (4,)))
    for i in range(4):
        for j in range(i):
            assert not np.allclose(draws[i], draws[j])
    other = jax.random.key(0, impl="rbg")
    assert jax.random.key_impl(divergence.retry_key(other, 2)) == "rbg"
    assert divergence.DIVERGED_EXIT_CODE == 3
    at = divergence.DivergedAt(5, divergence.Divergence("the loss", None))
    assert (at.step, str(at.divergence)) == (5, "the loss is not finite")
    assert at.args == (5, at.divergence)
