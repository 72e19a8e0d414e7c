"""From a config to a run: its data, method and optimizer. Writes nothing."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from ebm_jax import data, parallel
from ebm_jax.data import Dataset
from ebm_jax.data.preprocess import ArrayT
from ebm_jax.methods.base import BlockSampler, Method, OneNetwork
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.ensemble import CYCLE, Ensemble
from ebm_jax.networks.registry import NETWORKS, in_float32, make_network, with_formulation
from ebm_jax.runs import data_facts, settings
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import (
    ConfigError,
    groups,
    one_line,
    prefix,
    read_named,
    read_section,
)
from ebm_jax.settings import check_values
from ebm_jax.training import optimizers
from ebm_jax.training.state import TrainState, init_train_state
from ebm_jax.training.train_step import Preprocess


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes.

    config: as given. dataset: the training split. method: with its networks. The dataclasses are
    the sections of the config that every room above needs.
    """

    config: ml_collections.ConfigDict
    dataset: Dataset
    method: Method
    general: settings.General
    data: settings.Data
    sampling: settings.Sampling

    @property
    def has_images(self) -> bool:
        """Whether examples are images, and not points of the plane or other vectors."""
        return len(self.dataset.example_shape) == 3

    @property
    def has_trajectories(self) -> bool:
        """Whether examples are next states of trajectories."""
        return self.dataset.trajectories is not None

    def load_split(self, split: str) -> Dataset:
        """Another split of the same data set."""
        return load_split(self.config, split)

    def held_out(self) -> Dataset:
        """The split that a trained model is compared with."""
        return self.load_split(self.general.held_out_split)

    def in_float32(self) -> "Run":
        """The same run whose networks compute in float32, whatever they were trained in."""
        return self._with_networks(in_float32)

    def with_formulation(self, formulation: str) -> "Run":
        """The same run whose networks compute convolutions one way, see `networks.convolution`."""
        return self._with_networks(lambda network: with_formulation(network, formulation))

    def _with_networks(self, change: Callable[[nn.Module], nn.Module]) -> "Run":
        if not dataclasses.is_dataclass(self.method):
            return self
        fields = {f.name: getattr(self.method, f.name) for f in dataclasses.fields(self.method)}
        networks = {k: change(v) for k, v in fields.items() if isinstance(v, nn.Module)}
        return dataclasses.replace(self, method=dataclasses.replace(self.method, **networks))

    def key(self, name: str) -> jax.Array:
        """A random key by name: 'init' and 'train' of the run's seed, others of sampling.seed.

        'sample' is the key of samples, whichever mode makes them. What methods and modes split off
        a key is no other key, also where the two seeds are equal.
        """
        init, train = jax.random.split(jax.random.key(self.general.seed))
        if name in (known := {"init": init, "train": train}):
            return known[name]
        return named_key(self.sampling.seed, name)

    def preprocess(self, dataset: Dataset | None = None, *, flip: bool = True) -> Preprocess:
        """(keys, stored examples) -> examples in model units, on the device.

        dataset: theirs; None: the training split. flip: whether to mirror, where the data may be.
        """
        dataset = dataset or self.dataset
        low, high = self.data.low, self.data.high

        def scaled(keys: jax.Array, x: ArrayT) -> ArrayT | jax.Array:
            if x.dtype != jnp.uint8:
                return data.scale_points(x, dataset.value_range, low, high)
            if self.data.dequantize:
                images = data.dequantize(keys, x, low, high)
            else:
                images = data.scale_images(x, low, high)
            if not (flip and self.data.random_flip):
                return images
            return data.random_flip(jax.vmap(jax.random.fold_in, (0, None))(keys, 1), images)

        return scaled

    def random_examples(self, dataset: Dataset, number: int) -> np.ndarray:
        """Examples of a split in model units: dequantized as in training, not mirrored.

        Returns:
          float32 [number or all that there are, ...], chosen by sampling.seed.
        """
        number = min(number, dataset.num_examples)
        chosen = data.batch_indices(dataset.num_examples, number, 0, self.sampling.seed)
        keys = data.example_keys(self.key("examples"), np.asarray(chosen))
        return np.asarray(
            self.preprocess(dataset, flip=False)(keys, dataset.images[chosen]), np.float32
        )

    def scale(self, images: np.ndarray) -> np.ndarray:
        """uint8 images in model units: those of dequantized data at the middle of their cells."""
        return np.asarray(
            data.scale_images(
                images, self.data.low, self.data.high, dequantized=self.data.dequantize
            )
        )

    def intensity_scale(self, low: float, high: float) -> tuple[float, float]:
        """(scale, offset) from intensities to [low, high], as `scale` takes them to model units."""
        return data.intensity_scale(low, high, dequantized=self.data.dequantize)

    def to_unit(self, images: np.ndarray) -> np.ndarray:
        """uint8 images in 0..1, float64: where `scale` puts them between low and high."""
        scale, offset = self.intensity_scale(0.0, 1.0)
        return scale * images + offset

    def from_unit(self, images: np.ndarray) -> np.ndarray:
        """Images in 0..1 in model units, float32."""
        low, high = self.data.low, self.data.high
        return (low + (high - low) * np.asarray(images, np.float64)).astype(np.float32)

    def to_pixels(self, x: Any) -> np.ndarray:
        """Images in model units as uint8."""
        return np.asarray(
            data.unscale_images(
                jnp.asarray(x), self.data.low, self.data.high, dequantized=self.data.dequantize
            )
        )

    def mean_image(self) -> np.ndarray:
        """Mean of the training images in model units."""
        return self.scale(self.dataset.images.mean(0))

    def to_data_units(self, points: np.ndarray) -> np.ndarray:
        """Points [n, d] from model units to those of the data."""
        return data.unscale_points(points, self.dataset.value_range, self.data.low, self.data.high)


