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
# # A Bayesian posterior
#
# A posterior is a density that is known up to a constant, so that the samplers of this library
# take it as it is. The model is the *eight schools* of Rubin (1981): the effect of coaching in
# eight schools, each estimated with a standard error that is known,
#
# $$y_j \sim N(\theta_j, \sigma_j^2), \quad \theta_j \sim N(\mu, \tau^2), \quad
# \mu \sim N(0, 5^2), \quad \tau \sim \text{half-Cauchy}(5).$$
#
# Given $\tau$ all else is Gaussian, so that a sum over a grid of $\tau$ gives posterior means to
# many digits, without any sampling. Draws are compared with them, and with those of BlackJAX's
# NUTS.

# %%
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ebm_jax import samplers

warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
import arviz  # noqa: E402

SCHOOLS = ["A", "B", "C", "D", "E", "F", "G", "H"]
effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # y
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])  # sigma

# %% [markdown]
# ## The answer, by quadrature
#
# With $\theta$ and $\mu$ integrated out, $y_j \mid \mu, \tau \sim N(\mu, \sigma_j^2 + \tau^2)$
# gives $p(\tau \mid y)$ and, for each $\tau$, the means of $\mu$ and of $\theta_j$ (Gelman et
# al., *Bayesian Data Analysis*, section 5.4).

# %%
log_tau = np.linspace(np.log(1e-4), np.log(1e4), 20_001)
tau = np.exp(log_tau)
variance = error**2 + tau[:, None] ** 2  # [grid, schools]
precision = 1 / 5**2 + np.sum(1 / variance, axis=1)  # of mu given tau
mu = np.sum(effect / variance, axis=1) / precision
log_likelihood = 0.5 * (
    -np.sum(np.log(variance) + effect**2 / variance, axis=1) - np.log(precision) + precision * mu**2
)
log_prior = -np.log1p((tau / 5) ** 2)
weight = np.exp(
    log_likelihood + log_prior + log_tau - np.max(log_likelihood)
)  # d tau = tau d log tau
weight /= weight.sum()
pull = tau[:, None] ** 2 / variance  # theta_j = pull y_j + (1 - pull) mu
exact = {
    "mu": weight @ mu,
    "tau": weight @ tau,
    "theta": weight @ (pull * effect + (1 - pull) * mu[:, None]),
}
print("\n".join(f"{name}: {np.round(value, 3)}" for name, value in exact.items()))

# %% [markdown]
# ## As it is written
#
# A position is a tree, here a dict: its names are kept all the way to ArviZ. $\tau$ is positive,
# so that chains move in $\log\tau$, and the density gets the factor $d\tau / d\log\tau = \tau$.


# %%
def log_prior_of(mu, log_tau):
    log_half_cauchy = -jnp.log1p((jnp.exp(log_tau) / 5) ** 2)
    return -0.5 * (mu / 5) ** 2 + log_half_cauchy + log_tau


def centered(position):
    mu, log_tau, theta = position["mu"], position["log_tau"], position["theta"]
    log_theta = -0.5 * jnp.sum(((theta - mu) / jnp.exp(log_tau)) ** 2) - len(effect) * log_tau
    log_likelihood = -0.5 * jnp.sum(((effect - theta) / error) ** 2)
    return log_prior_of(mu, log_tau) + log_theta + log_likelihood


def starts(rng_key, name):
    keys = jax.random.split(rng_key, 3)
    return {
        "mu": 5 * jax.random.normal(keys[0], (8,)),
        "log_tau": jax.random.normal(keys[1], (8,)),
        name: 5 * jax.random.normal(keys[2], (8, len(effect))),
    }


first = samplers.sample(centered, jax.random.key(0), starts(jax.random.key(1), "theta"))
print(first.summary)

# %% [markdown]
# The verdict is right: where $\tau$ is small the $\theta_j$ are tied to $\mu$, the density is a
# funnel, and steps that suit its mouth are too long for its neck. Its advice is to *parametrize
# anew*.

# %%
assert not first.is_trustworthy

# %% [markdown]
# ## Parametrized anew
#
# $\theta_j = \mu + \tau z_j$ with $z_j \sim N(0, 1)$ is the same model without the funnel. This
# time in its parts: the warm-up takes a kernel as a function of step size and mass, the kernel
# takes what it found, and `run_chain` is one compiled loop.


# %%
def non_centered(position):
    mu, log_tau, z = position["mu"], position["log_tau"], position["z"]
    theta = mu + jnp.exp(log_tau) * z
    log_likelihood = -0.5 * jnp.sum(((effect - theta) / error) ** 2)
    return log_prior_of(mu, log_tau) - 0.5 * jnp.sum(z**2) + log_likelihood


