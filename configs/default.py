"""The base of every config: each section with the defaults of its settings, each explained there.

Not run itself: other configs import `get_config` and override. The values are those of the CIFAR-10
run of Gao et al. 2020 where it has one. What the fields mean, their units and bounds:

| section | explained in | binds a workdir |
|---|---|---|
| (none): seed, data_dir, .. | `General` in `ebm_jax/runs/settings.py` | seed: to resume |
| data | `ebm_jax/runs/settings.py` | to resume and to evaluate |
| network | the network's fields, `ebm_jax/networks/` | to resume and to evaluate |
| method | the method's fields, `ebm_jax/methods/<method>/method.py` | to resume and to evaluate |
| sampler | the method's sampler, beside it | no |
| optimizer | `ebm_jax/training/optimizers.py` | to resume |
| training | `ebm_jax/runs/settings.py` | to resume |
| sampling, ensemble, compute | `ebm_jax/runs/settings.py` | no |
| one per mode: train, sample, .. | `Settings` in `ebm_jax/tasks/<mode>.py` | no |
"""

import difflib
from collections.abc import Sequence

import ml_collections

from ebm_jax import tasks
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs.settings import SECTIONS, General, named_config, sampler_config, to_config
from ebm_jax.training.optimizers import OPTIMIZERS


def get_config() -> ml_collections.ConfigDict:
    """The base that every other config starts from."""
    config = to_config(General)
    for name, section in SECTIONS.items():
        config[name] = to_config(section)
    config.network = network("recovery_resnet")
    config.method = method("recovery_likelihood")
    config.sampler = sampler("recovery_likelihood")
    config.optimizer = optimizer("adam", warmup_steps=1_000)
    for name in tasks.names():
        if hasattr(task := tasks.load(name), "Settings"):
            config[name] = to_config(task.Settings)
    return config


def check_variant(variant: str, known: Sequence[str]) -> None:
    """Raises ValueError, one line with the nearest, for a variant that a config does not have."""
    if variant not in known:
        names = [name for name in known if name]
        close = difflib.get_close_matches(variant, names, n=1, cutoff=0)[0]
        raise ValueError(
            f"expected a variant of {', '.join(names)}, got {variant!r}; did you mean {close!r}?"
        )


def network(name: str, **values) -> ml_collections.ConfigDict:
    """A section `network`: one of `networks.registry.NETWORKS`."""
    return named_config(name, NETWORKS, **values)


def method(name: str, **values) -> ml_collections.ConfigDict:
    """A section `method`: one of `methods.registry.METHODS`."""
    return named_config(name, METHODS, **values)


def sampler(method: str, **values) -> ml_collections.ConfigDict:
    """The section `sampler` of a method."""
    return sampler_config(method, METHODS, **values)


def optimizer(name: str, **values) -> ml_collections.ConfigDict:
    """A section `optimizer`: one of `training.optimizers.OPTIMIZERS`."""
    return named_config(name, OPTIMIZERS, **values)