def named_key(seed: int | jax.Array, name: str) -> jax.Array:
    """The random key of one purpose, by its name; the seed may be traced."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def build(
    config: ml_collections.ConfigDict,
    dataset: Dataset | None = None,
    *,
    workdir: pathlib.Path | None = None,
) -> Run:
    """Loads the data and makes a run; checks every section that a run reads.

    Args:
      dataset: to train on, in place of the one that the config names.
      workdir: whose run it is, if any: what it keeps of the data is read there.
    Raises:
      ConfigError: with one line for whatever the config asks that cannot be had.
    """
    general, sections = check_sections(config)
    described, training = sections["data"], sections["training"]
    with one_line():
        parallel.check_divides("training.batch_size", training.batch_size, jax.device_count())
        dataset = dataset or load_split(config, described.split)
        _check_data_settings(described, dataset)
        method = make_method(config, dataset, data_facts.of_data(config, dataset, workdir))
        run = Run(config, dataset, method, general, described, sections["sampling"])
        state_template(run)  # what does not fit says so
    return run


def check_sections(
    config: ml_collections.ConfigDict,
) -> tuple[settings.General, dict[str, Any]]:
    """(the fields outside of every section, the sections by name), after a check of all values.

    Of every section but those of the modes, and without data: what a value may be beside others of
    other sections, or beside the data, is found by `build`.

    Raises:
      ConfigError: with one line, for the first value that is none.
    """
    general = settings.read_general(config)
    sections = {name: read_section(config, name, cls) for name, cls in settings.SECTIONS.items()}
    described = sections["data"]
    if not described.low < described.high:
        raise ConfigError(
            f"data.low: expected less than data.high, {described.high}, got {described.low}"
        )
    with one_line():
        for group in groups(config, "network"):
            network, values = read_named(config, "network", NETWORKS, group)
            check_values(network, values, prefix("network", group))
        method, values = read_named(config, "method", METHODS)
        check_values(method, values, "method.")
        read_section(config, "sampler", settings.sampler_settings(method))
        make_optimizer(config)
    return general, sections


def load_split(config: ml_collections.ConfigDict, split: str) -> Dataset:
    """One split of a config's data set.

    Raises:
      ConfigError: with one line, for what is not there or damaged.
    """
    described = read_section(config, "data", settings.Data)
    with one_line(), parallel.all_or_none():
        return data.load_dataset(
            described.name,
            split,
            data_dir=config.data_dir or None,
            pad_to=described.pad_to or None,
            image_size=described.image_size or None,
            label=described.label or None,
            path=described.path or None,
            values=described.values or None,
            combinations=described.seen_combinations,
            context=described.context or None,
            actions=described.actions or None,
        )


def make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """The optimizer of a config: one for all parameters, or one per section of `optimizer`.

    A section of `optimizer` is named after a top-level key of the method's parameters.
    """
    made = {}
    for group in groups(config, "optimizer"):
        cls, values = read_named(config, "optimizer", optimizers.OPTIMIZERS, group)
        check_values(cls, values, prefix("optimizer", group))
        made[group] = cls(**values).make(config.training.num_steps)
    return made[""] if "" in made else optimizers.partition(made)


def init_state(run: Run) -> TrainState:
    """The host state before the first step."""
    # A program that runs once: on CPU, XLA would optimize each random parameter for a second.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.device_get(jax.jit(_init(run), compiler_options=quick)(run.key("init")))


def state_template(run: Run) -> TrainState:
    """Shapes and types of a state, a tree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(_init(run), run.key("init"))


def params_template(run: Run) -> Any:
    """Those of the method's parameters."""
    return state_template(run).params


