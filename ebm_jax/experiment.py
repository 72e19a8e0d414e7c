"""From a config to what a run is made of. Below this file no function sees a config."""

import contextlib
import difflib
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from ebm_jax import data, methods, parallel
from ebm_jax.evaluation.density import plane
from ebm_jax.evaluation.fidelity.classifier import supports
from ebm_jax.evaluation.fidelity.features import (
    Extractor,
    classifier_extractor,
    inception_extractor,
)
from ebm_jax.evaluation.marginals import Marginals
from ebm_jax.evaluation.model import Model
from ebm_jax.io import plotting
from ebm_jax.networks.ensemble import COMBINATIONS, Ensemble
from ebm_jax.objectives.base import Objective
from ebm_jax.training import optimizers
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.train_step import Preprocess, TrainState, init_train_state, make_train_step


class ConfigError(ValueError):
    """Something that the person who wrote the command can put right; its text is one line."""


class Experiment(NamedTuple):
    """A run's parts: see the fields' types. dataset: the training split."""

    dataset: data.Dataset
    module: nn.Module
    objective: Objective
    optimizer: optax.GradientTransformation
    preprocess: Preprocess


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Loads the data and makes the parts of a run; touches no workdir.

    Raises:
      ConfigError: with one line for whatever the config asks that cannot be had.
    """
    check(config)
    dataset = load_split(config, config.data.split)
    try:
        module = make_module(config, dataset.example_shape)
        objective = make_objective(config, module, dataset)
        experiment = Experiment(
            dataset, module, objective, make_optimizer(config), make_preprocess(config, dataset)
        )
        key = jax.random.key(0)
        jax.eval_shape(_init_on_device(config, experiment), key, key)  # what does not fit says so
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ConfigError(str(error)) from error
    return experiment


def load_split(config: ml_collections.ConfigDict, split: str) -> data.Dataset:
    """One split of a config's data set.

    Raises:
      ConfigError: with one line, for what is not there or damaged.
    """
    try:
        return data.load_dataset(
            config.data.name,
            split,
            data_dir=config.data.data_dir or None,
            pad_to=config.data.pad_to or None,
            image_size=config.data.image_size or None,
            label=config.data.label or None,
        )
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(str(error)) from error


def make_module(config: ml_collections.ConfigDict, example_shape: tuple[int, ...]) -> nn.Module:
    """The network of a config for examples of one shape."""
    fields = dict(config.model)
    if "dtype" in fields:
        try:
            fields["dtype"] = jnp.dtype(fields["dtype"])
        except TypeError:
            raise ConfigError(
                f"model.dtype is {fields['dtype']!r}: write float32 or bfloat16"
            ) from None
    return _make(methods.NETWORKS, "model", fields, example_shape)


def make_objective(
    config: ml_collections.ConfigDict, module: nn.Module, dataset: data.Dataset
) -> Objective:
    """The objective of a config for a network and a data set."""
    if len(dataset.example_shape) == 1 and config.objective.name != "recovery_likelihood":
        raise ConfigError(  # evaluate knows densities of noise levels alone
            f"objective.name is {config.objective.name!r} and {dataset.name} has no images: "
            "write 'recovery_likelihood'"
        )
    num_classes = getattr(module, "num_classes", None)
    if num_classes and num_classes != dataset.num_classes:
        raise ConfigError(
            f"model.num_classes is {num_classes} and {dataset.name} has {dataset.num_classes} "
            f"classes: write {dataset.num_classes if dataset.num_classes > 1 else 0}"
        )
    method = make_method(config)
    with _refusing("objective", config.objective.name):
        return method.objective(module)


def make_ensemble(
    config: ml_collections.ConfigDict, parts: Experiment, num_members: int
) -> Experiment:
    """The same run with the networks of several of its checkpoints as one.

    Raises:
      ConfigError: for a combination that there is not, or that the energies do not allow.
    """
    combine, temperature = config.ensemble.combine, config.ensemble.temperature
    if combine not in COMBINATIONS:
        known = ", ".join(COMBINATIONS)
        raise ConfigError(f"ensemble.combine is {combine!r}: write one of {known}")
    if not temperature > 0:
        raise ConfigError(f"ensemble.temperature is {temperature}: write a positive number")
    in_nats = getattr(config.objective, "energy_in_nats", True)
    if not in_nats and (combine == "mixture" or temperature != 1):
        raise ConfigError(
            f"ensemble.combine {combine!r} at temperature {temperature:g} wants energies in nats, "
            "which this objective's networks give times s_t^2: write 'mean' or 'sum', temperature 1"
        )
    module = Ensemble(parts.module, num_members, combine, temperature)
    objective = make_objective(config, module, parts.dataset)
    return parts._replace(module=module, objective=objective)


def make_method(config: ml_collections.ConfigDict) -> methods.Method:
    """The method of a config, with the fields of its objective."""
    batch = methods.Batch(
        low=config.data.low,
        high=config.data.high,
        size=config.training.batch_size,
        num_devices=jax.device_count(),
    )
    return _make(methods.METHODS, "objective", config.objective, batch)


def make_model(config: ml_collections.ConfigDict, parts: Experiment) -> Callable[[Any], Model]:
    """(parameters) -> what can be done with the trained network; pure, for use under jit."""
    return functools.partial(make_method(config).model, parts.module)


def feature_extractor(config: ml_collections.ConfigDict) -> Extractor:
    """Inception with config.fid.weights, else our classifier where the images are small.

    Raises:
      ConfigError: for a file that holds no such weights, and for large images without one.
    """
    try:
        if config.fid.weights:
            return inception_extractor(config.fid.weights)
        training = load_split(config, config.data.split)
        if supports(training.num_classes, training.example_shape):
            return classifier_extractor(training)
    except ValueError as error:
        raise ConfigError(f"fid.weights: {error}") from error
    raise ConfigError(
        "fid.weights is empty: name a file with the weights of the FID Inception-v3 "
        "(torch-fidelity's or pytorch-fid's), which is not downloaded for you"
    )


def reference_description(
    config: ml_collections.ConfigDict, split: data.Dataset, extractor: Extractor
) -> dict[str, Any]:
    """What reference statistics are of; statistics that say otherwise do not fit."""
    return {
        "data": split.name,
        "split": split.split,
        "image_shape": list(split.example_shape),
        **extractor.details,
    }


def make_marginals(
    config: ml_collections.ConfigDict, parts: Experiment
) -> Callable[[Any], Marginals]:
    """(parameters) -> the densities that the trained network stands for; pure, for use in jit."""

    return functools.partial(make_method(config).marginals, parts.module)


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The optimiser of a config, with its learning-rate schedule."""
    fields = dict(config.optimizer)
    schedule = optimizers.learning_rate_schedule(
        num_steps=config.training.num_steps,
        **{
            name: fields.pop(name)
            for name in ("learning_rate", "schedule", "final_learning_rate", "warmup_steps")
        },
    )
    return _make(optimizers.OPTIMIZERS, "optimizer", fields, schedule)


