"""Convergence diagnostics of Vehtari, Gelman, Simpson, Carpenter and Burkner (2021), jittable.

"Rank-normalization, folding, and localization: an improved R-hat for assessing convergence of
MCMC", Bayesian Analysis 16(2), arXiv 1903.08008. Every function takes draws with the axes that
`run_chain` stacks them in, `[draws, chains, ...]` (an array or a pytree of such arrays), and
returns one value for each of the remaining dimensions. The values are those of ArviZ 0.23, which
takes `[chains, draws, ...]`: swap the first two axes to compare.

Computed in float32, or in float64 where `jax_enable_x64` is on, of draws that are centered and
scaled first: a common offset or a unit in which the draws are tiny or huge costs no digits. A
component with a NaN among its draws gives NaN. Fewer than four draws, or an array without both
axes, raise ValueError.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import betainc, ndtri

_TAIL_PROBS = (0.05, 0.95)
_ONE_SIGMA_PROBS = (0.1586553, 0.8413447)  # Phi(-1) and Phi(1), with the digits that ArviZ uses


class Summary(NamedTuple):
    """One line of a table on a chain's output; each field has the shape `[...]` of one draw.

    Attributes:
        mean, sd: of all draws of all chains.
        mcse_mean, mcse_sd: Monte Carlo standard errors of these two.
        ess_bulk, ess_tail: effective sample sizes, in draws.
        r_hat: rank-normalized split R-hat.
    """

    mean: Any
    sd: Any
    mcse_mean: Any
    mcse_sd: Any
    ess_bulk: Any
    ess_tail: Any
    r_hat: Any


@jax.jit
def split_r_hat(samples: Any) -> Any:
    """Rank-normalized split R-hat: the larger of the bulk's and the tails' (eq. 14 there).

    Each chain is halved, the draws are replaced by the normal scores of their ranks (and, for the
    tails, by those of their distances to the median), and the usual ratio of standard deviations
    is taken. Values above 1.01 say that the chains do not agree yet. ArviZ returns NaN for one
    chain; here its two halves are compared.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, at least 1 - 1 / draws; NaN where all draws are equal.
    """
    return _per_component(_r_hat_of, samples)


@jax.jit
def ess_bulk(samples: Any) -> Any:
    """Effective sample size of the bulk of the distribution: of the rank-normalized split chains.

    `S / tau` with S the number of draws of all chains, and tau the autocorrelation time by Geyer's
    initial monotone sequence over the chains' combined autocorrelations (eqs. 10 to 13 there),
    never below `1 / log10(S)`. Counts all S draws where they are all equal.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, in draws.
    """
    return _per_component(lambda draws: _ess(_normal_scores(_split(draws.values))), samples)


@jax.jit
def ess_tail(samples: Any) -> Any:
    """The smaller of the effective sample sizes of the 5 % and the 95 % quantile.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, in draws.
    """
    low, high = _TAIL_PROBS
    return _per_component(
        lambda draws: jnp.minimum(
            _ess_quantile(draws.values, low), _ess_quantile(draws.values, high)
        ),
        samples,
    )


@jax.jit
def ess_mean(samples: Any) -> Any:
    """Effective sample size of the mean: of the split chains as they are, not their ranks.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, in draws.
    """
    return _per_component(lambda draws: _ess(_split(draws.standard)), samples)


def ess_quantile(samples: Any, prob: float) -> Any:
    """Effective sample size of a quantile: of the indicator that a draw is not above it.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.
      prob: a Python number between 0 and 1.

    Returns:
      `[...]`, in draws.

    Raises:
      ValueError: `prob` is not between 0 and 1.
    """
    return _jitted_ess_quantile(samples, _check_prob(prob))


@jax.jit
def mcse_mean(samples: Any) -> Any:
    """Monte Carlo standard error of the mean: `sd / sqrt(ess_mean)`.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, in the unit of the samples.
    """
    return _per_component(_mcse_mean_of, samples)


@jax.jit
def mcse_sd(samples: Any) -> Any:
    """Monte Carlo standard error of the standard deviation.

    With `c = (x - mean)^2`, the variance of `mean(c)` is `var(c) / ess(c)`, and the delta method
    divides it by `4 mean(c)` on the way to the standard deviation.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      `[...]`, in the unit of the samples.
    """
    return _per_component(_mcse_sd_of, samples)


def mcse_quantile(samples: Any, prob: float) -> Any:
    """Monte Carlo standard error of a quantile.

    Half the distance between the order statistics at the 16 % and 84 % points of
    Beta(ess p + 1, ess (1 - p) + 1), the distribution of the probability below the sample quantile.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.
      prob: a Python number between 0 and 1.

    Returns:
      `[...]`, in the unit of the samples.

    Raises:
      ValueError: `prob` is not between 0 and 1.
    """
    return _jitted_mcse_quantile(samples, _check_prob(prob))


@jax.jit
def acceptance_rate(acceptance: Array) -> Array:
    """Mean acceptance of each chain; a step whose acceptance is NaN counts as a rejection.

    Args:
      acceptance: `[steps, chains]`, `Info.acceptance` of every step: of
        `run_chain(..., keep_every=1)`. Rows of blocks of equal length do as well.

    Returns:
      `[chains]`, between 0 and 1.

    Raises ValueError unless `acceptance` has these two axes.
    """
    if jnp.ndim(acceptance) != 2:
        raise ValueError(
            "expected acceptance [steps, chains], as run_chain(..., keep_every=1) stacks it, got "
            f"shape {jnp.shape(acceptance)}"
        )
    return jnp.mean(jnp.where(jnp.isnan(acceptance), 0.0, acceptance), axis=0)


@jax.jit
def summarize(samples: Any) -> Summary:
    """Mean, sd, their Monte Carlo errors, bulk and tail ESS and R-hat of every component.

    Args:
      samples: `[draws, chains, ...]`, or a pytree of such arrays.

    Returns:
      A Summary whose fields have the shape (and tree) of one draw of one chain.
    """
    return Summary(
        mean=_per_component(_mean_of, samples),
        sd=_per_component(_sd_of, samples),
        mcse_mean=mcse_mean(samples),
        mcse_sd=mcse_sd(samples),
        ess_bulk=ess_bulk(samples),
        ess_tail=ess_tail(samples),
        r_hat=split_r_hat(samples),
    )


@partial(jax.jit, static_argnums=1)
def _jitted_ess_quantile(samples: Any, prob: float) -> Any:
    return _per_component(lambda draws: _ess_quantile(draws.values, prob), samples)


@partial(jax.jit, static_argnums=1)
def _jitted_mcse_quantile(samples: Any, prob: float) -> Any:
    return _per_component(lambda draws: _mcse_quantile_of(draws, prob), samples)


class _Draws(NamedTuple):
    """Draws of one component, [chains, draws].

    `values` are the draws themselves, for what depends on their order alone; `standard` are
    `(values - center) / scale`, exact: the scale is a power of two, and the center a draw in their
    middle where all draws are close to it for their magnitude, else 0.
    """

    values: Array
    standard: Array
    center: Array
    scale: Array


def _standardized(values: Array) -> _Draws:
    # Scaled before and after the difference, so that it overflows no more than its terms do.
    first_scale = _power_of_two(values)
    scaled = values / first_scale
    middle = jnp.sort(scaled.ravel())[scaled.size // 2]
    reach = jnp.max(jnp.where(jnp.isfinite(scaled), jnp.abs(scaled - middle), 0))
    # An offset that costs a few bits at most stays: the results are ArviZ's to the last digit then.
    center = jnp.where(jnp.abs(middle) > 16 * reach, middle, 0)
    center = jnp.where(jnp.isfinite(center), center, 0)
    centered = scaled - center
    second_scale = _power_of_two(centered)
    return _Draws(values, centered / second_scale, center * first_scale, first_scale * second_scale)


def _power_of_two(values: Array) -> Array:
    """The power of two below the largest finite magnitude; 1 where there is none but 0."""
    largest = jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0))
    _, exponent = jnp.frexp(largest)
    return jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), exponent - 1), 1)


def _per_component(statistic: Callable[[_Draws], Array], samples: Any) -> Any:
    """Applies `statistic: draws of one component -> scalar` to each component of each leaf."""
    leaves, structure = jax.tree.flatten(samples)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    for shape in shapes:
        if len(shape) < 2 or shape[0] < 4 or shape[1] < 1:
            raise ValueError(
                f"expected samples [draws, chains, ...] with at least 4 draws, got shape {shape}"
            )
    if len({shape[:2] for shape in shapes}) != 1:
        raise ValueError(f"expected [draws, chains, ...], the same in all leaves, got {shapes}")
    dtype = jnp.promote_types(jnp.result_type(*leaves), jnp.result_type(float))
    flat = [jnp.asarray(leaf, dtype).reshape(*shapes[0][:2], -1) for leaf in leaves]
    draws = jnp.moveaxis(jnp.concatenate(flat, axis=2), (2, 1), (0, 1))

    def one(values: Array) -> Array:
        return statistic(_standardized(values))

    results = jnp.where(jnp.isnan(draws).any(axis=(1, 2)), jnp.nan, jax.vmap(one)(draws))
    ends = np.cumsum([leaf.shape[2] for leaf in flat])[:-1]
    parts = jnp.split(results, ends)
    return structure.unflatten(
        part.reshape(shape[2:]) for part, shape in zip(parts, shapes, strict=True)
    )


def _check_prob(prob: float) -> float:
    if not 0.0 < float(prob) < 1.0:
        raise ValueError(f"expected prob between 0 and 1, such as 0.05, got {prob}")
    return float(prob)


# Below, arrays of draws are [chains, draws], one component.


def _split(draws: Array) -> Array:
    """Halves each chain; the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return jnp.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: Array) -> Array:
    """Normal quantiles at Blom's plotting positions `(rank - 3/8) / (S + 1/4)`, ties averaged."""
    values = draws.ravel()
    ordered = jnp.sort(values)
    below = jnp.searchsorted(ordered, values)
    not_above = jnp.searchsorted(ordered, values, side="right")
    rank = (below + not_above + 1).astype(draws.dtype) / 2
    return ndtri((rank - 0.375) / (values.size + 0.25)).reshape(draws.shape)


