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
# # From points to a density
#
# Points of the plane, one network, three methods that train it:
#
# - **Recovery likelihood** ([Gao et al. 2020](https://arxiv.org/abs/2012.08125)): an energy for
#   each of a few noise levels, learned by chains from noisier points to cleaner ones. A
#   classifier of the level, trained with it, fixes the normalizing constants, so that it claims
#   $\log Z = 0$.
# - **Energy discrepancy** ([Schroeder et al. 2023](https://arxiv.org/abs/2307.06431)): one
#   energy, learned by comparing each point with perturbed copies of it, without any chain. It is
#   known up to a constant.
# - **Dual score matching** ([Guth et al. 2025](https://arxiv.org/abs/2506.05310)): an energy for
#   every noise, learned from its derivatives in the point and in the noise. It claims $\log Z =
#   0$.
#
# In two dimensions a sum over a grid normalizes any energy, so that learned densities can be
# compared with the true one, which is known here.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ebm_jax import data, networks, samplers
from ebm_jax.evaluation.density import grid2d
from ebm_jax.methods import DualScoreMatching, EnergyDiscrepancy, RecoveryLikelihood
from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancySampler
from ebm_jax.methods.recovery_likelihood import RecoverySampler
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step

# %% [markdown]
# ## The points
#
# Any float array `[n, 2]` would do. These lie on four rings of radius 1 to 4 with normal noise of
# standard deviation 0.2, each ring as likely as another. Lengths are scaled for the network, so
# that the data fill about $[-4, 4]^2$.

# %%
density = data.toy_density("rings")
points = density.sample(np.random.default_rng(0), 100_000)  # float32 [100_000, 2]
FACTOR = 4 / density.bound  # model units per unit of the data
x = jnp.asarray(FACTOR * points)
print(f"factor {FACTOR:.2f}; points from {x.min():.1f} to {x.max():.1f} in model units")

# %% [markdown]
# ## The network and the methods
#
# A network is any Flax module that returns an energy `[batch]` for `x` `[batch, 2]` and, for
# methods of several noise levels, a condition. With learned Fourier features a small one resolves
# the gaps between the rings.
#
# A method is one object, `init`, `loss`, `sample` and `densities`, and its settings are its
# fields, each documented in its class. These are those of `configs/toy2d.py`, but for recovery
# likelihood's chains: plain ones do for so short a run, where the config has `transition="mala"`.

# %%
network = networks.EnergyMLP(width=64, depth=2, num_frequencies=32, frequency=1.5)
moments = data.Moments(FACTOR * points.mean(axis=0), FACTOR**2 * np.cov(points.T))

recovery = RecoveryLikelihood(
    network,
    num_pairs=3,
    noise_levels=(0.03, 0.2, 0.7),  # of the data plus noise, in model units
    num_steps=30,  # of the chain between neighboring levels
    step_scale=0.2,
    step_growth=0.0,
    energy_in_nats=True,
    level_classifier=4.0,
    sampler=RecoverySampler(noise_scale=1.0),
)
discrepancy = EnergyDiscrepancy(
    network,
    low=-4.0,
    high=4.0,
    noise_std=0.7,  # of the perturbations
    num_points=8,  # copies of each point
    base_std=4.0,  # of a Gaussian that keeps the density in the plane
    sampler=EnergyDiscrepancySampler(kernel="mala", step_size=0.1, num_steps=2_000),
)
dual = DualScoreMatching(network, moments, min_noise=0.02, max_noise=20.0, num_levels=24)

# %% [markdown]
# ## Training
#
# One loop for all of them. `make_train_step` is a pure function of (state, batch); all random
# numbers are functions of the key and the step. The state holds the parameters and their
# exponential moving average, `ema_params`, which is what is evaluated.