def make_preprocess(config: ml_collections.ConfigDict, dataset: data.Dataset) -> Preprocess:
    """(keys, stored examples) -> examples in model units, on the device."""
    low, high = config.data.low, config.data.high

    def preprocess(keys: jax.Array, x: jax.Array) -> jax.Array:
        if x.dtype != jnp.uint8:  # points of the plane
            return data.scale_points(x, dataset.value_range, low, high)
        if config.data.dequantise:
            x = data.dequantize(keys, x, low, high)
        else:
            x = data.scale_images(x, low, high)
        return data.random_flip(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), x) if flip else x

    flip = config.data.random_flip
    return preprocess


def init_state(config: ml_collections.ConfigDict, experiment: Experiment) -> TrainState:
    """The host state before the first step."""
    # A program that runs once: on CPU, XLA would optimise each draw of parameters for a second.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    params_key, state_key = jax.random.split(run_keys(config)["init"])
    init = functools.partial(_init_on_device(config, experiment), params_key)
    return parallel.init_shards(jax.jit(init, compiler_options=quick), state_key)


def params_template(config: ml_collections.ConfigDict, experiment: Experiment) -> Any:
    """Shapes and types of the network's parameters, a tree of `jax.ShapeDtypeStruct`."""
    key = jax.random.key(0)
    return jax.eval_shape(_init_on_device(config, experiment), key, key).params


def _init_on_device(
    config: ml_collections.ConfigDict, experiment: Experiment
) -> Callable[[jax.Array, jax.Array], TrainState]:
    """(key of the parameters, key of the rest) -> one device's state before the first step."""
    module, dataset = experiment.module, experiment.dataset
    per_device = config.training.batch_size // jax.device_count()
    example_batch = {
        "image": jnp.full((per_device, *dataset.example_shape), config.data.low),
        "label": jnp.zeros((per_device,), jnp.int32),
    }
    levels = config.objective.name == "recovery_likelihood"
    conditional = levels or getattr(module, "num_classes", None)
    condition = jnp.zeros((1,), jnp.int32) if conditional else None

    def init(params_key: jax.Array, rng_key: jax.Array) -> TrainState:
        params = module.init(params_key, example_batch["image"][:1], condition)["params"]
        return init_train_state(
            rng_key, params, experiment.objective, experiment.optimizer, example_batch
        )

    return init


def train_step(config: ml_collections.ConfigDict, experiment: Experiment) -> Callable[..., Any]:
    """The pure train step of a config."""
    return make_train_step(
        experiment.objective,
        experiment.optimizer,
        rng_key=run_keys(config)["train"],
        ema_decay=config.training.ema_decay,
        preprocess=experiment.preprocess,
    )