def _classic_r_hat(draws: Array) -> Array:
    num_draws = draws.shape[1]
    between = jnp.var(draws.mean(axis=1), ddof=1)  # of the chain means: B / num_draws
    within = jnp.var(draws, axis=1, ddof=1).mean()
    r_hat = jnp.sqrt(between / within + (num_draws - 1) / num_draws)
    return jnp.where(_is_constant(draws), jnp.nan, r_hat)


def _is_constant(draws: Array) -> Array:
    return jnp.max(draws) == jnp.min(draws)


def _r_hat_of(draws: _Draws) -> Array:
    standard = _split(draws.standard)
    folded = jnp.abs(standard - jnp.median(standard))
    bulk, tails = (
        _classic_r_hat(_normal_scores(values)) for values in (_split(draws.values), folded)
    )
    return jnp.fmax(bulk, tails)  # the tails of two equally frequent values say nothing: NaN


def _mean_autocovariance(draws: Array) -> Array:
    """Autocovariance at every lag, biased (divided by the number of draws), averaged over chains.

    The power spectra are averaged, so there is one inverse transform.
    """
    num_draws = draws.shape[1]
    padded = 1 << (2 * num_draws - 1).bit_length()  # zeros keep the circular sum from wrapping
    spectrum = jnp.fft.rfft(draws - draws.mean(axis=1, keepdims=True), n=padded, axis=1)
    power = jnp.mean(spectrum.real**2 + spectrum.imag**2, axis=0)
    return jnp.fft.irfft(power, n=padded)[:num_draws] / num_draws


