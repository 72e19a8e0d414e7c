# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compose two energies
#
# Energies add up where densities multiply, without training anything again (Du, Li & Mordatch
# 2020). This notebook composes two Gaussians, for which all answers are known in closed form, and
# then two networks that were trained apart from each other, whose product is compared with the
# product of the true densities.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ebm_jax import data, energy, networks, samplers
from ebm_jax.evaluation.density import grid2d
from ebm_jax.methods import EnergyDiscrepancy
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step

# %% [markdown]
# ## Two Gaussians
#
# With precisions $P = \Sigma^{-1}$ and $E(x) = \frac12 (x - m)^\top P (x - m)$:
#
# | composition | energy | density | for Gaussians |
# |---|---|---|---|
# | and | $E_1 + E_2$ | $p_1 p_2$ | precision $P_1 + P_2$ |
# | or | $-\log \sum_i w_i e^{-E_i}$ | $\sum_i w_i Z_i p_i$ | a mixture; note the $Z_i$ |
# | and not | $E_1 - \alpha E_2$ | $p_1 / p_2^\alpha$ | precision $P_1 - \alpha P_2$, if positive |
# | given | $E(x_1, x_2 = c)$ | $p(x_1 \mid x_2 = c)$ | the conditional |

# %%
mean_1, std_1 = np.array([-1.0, 0.0]), np.array([1.0, 1.0])
mean_2, std_2 = np.array([1.0, 1.0]), np.array([1.5, 1.25])
precision_1, precision_2 = 1 / std_1**2, 1 / std_2**2


def gaussian(mean, std):
    return lambda x: 0.5 * jnp.sum(((x - mean) / std) ** 2, axis=-1)


def sample(energy_fn, rng_key, num_chains=4_000):
    """Draws [chains, 2] by MALA: each chain is long enough to forget its start."""
    kernel = samplers.mala(energy_fn, step_size=0.4)
    x0 = 3 * jax.random.normal(rng_key, (num_chains, 2))
    return samplers.run_chain(rng_key, kernel, x0, num_steps=1_000)[0].x


def check(name, x, mean, std):
    """That draws have these moments, to 4.5 standard errors."""
    error = std / np.sqrt(len(x))
    print(f"{name}: mean {np.mean(x, 0).round(3)}, exactly {mean.round(3)}")
    print(f"{name}: sd   {np.std(x, 0).round(3)}, exactly {std.round(3)}")
    assert np.all(np.abs(np.mean(x, 0) - mean) < 4.5 * error)
    assert np.all(np.abs(np.std(x, 0) - std) < 4.5 * error)  # wide: a Gaussian's is error / √2


first, second = gaussian(mean_1, std_1), gaussian(mean_2, std_2)

# %% [markdown]
# **And.** `sum_energies` is the product of experts. The common part of both is narrower than
# either.

# %%
both = energy.sum_energies([first, second])
x_and = np.asarray(sample(both, jax.random.key(0)))
precision = precision_1 + precision_2
mean = (precision_1 * mean_1 + precision_2 * mean_2) / precision
check("and", x_and, mean, 1 / np.sqrt(precision))

# %% [markdown]
# **Or.** `mixture_energy` mixes the *unnormalized* densities $e^{-E_i}$. For a mixture of the
# densities themselves the weights are to be divided by $Z_i = \prod \sqrt{2\pi}\,\sigma$; they
# need not add up to one.

# %%
z_1, z_2 = 2 * np.pi * np.prod(std_1), 2 * np.pi * np.prod(std_2)
either = energy.mixture_energy([first, second], weights=[0.5 / z_1, 0.5 / z_2])
x_or = np.asarray(sample(either, jax.random.key(1)))
mean = (mean_1 + mean_2) / 2
check("or", x_or, mean, np.sqrt((std_1**2 + std_2**2) / 2 + (mean_1 - mean_2) ** 2 / 4))

# %% [markdown]
# **And not.** A negative weight keeps draws away from where the second density is high. It is a
# density only as long as the first energy grows faster than what is taken from it: here $P_1 -
# \alpha P_2$ is positive for $\alpha < 1.56$.

# %%
ALPHA = 0.5
but_not = energy.sum_energies([first, second], weights=[1.0, -ALPHA])
x_not = np.asarray(sample(but_not, jax.random.key(2)))
precision = precision_1 - ALPHA * precision_2
mean = (precision_1 * mean_1 - ALPHA * precision_2 * mean_2) / precision
check("and not", x_not, mean, 1 / np.sqrt(precision))
assert np.isclose(np.min(precision_1 / precision_2), 1.5625)

# %% [markdown]
# **Given.** `clamp` fixes some entries; what a chain leaves there is noise, and only the others
# are read.

# %%
given = energy.clamp(either, jnp.array([False, True]), jnp.array([0.0, 2.0]))  # x_2 = 2
x_given = np.asarray(sample(given, jax.random.key(3)))[:, :1]
each = np.array(
    [np.exp(-0.5 * ((2 - m) / s) ** 2) / s for m, s in zip((0, 1), (1, 1.25), strict=True)]
)
share = each / each.sum()  # of the two parts of the mixture at x_2 = 2
mean = share @ [mean_1[:1], mean_2[:1]]
second_moment = share @ [std_1[:1] ** 2 + mean_1[:1] ** 2, std_2[:1] ** 2 + mean_2[:1] ** 2]
check("given", x_given, mean, np.sqrt(second_moment - mean**2))

