"""Langevin samplers in the parameters of the papers that use them.

Each kernel comes with its update as a plain function of the noise. `langevin` itself is
`x' = x - h grad E + sqrt(2 h T) xi`; in those terms

    DRL    h = s^2 / 2           T = nu^2
    IGEBM  h = lambda            T = std^2 / (2 lambda), noise before the gradient
    NCSN   h = alpha_i / 2       T = 1, alpha_i = eps sigma_i^2 / sigma_L^2
    MDSM   h = eps^2 / 2         T per step
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ebm_jax.samplers import random
from ebm_jax.samplers._trees import (
    PyTree,
    cast_like,
    distance,
    norm,
    parameter,
    spread,
    wide_dtype,
    widen,
)
from ebm_jax.samplers.base import (
    EnergyFn,
    Info,
    Kernel,
    State,
    energy_and_grad,
    init_state,
    is_finite,
    positions,
    round_like,
)
from ebm_jax.samplers.langevin import clip_gradient, langevin, langevin_update


def temperature_of_noise(step_size: Any, noise_std: Any) -> jax.Array:
    """The T at which `langevin` adds noise of this standard deviation: `std^2 / (2 h)`."""
    return jnp.square(jnp.asarray(noise_std)) / (2 * jnp.asarray(step_size))


def drl_update(x: PyTree, grad: PyTree, noise: PyTree, s: Any, nu: Any = 1.0) -> PyTree:
    """Diffusion recovery likelihood: `x - s^2/2 grad E(x) + nu s noise`.

    Gao et al., arXiv 2012.08125, eq. 9 with the noise scaled by nu as in their sampling. Shapes as
    in `langevin_update`; `s` and `nu` are scalars, [chains] or of x's rank.
    """
    h, t = _square(s, 0.5), _square(nu, 1.0)
    return langevin_update(x, grad, noise, h, t)


def drl_langevin(energy_fn: EnergyFn, s: Any, nu: Any = 1.0) -> Kernel:
    """`drl_update` as a kernel; in the paper K = 30 per level, nu = 1 in training, 0.99 to sample.

    `energy_fn` is the conditional energy of the recovery likelihood, which has its own fixed
    temperature `1 / s_t^2` inside. `s` is a scalar, or [chains] where levels differ.
    """
    s, nu = parameter(s, "s"), parameter(nu, "nu", strict=False)
    return langevin(energy_fn, _square(s, 0.5), temperature=_square(nu, 1.0))


def _square(value: PyTree, factor: float) -> PyTree:
    return jax.tree.map(lambda v: factor * jnp.square(jnp.asarray(v)), value)


def mdsm_update(
    x: PyTree, grad: PyTree, noise: PyTree, temperature: Any, eps: Any = 0.02
) -> PyTree:
    """Multiscale denoising score matching: `x - eps^2/2 grad E(x) + eps sqrt(T) noise`.

    Li et al., arXiv 1910.07762; the temperature scales the noise alone. Shapes as `drl_update`.
    """
    return langevin_update(x, grad, noise, _square(eps, 0.5), temperature)


def mdsm_langevin(energy_fn: EnergyFn, temperature: Any, eps: Any = 0.02) -> Kernel:
    """`mdsm_update` as a kernel, for `run_schedule` over `mdsm_temperatures()`.

    The paper's sampler is one step at each of 2,700 temperatures from 0.5 + N(0, I):

        make_kernel = functools.partial(mdsm_langevin, energy_fn)
        state, info = run_schedule(rng_key, make_kernel, mdsm_temperatures(), x, 1)

    followed by one jump `x - sigma_0^2 grad E(x)`, for which the state has the gradient.
    """
    eps = parameter(eps, "eps")
    return langevin(energy_fn, _square(eps, 0.5), temperature=temperature)


def mdsm_temperatures(
    *,
    start: float = 100.0,
    num_hot: int = 500,
    num_cooling: int = 2000,
    num_final: int = 200,
    cooling: str = "exp",
) -> np.ndarray:
    """Temperatures of the MDSM sampler, float64 [num_hot + num_cooling + num_final].

    `num_hot` times `start`, then a fall towards 1 over `num_cooling` (`exp`: `start^(1 - k / n)`,
    which stops one ratio above 1; `linear`: equally spaced down to 1), then linearly from 1 to 0
    over `num_final`: the last step has no noise. Raises ValueError for another `cooling`.
    """
    if cooling == "exp":
        fall = start ** (1 - np.arange(num_cooling) / num_cooling)
    elif cooling == "linear":
        fall = np.linspace(start, 1.0, num_cooling)
    else:
        raise ValueError(f"expected cooling 'exp' or 'linear', got {cooling!r}")
    return np.concatenate([np.full(num_hot, start), fall, np.linspace(1.0, 0.0, num_final)])


def ncsn_step_size(sigma: Any, sigma_last: Any, eps: Any = 2e-5) -> jax.Array:
    """`alpha_i = eps sigma_i^2 / sigma_L^2`, the step of level i whose noise is `sigma`.

    Song and Ermon, arXiv 1907.05600, algorithm 1. `sigma_last` is the smallest noise level.
    """
    return jnp.asarray(eps) * jnp.square(jnp.asarray(sigma) / jnp.asarray(sigma_last))


def ncsn_update(x: PyTree, grad: PyTree, noise: PyTree, alpha: Any) -> PyTree:
    """Annealed Langevin of NCSN: `x - alpha/2 grad E(x) + sqrt(alpha) noise`.

    Their score is -grad E. Shapes as `langevin_update`; `alpha` from `ncsn_step_size`.
    """
    return langevin_update(x, grad, noise, jax.tree.map(lambda a: a / 2, alpha))


def ncsn_langevin(
    energy_fn: Callable[[PyTree, jax.Array], jax.Array],
    sigma: Any,
    sigma_last: Any,
    eps: Any = 2e-5,
) -> Kernel:
    """`ncsn_update` at one noise level, for `run_schedule` over the levels, largest first.

        make_kernel = lambda sigma: ncsn_langevin(energy_fn, sigma, sigmas[-1])
        state, info = run_schedule(rng_key, make_kernel, sigmas, x, num_steps=100)

    `energy_fn(x, sigma) -> [chains]` is the energy whose gradient is minus the score at `sigma`.
    """
    energy_at_level = Partial(_at_level, energy_fn, jnp.asarray(sigma))
    return langevin(energy_at_level, ncsn_step_size(sigma, sigma_last, eps) / 2)


def _at_level(
    energy_fn: Callable[[PyTree, jax.Array], jax.Array], sigma: jax.Array, x: PyTree
) -> jax.Array:
    return energy_fn(x, sigma)


def igebm_update(
    x: PyTree,
    noise: PyTree,
    grad_fn: Callable[[PyTree], PyTree],
    step_size: Any,
    *,
    noise_std: Any = 0.005,
    max_grad: Any = None,
    max_batch_norm: Any = None,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> PyTree:
    """IGEBM: noise first, then a clipped gradient step from the noisy point, then the box.

        y = x + noise_std noise
        x' = clip(y - lambda clip(grad E(y), -max_grad, max_grad), *box)

    Du and Mordatch, arXiv 1903.08689, as their training program does it: no factor 1/2, and the
    noise is not tied to the step. With `max_batch_norm` (their `l2` projection) the gradient of
    the *whole batch* is scaled down to at most that norm, so chains are no longer independent.

    Args:
        x: [chains, ...] or a pytree of such; `noise` standard normal of the same shape.
        grad_fn: gradient of the energy, shaped as its argument.
        step_size: lambda > 0; scalar, [chains] or of x's rank.

    Raises ValueError if both `max_grad` and `max_batch_norm` are given.
    """
    _check_one_clip(max_grad, max_batch_norm)
    noisy = _igebm_noisy(widen(x), noise, noise_std)
    grad = widen(grad_fn(cast_like(noisy, x)))
    return cast_like(_igebm_move(noisy, grad, step_size, max_grad, max_batch_norm, box), x)


def _check_one_clip(max_grad: Any, max_batch_norm: Any) -> None:
    if max_grad is not None and max_batch_norm is not None:
        raise ValueError("expected max_grad or max_batch_norm, got both: leave one of them out")


def _igebm_noisy(x: PyTree, noise: PyTree, noise_std: Any) -> PyTree:
    return jax.tree.map(lambda x, n, std: x + std * n, x, noise, spread(noise_std, x, "noise_std"))


def _igebm_move(
    noisy: PyTree,
    grad: PyTree,
    step_size: Any,
    max_grad: Any,
    max_batch_norm: Any,
    box: tuple[float, float] | None,
) -> PyTree:
    grad = clip_gradient(grad, max_grad)
    if max_batch_norm is not None:
        size = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grad)))
        grad = jax.tree.map(lambda g: g * jnp.minimum(1, max_batch_norm / size), grad)
    x = langevin_update(noisy, grad, jax.tree.map(jnp.zeros_like, grad), step_size, 0.0)
    return x if box is None else jax.tree.map(lambda x: jnp.clip(x, *box), x)


def igebm_langevin(
    energy_fn: EnergyFn,
    step_size: Any,
    *,
    noise_std: Any = 0.005,
    max_grad: Any = None,
    max_batch_norm: Any = None,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Kernel:
    """`igebm_update` as a kernel; K = 60 steps, lambda = 10, max_grad = 0.01 on CIFAR-10.

    The gradient is taken at the noisy point y, which exists only within a step. So here
    `State.energy`, `State.grad`, and the energy and gradient norm of Info are those at the step's
    y, not at x; K steps cost K gradients. Arguments and errors as in `igebm_update`.
    """
    _check_one_clip(max_grad, max_batch_norm)

    def optional(value: Any, name: str) -> PyTree:
        return None if value is None else parameter(value, name)

    step = Partial(
        _igebm_step,
        energy_fn=energy_fn,
        step_size=parameter(step_size, "step_size"),
        noise_std=parameter(noise_std, "noise_std", strict=False),
        max_grad=optional(max_grad, "max_grad"),
        max_batch_norm=optional(max_batch_norm, "max_batch_norm"),
        box=None if box is None else (float(box[0]), float(box[1])),
    )
    return Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _igebm_step(
    rng_key: jax.Array,
    state: State,
    *,
    energy_fn: EnergyFn,
    step_size: PyTree,
    noise_std: PyTree,
    max_grad: PyTree,
    max_batch_norm: jax.Array | None,
    box: tuple[float, float] | None,
) -> tuple[State, Info]:
    start = positions(state)
    noise = random.normal(rng_key, state.chain, start)
    noisy = _igebm_noisy(start, noise, noise_std)
    energy, grad = energy_and_grad(energy_fn, round_like(noisy, state.x)[0])
    end = _igebm_move(noisy, widen(grad), step_size, max_grad, max_batch_norm, box)
    x, remainder = round_like(end, state.x)
    new = State(x, energy, grad, state.chain, remainder)
    info = Info(
        acceptance=jnp.ones_like(energy, dtype=wide_dtype(energy.dtype)),
        energy=energy,
        grad_norm=norm(grad),
        displacement=distance(end, start),
        is_finite=is_finite(new),
    )
    return new, info