def _ess(draws: Array) -> Array:
    """Effective sample size by Geyer's initial monotone sequence.

    With `rho` the combined autocorrelations and `P_k = rho_2k + rho_{2k+1}`: the first K with
    `P_K <= 0` (or the last pair that the chain is long enough for) ends the sequence, the pair
    sums before it are made non-increasing, and `tau = -1 + 2 sum_{k<K} P_k + rho_2K`, the last
    term only where it is positive.
    """
    num_chains, num_draws = draws.shape
    total = num_chains * num_draws
    autocovariance = _mean_autocovariance(draws)
    within = autocovariance[0] * num_draws / (num_draws - 1)
    pooled = autocovariance[0] + jnp.var(draws.mean(axis=1), ddof=1)
    rho = (1.0 - (within - autocovariance) / pooled).at[0].set(1.0)

    last_pair = max(0, (num_draws - 3) // 2)
    pairs = rho[: 2 * (last_pair + 1)].reshape(-1, 2).sum(axis=1)
    is_end = (pairs <= 0.0).at[last_pair].set(True)
    end = jnp.argmax(is_end)
    monotone = jax.lax.cummin(pairs)
    head = jnp.sum(jnp.where(jnp.arange(last_pair + 1) < end, monotone, 0.0))
    even = rho[2 * end]
    tau = -1.0 + 2.0 * head + jnp.where((even > 0.0) | (pairs[end] >= 0.0), even, 0.0)
    ess = total / jnp.maximum(tau, 1.0 / math.log10(total))
    return jnp.where(_is_constant(draws), float(total), ess)


def _quantile_bound(values: Array, prob: float) -> Array:
    """The largest order statistic that is not above the quantile (R's type 7).

    The quantile interpolates between two neighboring order statistics; the draws that are not above
    it are those that are not above the lower of these, or it is one of them. Computing the
    interpolation itself would, in float32, round it to either side of draws with ties. The place is
    found in Python's float64 for the same reason.
    """
    place = values.size * prob + (1.0 - prob)  # counted from 1
    return jnp.sort(values.ravel())[math.floor(place) - 1]


def _ess_quantile(values: Array, prob: float) -> Array:
    is_low = values <= _quantile_bound(values, prob)
    return _ess(_split(is_low.astype(values.dtype)))


def _mean_of(draws: _Draws) -> Array:
    return draws.center + draws.scale * jnp.mean(draws.standard)


def _sd_of(draws: _Draws) -> Array:
    return draws.scale * jnp.std(draws.standard, ddof=1)


def _mcse_mean_of(draws: _Draws) -> Array:
    return _sd_of(draws) / jnp.sqrt(_ess(_split(draws.standard)))


def _mcse_sd_of(draws: _Draws) -> Array:
    squares = (draws.standard - draws.standard.mean()) ** 2
    variance = jnp.var(squares) / _ess(_split(squares)) / jnp.mean(squares) / 4.0
    return draws.scale * jnp.sqrt(variance)


def _mcse_quantile_of(draws: _Draws, prob: float) -> Array:
    ess = _ess_quantile(draws.values, prob)
    size = draws.values.size
    low, high = (
        _beta_quantile(p, ess * prob + 1.0, ess * (1.0 - prob) + 1.0) * size - 1.0
        for p in _ONE_SIGMA_PROBS
    )
    ordered = jnp.sort(draws.standard.ravel())
    first = jnp.floor(jnp.maximum(low, 0.0)).astype(jnp.int32)
    last = jnp.ceil(jnp.minimum(high, size - 1.0)).astype(jnp.int32)
    return draws.scale * (ordered[last] - ordered[first]) / 2.0


def _beta_quantile(prob: float, a: Array, b: Array) -> Array:
    """Inverse of the regularized incomplete beta function, by bisection to the last bit."""

    def halve(bracket: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = bracket
        middle = (low + high) / 2
        is_below = betainc(a, b, middle) < prob
        return (jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)), None

    num_halvings = jnp.finfo(a.dtype).nmant + 8
    bracket = jnp.zeros_like(a), jnp.ones_like(a)
    (low, high), _ = jax.lax.scan(halve, bracket, length=num_halvings)
    return (low + high) / 2
