"""MDSM against values of its published code: networks, loss, gradients, Adam, sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_files import assert_close, below, load_reference, replay_noise

from ebm_jax import networks, samplers
from ebm_jax.convert import from_reference
from ebm_jax.data.preprocess import pad_images
from ebm_jax.methods import DenoisingScoreMatching, MethodState
from ebm_jax.methods.denoising_score_matching.sampling import annealed_sample

STATES, GRADIENTS = 1e-5, 1e-4  # of the array's largest magnitude, in float32


def network(name):
    """(the entries of a network, its conversion)."""
    entries = below(load_reference("mdsm"), name)
    return entries, from_reference("mdsm", below(entries, "w"))


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, -3, -1))


@pytest.mark.parametrize("name", ["res18_c3", "res12_c1", "res12_c3"])
def test_energies_and_input_gradients(name):
    entries, converted = network(name)
    module = converted.module
    assert module.input_shape == (
        *(int(entries["hp/image_size"]),) * 2,
        int(entries["hp/in_channels"]),
    )
    assert module.width == int(entries["hp/n_chan"])

    def total(x):
        energies = converted.energy_fn(x)
        return energies.sum(), energies

    (_, energies), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(nhwc(entries["x"]))
    assert_close(energies, entries["energy"], STATES)
    assert_close(grad, nhwc(entries["dE_dx"]), STATES)


def test_images_may_come_as_the_published_code_has_them():
    entries, converted = network("res12_c1")
    x = entries["x"]
    energies = jax.jit(lambda x, y: (converted.energy_fn(x), converted.energy_fn(y)))(x, x[:, 0])
    assert_close(energies[0], entries["energy"], STATES)
    assert_close(energies[1], entries["energy"], STATES)
    with pytest.raises(ValueError, match=r"images are \[1, 28, 28\]: give this network"):
        converted.energy_fn(entries["x_28"])


def test_digits_are_padded_to_32_pixels():
    entries, _ = network("res12_c1")
    padded = pad_images(np.moveaxis(entries["x_28"], 1, -1), 32)
    np.testing.assert_array_equal(padded, nhwc(entries["x"]))


@pytest.mark.parametrize("name", ["res12_c1", pytest.param("res18_c3", marks=pytest.mark.slow)])
def test_loss_gradients_and_first_update(name, monkeypatch):
    entries, converted = network(name)
    given, hp = below(entries, "loss"), below(entries, "loss/hp")
    spacing = {"lin": "linear", "exp": "log"}[str(hp["noise_distribution"])]
    batch = {"image": nhwc(given["x_clean"])}
    num_levels = len(batch["image"])
    method = DenoisingScoreMatching(
        converted.module,
        num_levels=num_levels,
        min_noise=float(hp["min_noise"]),
        max_noise=float(hp["max_noise"]),
        spacing=spacing,
        target_sigma=float(hp["sigma0"]),
    )
    assert_close(method.sigma, given["sigma"], 1e-6)
    noise = nhwc(given["noise"])
    monkeypatch.setattr(samplers.random, "normal", lambda key, chain, like: noise)
    optimizer = optax.adam(float(hp["lr"]), b1=0.9, b2=0.95)

    def first_step(params):
        loss_and_grad = jax.value_and_grad(method.loss, has_aux=True)
        (loss, (_, metrics)), grads = loss_and_grad(params, MethodState(), batch, jax.random.key(0))
        updates, _ = optimizer.update(grads, optimizer.init(params))
        return loss, metrics, grads, optax.apply_updates(params, updates)

    loss, metrics, grads, updated = jax.jit(first_step)(converted.params)
    assert_close(loss, given["loss"], STATES)
    assert_close(metrics["normalized_loss"].value(), given["loss"] * hp["sigma0"] ** 4, STATES)

    gradients = below(entries, "loss/grad")
    missing = {"lq/bias": np.zeros(1, np.float32)}  # the additive constant has none
    wanted = from_reference("mdsm", gradients | missing).params
    for (path, a), w in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(wanted), strict=True
    ):
        assert_close(a, w, GRADIENTS, jax.tree_util.keystr(path))

    after = from_reference(
        "mdsm", below(entries, "w") | below(entries, "loss/param_after_adam_step")
    ).params
    for layer, leaf in (("conv_in", "kernel"), ("linear_1", "bias"), ("quadratic", "bias")):
        assert_close(updated[layer][leaf], after[layer][leaf], 1e-6, f"{layer} {leaf}")


def test_temperatures():
    entries = load_reference("mdsm")
    for cooling, key in (("exp", "T_exp"), ("linear", "T_lin")):
        temperatures = samplers.mdsm_temperatures(cooling=cooling)
        np.testing.assert_allclose(temperatures, entries[f"schedule/{key}"], rtol=1e-12)


@pytest.mark.parametrize("name", ["res12_c1", pytest.param("res18_c3", marks=pytest.mark.slow)])
def test_sampler_with_recorded_noise(name, monkeypatch):
    entries, converted = network(name)
    chain, hp = below(entries, "sampler"), below(entries, "sampler/hp")
    step_size, target_sigma = float(hp["step_size"]), float(hp["sigma0"])
    replay_noise(monkeypatch, np.moveaxis(chain["noise"], 2, -1))

    def run(x):
        energy_fn = networks.make_energy_fn(converted.module, converted.params)
        _, info = samplers.run_schedule(
            jax.random.key(0),
            lambda t: samplers.mdsm_langevin(energy_fn, t, step_size),
            jnp.asarray(chain["T"], jnp.float32),
            x,
            1,
            keep=lambda state: state.x,
        )
        jumped = annealed_sample(
            jax.random.key(0),
            lambda temperature: energy_fn,
            x,
            chain["T"],
            jnp.arange(len(x)),
            step_size=step_size,
            target_sigma=target_sigma,
        )
        return info.kept, info.energy, jumped

    states, energies, jumped = jax.jit(run)(nhwc(chain["x_init"]))
    for step, key in ((1, "x_after_step_01"), (5, "x_after_step_05"), (int(hp["K"]), "x")):
        assert_close(states[step - 1], nhwc(chain[key]), STATES, key)
    assert_close(energies.T, chain["energy_before_step"], 10 * STATES)
    assert_close(jumped, nhwc(chain["x_denoised"]), STATES)