def make_ensemble(run: Run, num_members: int) -> Run:
    """The same run with the networks of several of its checkpoints as one.

    Raises:
      ConfigError: for a combination that there is not, or that the energies do not allow.
    """
    combined = read_section(run.config, "ensemble", settings.Ensemble)
    in_nats = getattr(run.method, "energy_in_nats", True)
    if not in_nats and (combined.combine == "mixture" or combined.temperature != 1):
        raise ConfigError(
            f"ensemble.combine {combined.combine!r} at temperature {combined.temperature:g} wants "
            "energies in nats, which this method's networks give times s_t^2: expected 'mean' or "
            "'sum', temperature 1"
        )
    method = run.method
    if not (isinstance(method, OneNetwork) and dataclasses.is_dataclass(method)):
        raise ConfigError(
            f"ensemble.checkpoints: expected (), as {type(method).__name__} is no method of "
            "one network"
        )
    if combined.combine == CYCLE and not (isinstance(method, BlockSampler) and run.has_images):
        raise ConfigError(
            "ensemble.combine: expected 'mean', 'sum' or 'mixture', got 'cycle', which is for the "
            f"chains of contrastive_divergence on images; this is {run.config.method.name} on "
            f"{run.dataset.name}"
        )
    network = Ensemble(method.network, num_members, combined.combine, combined.temperature)
    with one_line():
        method = dataclasses.replace(method, network=network)
    return dataclasses.replace(run, method=method)


def make_method(config: ml_collections.ConfigDict, dataset: Dataset, facts: DataFacts) -> Method:
    """The method of a config, its network and its sampler.

    config: whose values are checked, see `check_sections`. dataset: of which the shape of an
    example and of a label are read alone.
    Raises:
      ConfigError, ValueError: with one line, for what does not fit.
    """
    cls, values = read_named(config, "method", METHODS)
    known = {field.name: field for field in dataclasses.fields(cls)}
    # What a method takes from the rest of the config has the name that it has there.
    for name in ("low", "high"):
        if name in known:
            values[name] = config.data[name]
    if "data_moments" in known:
        values["data_moments"] = facts.moments
    if "data_mixture" in known:
        values["data_mixture"] = facts.mixture
    if "labels" in known and facts.labels is not None:
        values["labels"] = facts.labels
    values["sampler"] = read_section(config, "sampler", settings.sampler_settings(cls))
    for group in groups(config, "network"):  # of several networks: each named after its field
        values[group or "network"] = _make_network(config, group, dataset)
    return cls(**values)


def _make_network(config: ml_collections.ConfigDict, group: str, dataset: Dataset) -> Any:
    cls, values = read_named(config, "network", NETWORKS, group)
    compute = read_section(config, "compute", settings.Compute)
    network = make_network(
        cls,
        dataset.example_shape,
        dtype=compute.dtype,
        formulation=compute.formulation,
        remat=compute.remat,
        **values,
    )
    label_size = getattr(network, "label_size", 0)
    if label_size != dataset.label_size and (label_size or getattr(network, "num_classes", None)):
        raise ConfigError(
            f"{prefix('network', group)}label_size: expected {dataset.label_size}, the values of a "
            f"label of {dataset.name}, got {label_size}"
        )
    num_classes = getattr(network, "num_classes", None)
    if num_classes and num_classes != dataset.num_classes:
        expected = dataset.num_classes if dataset.num_classes > 1 else 0
        raise ConfigError(
            f"{prefix('network', group)}num_classes: expected {expected}, the classes of "
            f"{dataset.name}, got {num_classes}"
        )
    return network


def _check_data_settings(described: settings.Data, dataset: Dataset) -> None:
    """Raises ValueError for settings of images where there are none."""
    if len(dataset.example_shape) == 3:
        return
    for name in ("dequantize", "random_flip"):
        if getattr(described, name):
            raise ValueError(f"data.{name}: expected False, as {dataset.name} has no images")
    if dataset.trajectories is None:
        return
    for name, bound in zip(("low", "high"), dataset.value_range, strict=True):
        if (value := getattr(described, name)) != bound:  # of the contexts, which are not scaled
            raise ValueError(
                f"data.{name}: expected {bound:g}, as states of {dataset.name} are z-scores and "
                f"stay as they are, got {value:g}"
            )


def _init(run: Run) -> Any:
    """(key) -> the state before the first step."""
    batch_size = run.config.training.batch_size
    example_batch = {
        "image": jnp.full((batch_size, *run.dataset.example_shape), run.data.low),
        "label": jnp.zeros((batch_size, *run.dataset.labels.shape[1:]), run.dataset.labels.dtype),
    }
    return functools.partial(
        init_train_state,
        method=run.method,
        optimizer=make_optimizer(run.config),
        example_batch=example_batch,
    )
