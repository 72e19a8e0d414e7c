"""Chain-steps per second of the samplers, against BlackJAX and TorchEBM on the same targets.

    pip install -e '.[benchmark]'
    python benchmarks/samplers.py                                  # everything, some minutes
    python benchmarks/samplers.py --targets=mixture --rounds=21    # one target, more rounds

Per target and kernel: the same energy, start, step size and float32 for every library; one run of
each in turn, `--rounds` times over, in one process. BlackJAX runs its kernel under vmap in one
compiled scan. TorchEBM runs its sampler eagerly, as it comes; it has no MALA. Speeds are medians,
ratios the median and quartiles of the ratios within each round, above 1 where this package is
faster. Then effective draws per second (the rank-normalised bulk ESS of the worst direction) on a
correlated Gaussian. The tables go to stdout, the same as JSON to benchmarks/results/.
"""

import argparse
import itertools
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import torch
from measure import machine, quartiles, time_in_turn
from torchebm.core import BaseModel
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

from ebm_jax import samplers
from ebm_jax.io import files
from ebm_jax.networks import convolution

NUM_LEAPFROG = 10
OURS, BLACKJAX, TORCHEBM = "ebm_jax", "BlackJAX", "TorchEBM"


class Target(NamedTuple):
    """One energy in both frameworks, how many chains, and what step sizes suit it."""

    energy_fn: Callable  # [chains, ...] -> [chains], JAX
    torch_energy: Callable  # [chains, dimensions] -> [chains], torch
    shape: tuple[int, ...]
    num_chains: int
    step_size: float  # h of Langevin and MALA
    leapfrog_step: float
    num_steps: int  # per timed run; HMC makes a tenth of them


