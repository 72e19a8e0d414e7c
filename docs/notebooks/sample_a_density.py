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
# # Sample a density
#
# `ebm_jax.samplers` draws from any density that JAX can differentiate; it needs neither a network
# nor a data set. This notebook samples a density whose moments are known, first with one call and
# then step by step, and shows what a failure looks like and what to do about it.

# %%
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ebm_jax import samplers

warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
import arviz  # noqa: E402

# %% [markdown]
# ## One call
#
# A log density is a function of **one** position, up to a constant. A position is an array or any
# tree of arrays, and its names are kept. This one is a Gaussian along a wave,
#
# $$x \sim N(0, s^2), \qquad y \mid x \sim N(a \cos x, 1),$$
#
# so that $E[y] = a e^{-s^2/2}$ and $\mathrm{Var}[y] = 1 + a^2 (1 - e^{-s^2})^2 / 2$.

# %%
S, A = 2.0, 2.0


def logdensity_fn(position):
    x, y = position["x"], position["y"]
    return -0.5 * (x / S) ** 2 - 0.5 * (y - A * jnp.cos(x)) ** 2


true_mean = {"x": 0.0, "y": A * np.exp(-(S**2) / 2)}
true_sd = {"x": S, "y": np.sqrt(1 + A**2 * (1 - np.exp(-(S**2))) ** 2 / 2)}

# %% [markdown]
# `samplers.sample` takes starts of four chains or more, further apart than the draws are expected
# to be. It warms HMC up, runs it, computes the diagnostics, and says in words whether to trust
# the draws.

# %%
keys = jax.random.split(jax.random.key(0), 3)
starts = {"x": 3 * jax.random.normal(keys[0], (8,)), "y": 3 * jax.random.normal(keys[1], (8,))}
result = samplers.sample(logdensity_fn, keys[2], starts, num_draws=2_000)
print(result.summary)

# %% [markdown]
# `result.draws` has the names of the starts and the shape `[chains, draws, ...]`;
# `result.diagnostics.components` has mean, standard deviation, their Monte Carlo standard errors
# (MCSE), effective sample sizes (ESS) and R-hat, each with the same names. All estimates are
# within a few standard errors of the truth:

# %%
found = result.diagnostics.components
for name in starts:
    mean, error = found.mean[name], found.mcse_mean[name]
    sd, sd_error = found.sd[name], found.mcse_sd[name]
    print(f"{name}: mean {mean:.3f} ± {error:.3f}, exactly {true_mean[name]:.3f}")
    print(f"{name}: sd   {sd:.3f} ± {sd_error:.3f}, exactly {true_sd[name]:.3f}")

# %%
assert result.is_trustworthy
for name in starts:
    assert abs(found.mean[name] - true_mean[name]) < 4 * found.mcse_mean[name]
    assert abs(found.sd[name] - true_sd[name]) < 4 * found.mcse_sd[name]

# %% [markdown]
# ## ArviZ
#
# `result.to_arviz()` is an `InferenceData` with the same names. In a trace plot, chains that have
# mixed lie on top of each other and look like noise.

# %%
idata = result.to_arviz()
arviz.plot_trace(idata, figsize=(9, 4))
plt.tight_layout()
plt.show()

# %%
arviz.plot_pair(idata, kind="kde", marginals=True, figsize=(5, 5))
plt.show()

# %%
arviz.summary(idata)

# %% [markdown]
# ## By hand
#
# The same in its parts, for other kernels and for chains inside of your own compiled code. Here
# everything is written for **energies of many positions**: $p(x) \propto e^{-E(x)}$ and
# `energy_fn: [chains, ...] -> [chains]`. `samplers.from_log_density` makes one from a log
# density.
#
# - `warmup` finds the step size and a diagonal mass. It returns numbers: nothing adapts while you
#   sample.
# - A kernel is a pair of pure functions, `init` and `step`. Another step size does not compile it
#   again.
# - `run_chain` is one compiled loop; `keep_every=k` keeps the positions of every k-th step.