# %% [markdown]
# ## Two trained networks
#
# One network learns `rings`, another `two_moons`, each from its own points and without the other,
# by energy discrepancy: a method without chains, a minute each. Then their energies are added.

# %%
NUM_STEPS = 1_500  # of training
FACTOR = 0.8  # model units per unit of the data


def train(name, rng_key):
    """The energy [batch, 2] -> [batch] of one density of `ebm_jax.data`, in the data's units."""
    points = FACTOR * data.toy_density(name).sample(np.random.default_rng(0), 100_000)
    points = jnp.asarray(points, jnp.float32)
    network = networks.EnergyMLP(width=64, depth=2, num_frequencies=32, frequency=1.5)
    method = EnergyDiscrepancy(
        network, low=-4.0, high=4.0, noise_std=0.7, num_points=8, base_std=4.0
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, NUM_STEPS))
    state = init_train_state(rng_key, method, optimizer, {"image": points[:128]})
    step_fn = jax.jit(make_train_step(method, optimizer, rng_key=rng_key, ema_decay=0.995))
    for step in range(NUM_STEPS):
        rows = data.batch_indices(len(points), 128, step, 0)
        state, _ = step_fn(state, {"image": points[rows]})
    energy_fn = method.densities(state.ema_params).energy(jnp.array(0))
    return lambda x: energy_fn(FACTOR * x)


names = ("rings", "two_moons")
learned = [train(name, jax.random.key(i)) for i, name in enumerate(names)]
true = [data.toy_density(name).log_density for name in names]

# %% [markdown]
# In the plane a sum over cells normalizes anything, so that compositions of what was learned can
# be compared with the same compositions of the truth. *Or* needs the networks' own $Z_i$, which
# the same sum gives.
#
# *And not* reads the second energy where its own data are **absent**, and there a network says
# anything. So the energy that is negated gets a ceiling, $-\log \max(p_2, e^{-7})$: what is less
# likely than that counts as simply not there.

# %%
grid = grid2d.Grid(7.0, 400)


def normalized(log_density):
    return log_density - np.log(np.sum(np.exp(log_density)) * grid.cell_area)


log_z = [grid2d.learned_density(energy_fn, grid).log_z for energy_fn in learned]
log_p = [log_density(grid.points) for log_density in true]
CEILING = 7.0  # nats


def moons_or_ceiling(x):
    return jnp.minimum(learned[1](x) + log_z[1], CEILING)


compositions = {
    "rings": (learned[0], log_p[0]),
    "moons": (learned[1], log_p[1]),
    "rings and moons": (energy.sum_energies(learned), log_p[0] + log_p[1]),
    "rings or moons": (
        energy.mixture_energy(learned, [0.5 * np.exp(-z) for z in log_z]),
        np.logaddexp(log_p[0], log_p[1]),
    ),
    "rings and not moons": (
        energy.sum_energies([learned[0], moons_or_ceiling], [1.0, -1.0]),
        log_p[0] - np.maximum(log_p[1], -CEILING),
    ),
}
found = {}
for name, (energy_fn, log_true) in compositions.items():
    log_q = grid2d.learned_density(energy_fn, grid).log_density
    log_true = normalized(log_true)
    found[name] = log_q, log_true, grid2d.compare(log_q, log_true, grid)
    print(f"{name}: KL(true || composed) {found[name][2].kl:.3f} nats")

# %% [markdown]
# The compositions are about as good as the parts:

# %%
for name, (*_, comparison) in found.items():
    assert 0 <= comparison.kl < 0.1, name
    assert comparison.true_mass > 0.999, name

# %% [markdown]
# The product is sampled as any energy is. Starts are spread over the plane, as its parts are
# disconnected.

# %%
x0 = 3 * jax.random.normal(jax.random.key(4), (1_000, 2))
product = energy.sum_energies(learned)
kernel = samplers.parallel_tempering(
    product,
    jnp.geomspace(1.0, 16.0, 5),
    lambda energy_fn, t: samplers.mala(energy_fn, 0.01 * t, temperature=t),
)
state, info = samplers.run_chain(jax.random.key(5), kernel, x0, num_steps=500)
draws = np.asarray(state.x)
_, log_true, _ = found["rings and moons"]
masses = grid2d.box_masses(log_true, grid, 20)
exact = np.random.default_rng(0).choice(masses.size, len(draws), p=masses.ravel() / masses.sum())
counts = np.bincount(exact, minlength=masses.size) / len(draws)
distance = grid2d.sample_distance(draws, masses, grid)
distance_of_exact = np.abs(counts - masses.ravel()).sum() / 2
print(
    f"total variation over boxes: draws {distance:.3f}, as many exact draws {distance_of_exact:.3f}"
)
assert distance < 2 * distance_of_exact

# %% tags=["picture"]
figure, axes = plt.subplots(2, 6, figsize=(11, 4.1), layout="constrained")
for column, (name, (log_q, log_true, _)) in enumerate(found.items()):
    for axis, log_density in zip(axes[:, column], (log_q, log_true), strict=True):
        axis.imshow(np.exp(log_density), extent=grid.extent, origin="lower", cmap="magma")
    axes[0, column].set_title(name, fontsize=9)
axes[0, 5].scatter(*draws.T, s=2, color="tab:blue")
axes[0, 5].set_title("draws of rings and moons", fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[], xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
axes[1, 5].axis("off")
axes[0, 0].set_ylabel("networks", fontsize=9)
axes[1, 0].set_ylabel("truth", fontsize=9)
plt.show()