def mixture() -> Target:
    """Three Gaussians in two dimensions."""
    centres, log_weights = [[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], np.log([0.5, 0.3, 0.2])

    def energy_fn(x):
        square = jnp.sum((x[:, None, :] - jnp.asarray(centres)) ** 2, axis=2)
        return -jax.nn.logsumexp(jnp.asarray(log_weights, jnp.float32) - 2 * square, axis=1)

    torch_centres, torch_weights = torch.tensor(centres), torch.tensor(log_weights).float()

    def torch_energy(x):
        square = ((x[:, None, :] - torch_centres) ** 2).sum(2)
        return -torch.logsumexp(torch_weights - 2 * square, dim=1)

    return Target(energy_fn, torch_energy, (2,), 10_000, 0.05, 0.2, 400)


def gaussian() -> Target:
    """Independent normals in 100 dimensions, precisions from 0.5 to 2."""
    precision = np.linspace(0.5, 2.0, 100, dtype=np.float32)
    torch_precision = torch.tensor(precision)
    return Target(
        lambda x: 0.5 * jnp.sum(precision * x * x, axis=1),
        lambda x: 0.5 * (torch_precision * x * x).sum(1),
        (100,),
        1_000,
        0.1,
        0.2,
        200,
    )


def image() -> Target:
    """A convolutional energy of 32 x 32 x 3 images: three layers of 32 channels, SiLU, pooling."""
    rng = np.random.default_rng(0)
    kernels = [
        rng.normal(size=(3, 3, c, 32)).astype("f") / np.sqrt(9 * c).astype("f") for c in (3, 32, 32)
    ]
    head = rng.normal(size=32).astype("f")

    def energy_fn(x):
        h = x
        for k, kernel in enumerate(kernels):
            if k:
                h = h.reshape(h.shape[0], h.shape[1] // 2, 2, h.shape[2] // 2, 2, 32)
                h = h.mean(axis=(2, 4))
            weights = convolution.prepare_kernel(jnp.asarray(kernel), h.shape[1:3])
            h = jax.nn.silu(convolution.convolve(h, weights))
        return h.sum(axis=(1, 2)) @ head + 0.5 * jnp.sum(x**2, axis=(1, 2, 3))

    torch_kernels = [torch.tensor(k.transpose(3, 2, 0, 1).copy()) for k in kernels]
    torch_head = torch.tensor(head)

    def torch_energy(x):
        x = h = x.reshape(-1, 3, 32, 32)
        for k, kernel in enumerate(torch_kernels):
            h = torch.nn.functional.avg_pool2d(h, 2) if k else h
            h = torch.nn.functional.silu(torch.nn.functional.conv2d(h, kernel, padding=1))
        return h.sum((2, 3)) @ torch_head + 0.5 * (x**2).sum((1, 2, 3))

    return Target(energy_fn, torch_energy, (32, 32, 3), 64, 1e-3, 0.01, 20)


def correlated_gaussian() -> Target:
    """100 dimensions, standard deviations from 1 to 0.1 along random axes."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    precision = ((axes * np.geomspace(1.0, 100.0, 100)) @ axes.T).astype("f")
    torch_precision = torch.tensor(precision)
    return Target(
        lambda x: 0.5 * jnp.sum((x @ precision) * x, axis=1),
        lambda x: 0.5 * ((x @ torch_precision) * x).sum(1),
        (100,),
        100,
        0.004,
        0.07,
        2_000,
    )


TARGETS = {"mixture": mixture, "gaussian": gaussian, "image": image}


class TorchModel(BaseModel):
    """A torch energy as TorchEBM takes it."""

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def forward(self, x):
        return self.energy(x)


def runs(target: Target, kernel: str, *, keep: bool = False) -> dict[str, Callable[[int], Any]]:
    """A function of the seed for each library that has the kernel; it returns final positions.

    With `keep` it returns all positions, [steps, chains, dimensions].
    """
    num_steps = target.num_steps // 10 if kernel == "HMC" else target.num_steps
    found = {
        OURS: ours(target, kernel, num_steps, keep),
        BLACKJAX: with_blackjax(target, kernel, num_steps, keep),
    }
    if kernel != "MALA":
        found[TORCHEBM] = with_torchebm(target, kernel, num_steps, keep)
    return found


def start_positions(target: Target) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(target.num_chains, *target.shape)).astype("f")


def ours(target, kernel, num_steps, keep):
    make = {
        "ULA": lambda: samplers.langevin(target.energy_fn, target.step_size),
        "MALA": lambda: samplers.mala(target.energy_fn, target.step_size),
        "HMC": lambda: samplers.hmc(target.energy_fn, target.leapfrog_step, NUM_LEAPFROG),
    }[kernel]()

    @jax.jit
    def run(key, x):
        keep_every = 1 if keep else None
        state, info = samplers.run_chain(key, make, x, num_steps, keep_every=keep_every)
        return info.kept if keep else state.x

    x0 = jnp.asarray(start_positions(target))
    return lambda seed: jax.block_until_ready(run(jax.random.key(seed), x0))


def with_blackjax(target, kernel, num_steps, keep):
    def logdensity_fn(x):
        return -target.energy_fn(x[None])[0]

    if kernel == "ULA":  # BlackJAX's unadjusted Langevin step takes a gradient estimator
        algorithm = blackjax.sgld(lambda x, _: jax.grad(logdensity_fn)(x))

        def one_step(key, x):
            return algorithm.step(key, x, None, target.step_size)

        init, position = lambda x: x, lambda x: x
    else:
        if kernel == "MALA":
            algorithm = blackjax.mala(logdensity_fn, target.step_size)
        else:
            inverse_mass = jnp.ones(int(np.prod(target.shape)))
            algorithm = blackjax.hmc(
                logdensity_fn, target.leapfrog_step, inverse_mass, NUM_LEAPFROG
            )
        init, position = algorithm.init, lambda state: state.position

        def one_step(key, state):
            return algorithm.step(key, state)[0]

    @jax.jit
    def run(key, x):
        def body(state, key):
            state = jax.vmap(one_step)(jax.random.split(key, target.num_chains), state)
            return state, position(state) if keep else None

        state, kept = jax.lax.scan(body, jax.vmap(init)(x), jax.random.split(key, num_steps))
        return kept if keep else position(state)

    x0 = jnp.asarray(start_positions(target))
    return lambda seed: jax.block_until_ready(run(jax.random.key(seed), x0))


def with_torchebm(target, kernel, num_steps, keep):
    model = TorchModel(target.torch_energy)
    if kernel == "ULA":
        sampler = LangevinDynamics(model, step_size=target.step_size)
    else:
        sampler = HamiltonianMonteCarlo(
            model, step_size=target.leapfrog_step, n_leapfrog_steps=NUM_LEAPFROG
        )
    x0 = torch.tensor(start_positions(target).reshape(target.num_chains, -1))

    def run(seed):
        torch.manual_seed(seed)
        out = sampler.sample(x=x0.clone(), n_steps=num_steps, return_trajectory=keep)
        return out.numpy().swapaxes(0, 1) if keep else out.numpy()

    return run


def timed(functions: dict[str, Callable[[int], Any]]) -> dict[str, Callable[[], Any]]:
    """Each function with another seed at every call."""

    def with_seeds(function):
        seeds = itertools.count()
        return lambda: function(next(seeds))

    return {name: with_seeds(function) for name, function in functions.items()}


def compare(seconds: dict[str, np.ndarray], amount: dict[str, float]) -> dict[str, Any]:
    """Amounts per second, and what ours are of each other library's, with quartiles."""
    rates = {name: amount[name] / values for name, values in seconds.items()}
    rows = {}
    for name, values in rates.items():
        rows[name] = {"per_second": float(np.median(values))}
        if name != OURS:
            rows[name]["ours_over_it"] = quartiles(rates[OURS] / values)
    return rows


def measure_speed(name: str, kernel: str, rounds: int) -> dict[str, Any]:
    """Chain-steps per second of each library."""
    target = TARGETS[name]()
    functions = runs(target, kernel)
    num_steps = target.num_steps // 10 if kernel == "HMC" else target.num_steps
    amount = dict.fromkeys(functions, target.num_chains * num_steps)
    seconds = time_in_turn(timed(functions), rounds)
    return compare(seconds, amount)


def measure_ess(kernel: str, rounds: int) -> dict[str, Any]:
    """Effective draws per second in the worst of the principal directions."""
    target = correlated_gaussian()
    functions = runs(target, kernel, keep=True)
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(100, 100)))
    amount = {}
    for name, function in functions.items():
        kept = np.asarray(function(123))
        kept = kept[len(kept) // 5 :] @ axes.astype("f")  # [steps, chains, directions]
        amount[name] = float(jnp.min(samplers.ess_bulk(jnp.asarray(kept))))
    rows = compare(time_in_turn(timed(functions), rounds), amount)
    for name, row in rows.items():
        row["ess"] = amount[name]
    return rows


def show(title: str, unit: str, results: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}\n\n| | {OURS}, {unit} | {BLACKJAX} | {TORCHEBM} | ratio | ratio |")
    print("|---|---|---|---|---|---|")
    for label, rows in results.items():
        cells = [f"{rows[OURS]['per_second']:.2e}"]
        for name in (BLACKJAX, TORCHEBM):
            cells.append(f"{rows[name]['per_second']:.2e}" if name in rows else "-")
        for name in (BLACKJAX, TORCHEBM):
            if name in rows:
                low, middle, high = rows[name]["ours_over_it"]
                cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            else:
                cells.append("-")
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join([*TARGETS, "ess"]), help="comma-separated")
    parser.add_argument("--kernels", default="ULA,MALA,HMC", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", default="benchmarks/results/samplers.json")
    args = parser.parse_args()
    targets, kernels = args.targets.split(","), args.kernels.split(",")
    speed = {
        f"{name}, {kernel}": measure_speed(name, kernel, args.rounds)
        for name in targets
        if name != "ess"
        for kernel in kernels
    }
    show("Speed", "chain-steps/s", speed)
    ess = {kernel: measure_ess(kernel, args.rounds) for kernel in kernels if "ess" in targets}
    if ess:
        show("Correlated Gaussian, 100 dimensions, 100 chains", "ESS/s", ess)
    versions = machine() | {
        "blackjax": blackjax.__version__,
        "torch": torch.__version__,
        "torchebm": metadata.version("torchebm"),
        "torch_threads": torch.get_num_threads(),
    }
    files.write_json(
        args.out, {"versions": versions, "rounds": args.rounds, "speed": speed, "ess": ess}
    )
    print(f"\n{versions}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
