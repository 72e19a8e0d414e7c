"""Values made with the papers' released codes, where they lie beside the repository."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference"


@functools.cache
def load_reference(name: str) -> dict[str, np.ndarray]:
    """All arrays of '<name>_public.npz'; skips the test, saying so, where there is no such file."""
    path = FOLDER / f"{name}_public.npz"
    if not path.exists():
        pytest.skip(f"the reference file {path.name} is not at ../shared/reference")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The entries whose names start with 'prefix/', with that taken off."""
    start = prefix + "/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def assert_close(actual, wanted, fraction: float, what: str = "") -> None:
    """Every difference is at most `fraction` of the wanted array's largest magnitude."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape, (what, actual.shape, wanted.shape)
    error, size = np.max(np.abs(actual - wanted)), np.max(np.abs(wanted))
    assert error <= fraction * size, f"{what}: off by {error:.2e}, the largest being {size:.2e}"


def replay_noise(monkeypatch, noise: np.ndarray) -> None:
    """Makes `samplers.random.normal` return noise[n] at step n of a chain, whatever the key."""
    from ebm_jax.samplers import random

    noise = jax.numpy.asarray(noise)
    monkeypatch.setattr(random, "fold_in", lambda rng_key, n: n)
    monkeypatch.setattr(random, "normal", lambda step, chain, like: noise[step].reshape(like.shape))