# %%
def train(method, learning_rate, num_steps, batch_size=256):
    """The averaged parameters, and the seconds that it took."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 100, num_steps)
    optimizer, key = optax.adam(schedule), jax.random.key(0)
    state = init_train_state(key, method, optimizer, {"image": x[:batch_size]})
    step_fn = jax.jit(make_train_step(method, optimizer, rng_key=key, ema_decay=0.995))
    began = time.monotonic()
    for step in range(num_steps):
        rows = data.batch_indices(len(x), batch_size, step, 0)
        state, _ = step_fn(state, {"image": x[rows]})
    assert state.finite_so_far  # no step had a loss or a gradient that was not
    return state.ema_params, time.monotonic() - began


runs = {
    "recovery likelihood": (recovery, 6e-3, 1_500),
    "energy discrepancy": (discrepancy, 1e-2, 1_500),
    "dual score matching": (dual, 5e-3, 4_000),
}
trained = {}
for name, (method, learning_rate, num_steps) in runs.items():
    trained[name], seconds = train(method, learning_rate, num_steps)
    print(f"{name}: {num_steps:,} steps in {seconds:.0f} s")

# %% [markdown]
# ## What was learned
#
# `method.densities(params)` says what the energies mean, level by level: level t is of `a_bar[t]
# x + sigma_bar[t] noise`, x the data in model units. Level 0 is the one with the least noise.
# `learned_density` sums it up over a grid.

# %%
grid = grid2d.Grid(1.5 * density.bound, 480)
log_p = density.log_density(grid.points)
fits, draws = {}, {}
for name, (method, *_) in runs.items():
    densities = method.densities(trained[name])
    a_bar = float(densities.a_bar[0])
    energy_fn = densities.energy(jnp.array(0))
    learned = grid2d.learned_density(energy_fn, grid, factor=a_bar * FACTOR)
    fits[name] = learned, grid2d.compare(learned.log_density, log_p, grid)
    began = time.monotonic()
    index = jnp.arange(2_000)  # sample i is a function of the key and i alone
    samples = jax.jit(method.sample)(trained[name], jax.random.key(1), index)
    draws[name] = np.asarray(samples) / FACTOR
    print(
        f"{name}: KL(true || learned) {fits[name][1].kl:.4f} nats, log Z {learned.log_z:.2f}; "
        f"2,000 samples in {time.monotonic() - began:.0f} s"
    )

# %% [markdown]
# For scale: a Gaussian with the mean and the covariance of the data, the best that a Gaussian can
# do.

# %%
std = points.std(axis=0)
normal = -0.5 * np.sum((grid.points / std) ** 2, axis=-1) - np.log(2 * np.pi * std[0] * std[1])
kl_of_gaussian = grid2d.compare(normal, log_p, grid).kl
print(f"Gaussian: KL(true || Gaussian) {kl_of_gaussian:.3f} nats")

# %%
assert fits["recovery likelihood"][1].kl < 0.15
assert fits["energy discrepancy"][1].kl < 0.03
assert fits["dual score matching"][1].kl < 0.1
assert min(fits, key=lambda name: fits[name][1].kl) == "energy discrepancy"
for name in ("recovery likelihood", "dual score matching"):  # which claim log Z = 0
    assert abs(fits[name][0].log_z) < 0.2
for _, comparison in fits.values():
    assert comparison.true_mass > 0.999
    assert comparison.kl < kl_of_gaussian

# %% [markdown]
# Samples are judged by the shares of them in boxes of the plane, beside as many exact ones, for
# which the distance is not 0 either.

# %%
masses = grid2d.box_masses(log_p, grid, 24)
exact = density.sample(np.random.default_rng(1), 2_000)
distance_of_exact = grid2d.sample_distance(exact, masses, grid)
print(f"exact samples: total variation {distance_of_exact:.3f}")
distances = {name: grid2d.sample_distance(s, masses, grid) for name, s in draws.items()}
for name, distance in distances.items():
    print(f"{name}: total variation {distance:.3f}")
    assert distance < 3 * distance_of_exact

# %% [markdown]
# A good density is not yet good samples: energy discrepancy has the best of the three densities,
# and its chains, which start at a wide Gaussian, have not reached it. The energy is a function
# like any other, so another sampler of the library can draw from it: sequential Monte Carlo from
# that Gaussian.

# %%
energy_fn = discrepancy.densities(trained["energy discrepancy"]).energy(jnp.array(0))
base = discrepancy.base_distribution
carried = samplers.smc(
    jax.random.key(2),
    samplers.geometric_path(base.energy, energy_fn),
    base.sample(jax.random.key(3), jnp.arange(2_000), (2,)),
    lambda energy_fn, step_size, mass: samplers.hmc(energy_fn, step_size, 5, mass=mass),
    step_size=0.1,
    num_steps=20,
)
distance = grid2d.sample_distance(np.asarray(carried.x) / FACTOR, masses, grid)
print(f"energy discrepancy, sequential Monte Carlo: total variation {distance:.3f}")
log_z = carried.log_z + base.log_z(2)
log_z_of_grid = fits["energy discrepancy"][0].log_z
print(f"log Z {log_z:.3f} ± {carried.standard_error:.3f}, on the grid {log_z_of_grid:.3f}")
assert distance < distances["energy discrepancy"]
assert abs(log_z - log_z_of_grid) < 5 * carried.standard_error

# %% tags=["picture"]
figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), layout="constrained")
columns = {"true density": (log_p, exact)} | {
    name: (fits[name][0].log_density, draws[name]) for name in runs
}
for column, (name, (log_density, samples)) in enumerate(columns.items()):
    axes[0, column].imshow(np.exp(log_density), extent=grid.extent, origin="lower", cmap="magma")
    axes[1, column].scatter(*samples.T, s=2.5, color="black", alpha=0.5, linewidths=0)
    axes[0, column].set_title(name, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[], xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
axes[0, 0].set_ylabel("density")
axes[1, 0].set_ylabel("2,000 samples")
plt.show()

# %% [markdown]
# The same from the command line, with checkpoints, logs and a page of results, and other
# densities to try:
#
# ```bash
# python main.py --config=configs/toy2d.py:rings --workdir=runs/rings python main.py
# --config=configs/toy2d.py:rings --workdir=runs/rings --mode=evaluate
# ```