energy_fn = samplers.from_log_density(non_centered)  # [chains, ...] -> [chains]


def make_kernel(step_size, mass):
    return samplers.hmc(energy_fn, step_size, num_leapfrog_steps=8, mass=mass)


x = starts(jax.random.key(2), "z")
warm = samplers.warmup(jax.random.key(3), make_kernel, x, 1_000, target_acceptance=0.9)
kernel = make_kernel(warm.step_size, warm.mass)
state, info = samplers.run_chain(jax.random.key(4), kernel, warm.state, 4_000, keep_every=1)
print(f"step size {warm.step_size:.2f}, acceptance {info.acceptance.mean():.3f}")
print(f"{info.is_divergent.sum()} of {info.is_divergent.size:,} steps diverged")
print("mass:", jax.tree.map(lambda m: np.round(np.asarray(m), 2), warm.mass))

# %% [markdown]
# What one wants to know of is a function of the draws: a tree with names of its own.

# %%
draws = {
    "mu": info.kept["mu"],
    "tau": jnp.exp(info.kept["log_tau"]),
    "theta": info.kept["mu"][..., None] + jnp.exp(info.kept["log_tau"])[..., None] * info.kept["z"],
}
found = jax.tree.map(np.asarray, samplers.summarize(draws))  # a tree for each number
for name in draws:
    off = (found.mean[name] - exact[name]) / found.mcse_mean[name]
    print(f"{name}: {np.round(found.mean[name], 2)}\n  off by {np.round(off, 1)} standard errors")

# %%
for name in draws:
    assert np.all(np.abs(found.mean[name] - exact[name]) < 4 * found.mcse_mean[name])
    assert np.all(found.r_hat[name] < 1.01)
    assert np.all(found.ess_bulk[name] > 400)
assert info.is_divergent.mean() < 1e-3

# %% [markdown]
# ## ArviZ
#
# `to_arviz` takes an `info` of kept positions; put into it what is to be shown. Axes are then
# `[chain, draw, ...]`; `coords` and `dims` name the others and what lies along them.

# %%
idata = samplers.to_arviz(
    info._replace(kept=draws), coords={"school": SCHOOLS}, dims={"theta": ["school"]}
)
arviz.summary(idata, kind="all", round_to=2)

# %% [markdown]
# The schools are drawn towards each other: dots are the estimates $y_j$, intervals hold 94 % of
# the posterior of $\theta_j$, crosses are the exact means.

# %% tags=["picture"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
low, high = np.quantile(draws["theta"], [0.03, 0.97], axis=(0, 1))
rows = np.arange(len(SCHOOLS))
left.hlines(rows, low, high, color="tab:blue", linewidth=3, alpha=0.6, label="94 % of the draws")
left.plot(found.mean["theta"], rows, "o", color="tab:blue", label="mean of the draws")
left.plot(exact["theta"], rows, "x", color="black", label="exact mean")
left.plot(effect, rows, "o", color="tab:orange", markerfacecolor="none", label="estimate alone")
left.set(yticks=rows, yticklabels=SCHOOLS, xlabel="effect", title="schools")
left.invert_yaxis()
left.legend(fontsize=7)
edges = np.linspace(0, 25, 51)
right.hist(np.ravel(draws["tau"]), edges, density=True, alpha=0.5, label="draws")
density = weight / (tau * (log_tau[1] - log_tau[0]))
is_shown = tau < 25
right.plot(tau[is_shown], density[is_shown], color="black", label="exact")
right.set(xlabel="τ", title="spread between schools")
right.legend(fontsize=7)
plt.show()

# %% [markdown]
# ## Another implementation
#
# `from_blackjax` runs NUTS of [BlackJAX](https://github.com/blackjax-devs/blackjax) on the same
# log density, with the step size and the mass that were found above.

# %%
import blackjax  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

inverse_mass, _ = ravel_pytree(jax.tree.map(lambda m: 1 / m[0], warm.mass))
nuts = samplers.from_blackjax(blackjax.nuts(non_centered, float(warm.step_size), inverse_mass))
_, nuts_info = samplers.run_chain(jax.random.key(5), nuts, warm.state.x, 1_000, keep_every=1)
other = samplers.summarize(jax.tree.map(lambda d: d[200:], nuts_info.kept))
here = samplers.summarize(info.kept)
for name in ("mu", "log_tau"):
    print(
        f"{name}: HMC {here.mean[name]:.3f} ± {here.mcse_mean[name]:.3f}, "
        f"NUTS {other.mean[name]:.3f} ± {other.mcse_mean[name]:.3f}"
    )
    errors = np.hypot(here.mcse_mean[name], other.mcse_mean[name])
    assert abs(here.mean[name] - other.mean[name]) < 4 * errors