def run_keys(config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """The keys of a run: 'init', 'train', 'sample'."""
    init, train = jax.random.split(jax.random.key(config.seed))
    return {"init": init, "train": train, "sample": jax.random.key(config.sampling.seed)}


def open_checkpoints(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> Checkpoints:
    """The checkpoints of a workdir."""
    return Checkpoints(
        pathlib.Path(workdir) / "checkpoints",
        keep_latest=config.training.keep_checkpoints,
        pin_every=config.training.pin_every or None,
        config=config.to_dict(),
    )


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for numbers that no run can have."""
    positive = [
        "cpu_devices",
        "training.batch_size", "training.num_steps", "training.log_every",
        "training.checkpoint_every", "training.keep_checkpoints",
        "sampling.num_samples", "sampling.batch_size", "evaluation.num_samples",
        "optimizer.learning_rate",
    ]  # fmt: skip
    for name in positive:
        if not get_field(config, name) > 0:  # a NaN is not either
            raise ConfigError(f"{name} is {get_field(config, name)}: write a positive number")
    not_negative = ["seed", "sampling.seed", "training.sample_every", "training.pin_every",
                    "training.max_retries", "optimizer.warmup_steps"]  # fmt: skip
    for name in not_negative:
        if get_field(config, name) < 0:
            raise ConfigError(f"{name} is {get_field(config, name)}: write 0 or more")
    if not 0 <= config.training.ema_decay < 1:
        raise ConfigError(f"training.ema_decay is {config.training.ema_decay}: write 0 <= d < 1")
    if not config.data.low < config.data.high:
        raise ConfigError(f"data.low {config.data.low} is not below data.high {config.data.high}")
    devices, batch = jax.device_count(), config.training.batch_size
    if batch % devices:
        nearest = max(1, round(batch / devices)) * devices
        raise ConfigError(
            f"training.batch_size {batch} does not divide among {devices} devices: "
            f"write {nearest}, the nearest that does"
        )


def picture(
    config: ml_collections.ConfigDict, parts: Experiment, params: Any, samples: np.ndarray
) -> np.ndarray:
    """What is drawn of samples, in model units, and of the parameters that made them.

    Images: the samples beside as many real ones. Points of the plane: the learned density, the true
    one, and the samples.

    Returns:
      uint8 [H, W, 3].
    """
    if len(parts.dataset.example_shape) == 1:
        model, density = plane_model(config, parts, params), data.toy_density(parts.dataset.name)
        return plane.picture(in_data_units(config, parts, samples), model, density)
    low, high = config.data.low, config.data.high
    real = parts.dataset.images[data.batch_indices(parts.dataset.num_examples, len(samples), 0, 0)]
    generated = np.asarray(data.unscale_images(samples, low, high))
    grids = plotting.image_grid(generated), plotting.image_grid(real)
    return plotting.side_by_side(*grids, ("generated", f"real: {parts.dataset.name}"))


def in_data_units(
    config: ml_collections.ConfigDict, parts: Experiment, points: np.ndarray
) -> np.ndarray:
    """Points of the plane [n, 2] from model units to those of the data."""
    return data.unscale_points(points, parts.dataset.value_range, config.data.low, config.data.high)


def plane_model(
    config: ml_collections.ConfigDict, parts: Experiment, params: Any
) -> plane.PlaneModel:
    """The density of points of the plane that the energy of level 0 defines, in the data's units.

    Its variable is x_0 = abar_0 x + sbar_0 eps, x the data in model units.
    """
    marginals = make_marginals(config, parts)(params)
    a_bar, sigma_bar = float(marginals.a_bar[0]), float(marginals.sigma_bar[0])
    stored = parts.dataset.value_range
    at_zero, at_one = (
        data.scale_points(x, stored, config.data.low, config.data.high) for x in (0.0, 1.0)
    )
    return plane.PlaneModel(
        marginals.energy(jnp.zeros((), jnp.int32)),
        factor=a_bar * (at_one - at_zero),
        offset=a_bar * at_zero,
        noise_std=sigma_bar / a_bar / (at_one - at_zero),
    )


def get_field(config: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted field name."""
    for part in name.split("."):
        config = config[part]
    return config


def _make(makers: Mapping[str, Callable[..., Any]], section: str, fields: Any, *args: Any) -> Any:
    """makers[fields.name](*args, **the other fields), with one-line errors."""
    fields = dict(fields)
    name = fields.pop("name")
    if name not in makers:
        close = difflib.get_close_matches(name, makers, n=1, cutoff=0)[0]
        raise ConfigError(f"{section}.name is {name!r}: did you mean {close!r}? "
                          f"known are {', '.join(makers)}")  # fmt: skip
    with _refusing(section, name):
        return makers[name](*args, **fields)


@contextlib.contextmanager
def _refusing(section: str, name: str) -> Iterator[None]:
    """Turns what a maker says of unknown or missing fields into a ConfigError."""
    try:
        yield
    except TypeError as error:
        raise ConfigError(f"{section} {name!r} does not take these fields: {error}") from error