# %%
energy_fn = samplers.from_log_density(logdensity_fn)
warmup_key, run_key = jax.random.split(jax.random.key(1))


def make_kernel(step_size, mass):
    return samplers.hmc(energy_fn, step_size, num_leapfrog_steps=8, mass=mass)


warm = samplers.warmup(warmup_key, make_kernel, starts, num_steps=500)
kernel = make_kernel(warm.step_size, warm.mass)
state, info = samplers.run_chain(run_key, kernel, warm.state, num_steps=2_000, keep_every=1)
print(f"step size {warm.step_size:.2f}, acceptance {info.acceptance.mean():.2f}")
print("kept:", {name: draws.shape for name, draws in info.kept.items()}, "[draws, chains]")

# %% [markdown]
# Diagnostics take draws as `run_chain` stacks them, `[draws, chains, ...]`, and are computed on
# the device. R-hat below 1.01 and an ESS above 400 are what Vehtari et al. (2021) advise.

# %%
summary = samplers.summarize(info.kept)
for name in starts:
    print(
        f"{name}: R-hat {summary.r_hat[name]:.4f}, ESS {summary.ess_bulk[name]:.0f} (bulk) "
        f"and {summary.ess_tail[name]:.0f} (tails)"
    )
assert max(summary.r_hat.values()) < 1.01
assert min(*summary.ess_bulk.values(), *summary.ess_tail.values()) > 400
assert abs(summary.mean["y"] - true_mean["y"]) < 4 * summary.mcse_mean["y"]

# %% [markdown]
# ## What a failure looks like: steps that diverge
#
# With $y \mid x \sim N(x^2/2, 1)$ instead the density gets steeper the further out $x$ is, and a
# step that suits the middle is too long for the tails:


# %%
def bent(position):
    x, y = position["x"], position["y"]
    return -0.5 * x**2 - 0.5 * (y - 0.5 * x**2) ** 2


too_long = samplers.sample(bent, jax.random.key(2), starts)
print(too_long.summary)

# %% [markdown]
# What the verdict advises helps: a higher target makes smaller steps.

# %%
shorter = samplers.sample(bent, jax.random.key(2), starts, target_acceptance=0.98)
print(f"step size {too_long.warmup.step_size:.2f}, then {shorter.warmup.step_size:.2f}")
print(shorter.summary)
assert not too_long.is_trustworthy
assert shorter.is_trustworthy
y = shorter.diagnostics.components
assert abs(y.mean["y"] - 0.5) < 4 * y.mcse_mean["y"]  # E[x^2] / 2

# %% [markdown]
# ## What a failure looks like: chains that do not mix
#
# Two Gaussians of standard deviation 1, centers 24 apart, weights 0.3 and 0.7. Between them the
# density falls by a factor of about $e^{-72}$, and a chain of HMC does not cross.

# %%
CENTERS, WEIGHTS = jnp.array([[-12.0, 0.0], [12.0, 0.0]]), jnp.array([0.3, 0.7])


def two_modes(x):  # the log density of one position [2]
    squares = jnp.sum((x - CENTERS) ** 2, axis=-1)
    return jax.nn.logsumexp(jnp.log(WEIGHTS) - 0.5 * squares)


noise = jax.random.normal(jax.random.key(2), (8, 2))
spread = jnp.tile(CENTERS, (4, 1)) + noise  # four chains about each center
failed = samplers.sample(two_modes, jax.random.key(3), spread)
print(failed.summary)

# %% [markdown]
# The chains disagree and the verdict says so. The weight that one would read off these draws is
# an accident of where the chains started, and of the long steps that a warm-up tries at first:

# %%
share = jnp.mean(failed.draws[..., 0] > 0)
print(f"share of draws on the right {share:.3f}; the weight is {WEIGHTS[1]:.1f}")
print("R-hat of the coordinates", failed.diagnostics.components.r_hat)
assert not failed.is_trustworthy
assert failed.diagnostics.components.r_hat[0] > 1.5

# %% [markdown]
# Diagnostics compare chains with each other. If all start in one mode they agree, and **nothing**
# can be known of the other:

# %%
together = samplers.sample(two_modes, jax.random.key(4), CENTERS[0] + noise)
print(together.summary)
assert together.is_trustworthy
assert jnp.all(together.draws[..., 0] < 0)  # 0.3 of the mass alone

# %% [markdown]
# ## Parallel tempering
#
# Replicas at higher temperatures cross and hand their positions down. `parallel_tempering` is a
# kernel like any other; the energy of the position at temperature 1 is the one that is sampled.
# All chains start in the small mode.

# %%
two_modes_energy = samplers.from_log_density(two_modes)


def tempered(energy_fn, temperature):
    return samplers.mala(energy_fn, 0.6 * temperature, temperature=temperature)


tempering = samplers.parallel_tempering(two_modes_energy, jnp.geomspace(1.0, 72.0, 7), tempered)
x = jnp.tile(CENTERS[:1], (64, 1))
state, _ = samplers.run_chain(jax.random.key(5), tempering, x, num_steps=2_000)
state, info = samplers.run_chain(jax.random.key(6), tempering, state, 5_000, keep_every=10)
on_the_right = samplers.summarize((info.kept[..., 0] > 0).astype(float))
print(
    f"share on the right {on_the_right.mean:.3f} ± {on_the_right.mcse_mean:.3f}, "
    f"R-hat {on_the_right.r_hat:.3f}; replicas swapped in "
    f"{info.swap_acceptance.mean():.2f} of the tries"
)
assert abs(on_the_right.mean - WEIGHTS[1]) < 4 * on_the_right.mcse_mean
assert on_the_right.r_hat < 1.05

# %% [markdown]
# ## Sequential Monte Carlo
#
# `smc` carries draws from a density that is known and wide to the one that is wanted, in as many
# temperatures as it finds that it needs, and estimates the ratio of the two normalizing
# constants.

# %%
WIDE, num_chains = 14.0, 4_096


def wide_energy(x):  # log Z = log(2 pi WIDE^2)
    return 0.5 * jnp.sum((x / WIDE) ** 2, axis=-1)


x = WIDE * jax.random.normal(jax.random.key(7), (num_chains, 2))
carried = samplers.smc(
    jax.random.key(8),
    samplers.geometric_path(wide_energy, two_modes_energy),
    x,
    lambda energy_fn, step_size, mass: samplers.hmc(energy_fn, step_size, 5, mass=mass),
    step_size=0.5,
)
log_z, true_log_z = carried.log_z + jnp.log(2 * jnp.pi * WIDE**2), jnp.log(2 * jnp.pi)
groups = (carried.x[:, 0] > 0).reshape(8, -1).mean(axis=1)  # they never meet: 8 estimates
share, error = groups.mean(), groups.std(ddof=1) / np.sqrt(8)
print(
    f"share on the right {share:.3f} ± {error:.3f}, after {carried.num_temperatures} temperatures"
)
print(f"log Z {log_z:.3f} ± {carried.standard_error:.3f}, exactly {true_log_z:.3f}")
assert abs(share - WEIGHTS[1]) < 4 * error
assert abs(log_z - true_log_z) < 4 * carried.standard_error

# %% [markdown]
# The four runs beside each other:

# %% tags=["picture"]
runs = {
    "HMC, starts in both modes\n(the verdict: do not trust)": failed.draws,
    "HMC, starts in one mode\n(nothing can tell)": together.draws,
    "parallel tempering": info.kept,
    "sequential Monte Carlo": carried.x,
}
edges = np.linspace(-16, 16, 129)
density = sum(
    w * jax.scipy.stats.norm.pdf(edges, c) for w, c in zip(WEIGHTS, CENTERS[:, 0], strict=True)
)
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), sharey=True, layout="constrained")
for axis, (title, draws) in zip(axes, runs.items(), strict=True):
    axis.hist(np.ravel(draws[..., 0]), edges, density=True, color="tab:blue", alpha=0.5)
    axis.plot(edges, density, color="black", linewidth=1)
    axis.set(title=title, xlabel="first coordinate")
    axis.title.set_fontsize(9)
plt.show()
