"""What the fields of optimizers do: updates in closed form, and that training makes these."""

import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import full_bars, stubs
from effects_table import changed, shows
from ramp_method import GRADIENTS, config_of, ramp, trained

from configs import default
from ebm_jax.runs import build

__all__ = ["full_bars", "ramp", "stubs"]


def adam(config, gradients):
    """Updates [steps] of a parameter with these gradients, in float64; of n equal parameters."""
    s, num_steps = config.optimizer, config.training.num_steps
    mean, square, updates = 0.0, 0.0, []
    for step, gradient in enumerate(gradients):
        if s.name == "igebm_adam":
            bound = 3 * np.sqrt(square / (1 - s.b2 ** (step + 1))) + 0.1
            gradient = np.clip(gradient, -bound, bound)
        elif s.max_grad_norm:
            gradient = gradient * min(1, s.max_grad_norm / (2 * abs(gradient)))  # of four
        mean = s.b1 * mean + (1 - s.b1) * gradient
        square = s.b2 * square + (1 - s.b2) * gradient**2
        direction = mean / (1 - s.b1 ** (step + 1)) / np.sqrt(square / (1 - s.b2 ** (step + 1)))
        rate, after = s.learning_rate, step - s.warmup_steps
        if after < 0:
            rate *= step / s.warmup_steps
        elif s.schedule == "cosine":
            share = (1 + np.cos(np.pi * after / (num_steps - s.warmup_steps))) / 2
            rate = s.final_learning_rate + (rate - s.final_learning_rate) * share
        updates.append(-rate * direction)
    return np.array(updates)


CHANGES = {
    "learning_rate": ("learning_rate",),
    "schedule": ("schedule",),
    "final_learning_rate": ("schedule", "final_learning_rate"),
    "warmup_steps": ("warmup_steps",),
    "b1": ("b1",),
    "b2": ("b2",),
    "max_grad_norm": ("max_grad_norm", "b2"),
    "all": ("schedule", "final_learning_rate", "warmup_steps", "b1"),
}
NAMES = [(name, change) for name in ("adam", "igebm_adam") for change in ("none", *CHANGES)]
NAMES.remove(("igebm_adam", "max_grad_norm"))


@shows(*(f"optimizer:{name}.{change}" for name, change in NAMES if change not in ("none", "all")))
@pytest.mark.parametrize(("name", "change"), NAMES)
def test_updates_in_closed_form(name, change):
    config = config_of()
    config.training.num_steps = 5
    config.optimizer = default.optimizer(name, learning_rate=0.1)
    config = changed(config, *(f"optimizer:{name}.{field}" for field in CHANGES.get(change, ())))
    optimizer, w = build.make_optimizer(config), {"w": jnp.zeros(4)}
    state, found = optimizer.init(w), []
    for gradient in GRADIENTS:
        updates, state = optimizer.update({"w": jnp.full(4, gradient)}, state, w)
        found.append(float(updates["w"][0]))
    np.testing.assert_allclose(found, adam(config, GRADIENTS), rtol=1e-4)
    if change == "final_learning_rate":  # after the last step it is this
        rate = -adam(config, [1.0] * 6)[-1] if name == "adam" else 0.02
        assert rate == pytest.approx(0.02)


def test_training_uses_the_optimizer_of_its_config(tmp_path, monkeypatch):
    config = config_of()
    config.training.num_steps = 5
    config.optimizer = default.optimizer("adam", learning_rate=0.1, b2=0.5, max_grad_norm=2.0)
    config.optimizer.update(schedule="cosine", final_learning_rate=0.02, warmup_steps=1)
    found = trained(config, tmp_path, monkeypatch)
    norms = [line["update_norm"] for line in found.lines]
    np.testing.assert_allclose(norms, 2 * np.abs(adam(config, GRADIENTS)), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose([line["grad_norm"] for line in found.lines], 2 * np.array(GRADIENTS))
