"""Sections of a config as checked dataclasses, and the errors of whoever wrote the command.

A section's name says how long its settings bind a workdir: see `BINDS`.
"""

import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

from ebm_jax.data import Combinations
from ebm_jax.data.sources.combinations import SEEN
from ebm_jax.networks.convolution import FORMULATIONS
from ebm_jax.networks.ensemble import COMBINATIONS
from ebm_jax.settings import check_values, defaults, setting

T = TypeVar("T")

# Sections that a run cannot be resumed or evaluated with other values of.
BINDS = {
    "resume": ("seed", "data", "network", "method", "optimizer", "training"),
    "evaluate": ("data", "network", "method"),
}
# Sections that bind nothing, and neither do those of the modes: how to generate, what to measure,
# what to write how often, and where.
FREE = (
    *("held_out_split", "data_dir", "distributed", "cpu_devices"),
    *("sampler", "sampling", "ensemble", "compute"),
)


class ConfigError(ValueError):
    """Invalid user input; the message is one line."""


@dataclasses.dataclass(frozen=True)
class General:
    """Fields of a config outside of every section."""

    seed: int = setting(0, "of initialization, the order of the data and training", at_least=0)
    held_out_split: str = setting("test", "split that a trained model is compared with")
    data_dir: str = setting("", "of data sets; '': $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    distributed: bool = setting(False, "several processes: a TPU pod, or a cluster; see the README")
    cpu_devices: int = setting(
        1, "devices to split the CPU into; of no effect on accelerators", at_least=1, at_most=1024
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """What a model is trained on, in which units."""

    name: str = setting("cifar10", "one of ebm_jax.data.dataset_names()")
    path: str = setting("", "of your own: a folder (folder), a .npy or .npz (arrays, trajectories)")
    split: str = setting("train", "trained on")
    pad_to: int = setting(
        0, "pixels, height and width to pad images to with black; 0 leaves them", at_least=0
    )
    image_size: int = setting(
        0,
        "pixels, of sets that are resized or drawn (celeba, lsun, folder, shapes); 0: their own",
        at_least=0,
    )
    label: str = setting(
        "", "the factor that is the label (dsprites, shapes), or none (folder); '': the set's own"
    )
    values: tuple[float, ...] = setting(
        (), "lowest and highest of images of floating-point numbers (arrays); (): uint8"
    )
    combinations: str = setting(
        "",
        "of sizes and places of a square that a model sees (dsprites, shapes); '': every image",
        one_of=("", *SEEN),
    )
    seen_places: float = setting(
        0.1, '"rho", share of the places that are seen in all sizes', above=0, below=1
    )
    reference_size: float = setting(0.5, "scale, at which all places are seen", above=0)
    places_seed: int = setting(0, "of the choice of the places", at_least=0)
    context: int = setting(
        0,
        "frames before a state that its energy is given (pendulum, linear_gaussian, trajectories); "
        "0: one",
        at_least=0,
    )
    actions: bool = setting(
        False, "give the energy of a state the action that led to it too (trajectories)"
    )
    low: float = setting(-1.0, "model value of pixel intensity 0")
    high: float = setting(1.0, "model value of pixel intensity 255")
    random_flip: bool = setting(True, "mirror left to right with probability 1/2")
    dequantize: bool = setting(False, "add uniform noise of one pixel intensity")

    @property
    def seen_combinations(self) -> Combinations | None:
        """What is seen of the sizes and places; None: every image.

        Raises:
          ConfigError: for settings of what is seen where every image is.
        """
        if self.combinations:
            return Combinations(
                self.combinations, self.seen_places, self.reference_size, self.places_seed
            )
        usual = defaults(Data)
        for name in ("seen_places", "reference_size", "places_seed"):
            if (value := getattr(self, name)) != usual[name]:
                raise ConfigError(
                    f"data.{name}: expected {usual[name]} without data.combinations, got {value}"
                )
        return None


@dataclasses.dataclass(frozen=True)
class Training:
    """How long a model is trained, and on what it starts."""

    batch_size: int = setting(256, "examples per step over all devices", at_least=1)
    num_steps: int = setting(
        240_000,
        "updates; may grow with a constant learning rate; 0: keep what init_from says as it is",
        at_least=0,
    )
    ema_decay: float = setting(
        0.999, "of the averaged parameters, which sampling uses", at_least=0, below=1
    )
    init_from: str = setting(
        "",
        "workdir[@step] of another run whose parameters to start from, or the name or folder of a "
        "model; '': random ones",
    )


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How many samples are made at once, and from which noise."""

    num_samples: int = setting(100, "of grids and of --mode=sample", at_least=1)
    batch_size: int = setting(
        100, "samples made at once; the samples do not depend on it", at_least=1
    )
    seed: int = setting(0, "of the samples alone", at_least=0)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Several checkpoints of a run as one model."""

    checkpoints: tuple[int, ...] = setting(
        (), "steps that sample and are evaluated together; (): the newest", at_least=0
    )
    combine: str = setting(
        "mean",
        "their energies; mixture wants energies in nats, cycle has a chain run on each in turn",
        one_of=tuple(COMBINATIONS),
    )
    temperature: float = setting(1.0, "by which the combined energy is divided", above=0)


@dataclasses.dataclass(frozen=True)
class Compute:
    """How the network is computed, which may change when a run is resumed or evaluated.

    Parameters and energies are float32 in any case. `microbatch` and `remat` trade time for memory;
    the numbers are the same up to rounding.
    """

    dtype: str = setting("float32", "of activations and kernels", one_of=("float32", "bfloat16"))
    formulation: str = setting("auto", "of the convolutions", one_of=FORMULATIONS)
    microbatch: int = setting(
        0, "examples on a device whose gradients are computed at once; 0: all", at_least=0
    )
    remat: bool = setting(
        False, "compute the activations of residual blocks again, rather than keep them"
    )


SECTIONS: dict[str, type] = {
    "data": Data,
    "training": Training,
    "sampling": Sampling,
    "ensemble": Ensemble,
    "compute": Compute,
}


def to_config(cls: type, **values: Any) -> ml_collections.ConfigDict:
    """A section with the defaults of a dataclass's settings, and some values in their place."""
    check_values(cls, values)
    return ml_collections.ConfigDict(defaults(cls) | values)


def named_config(name: str, known: Mapping[str, type], **values: Any) -> ml_collections.ConfigDict:
    """A section that names a network, method or optimizer, with the defaults of its settings."""
    settings = {k: 0 if v is None else v for k, v in defaults(known[name]).items()}
    check_values(known[name], values)
    return ml_collections.ConfigDict({"name": name} | settings | values)


def sampler_config(method: str, known: Mapping[str, type], **values: Any) -> Any:
    """The section `sampler` of a method."""
    return to_config(sampler_settings(known[method]), **values)


def sampler_settings(method: type) -> type:
    """The dataclass of a method's sampler: the type of its field `sampler`."""
    (field,) = (f for f in dataclasses.fields(method) if f.name == "sampler")
    return type(field.default)


def read_section(config: ml_collections.ConfigDict, name: str, cls: type[T]) -> T:
    """One section of a config, checked.

    Raises:
      ConfigError: for a setting that it does not have or a value that it cannot have.
    """
    with one_line():
        values = plain(get_section(config, name))
        check_values(cls, values, f"{name}.")
        return cls(**values)


def read_general(config: ml_collections.ConfigDict) -> General:
    """The fields outside of every section, checked."""
    values = {
        name: value for name, value in plain(config).items() if not isinstance(value, Mapping)
    }
    with one_line():
        check_values(General, values)
        return General(**values)


def read_named(
    config: ml_collections.ConfigDict, section: str, known: Mapping[str, T], group: str = ""
) -> tuple[T, dict[str, Any]]:
    """(known[config.<section>.name], the other settings of the section).

    Args:
      group: of a section that has several, such as one optimizer per network; '': it has one.
    Raises:
      ConfigError: for another name, with the nearest.
    """
    named = get_section(config, section)
    settings = plain(named[group] if group else named)
    name = settings.pop("name", None)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, cutoff=0)[0]
        raise ConfigError(
            f"{prefix(section, group)}name: expected one of {', '.join(known)}, got {name!r}; "
            f"did you mean {close!r}?"
        )
    return known[name], settings


def groups(config: ml_collections.ConfigDict, section: str) -> tuple[str, ...]:
    """Groups of a section, such as one optimizer per network; ('',) where it is itself named.

    Raises:
      ConfigError: where it is neither named nor made of sections.
    """
    found = get_section(config, section)
    if "name" in found:
        return ("",)
    if not all(isinstance(group, ml_collections.ConfigDict) for group in found.values()):
        raise ConfigError(f"{section}.name: expected a name, or sections that have one; got none")
    return tuple(found)


def prefix(section: str, group: str = "") -> str:
    """What stands before a setting of a section, or of one of its groups, in messages."""
    return f"{section}.{group}." if group else f"{section}."


def check_names(config: ml_collections.ConfigDict, modes: Sequence[str]) -> None:
    """Raises ConfigError for a section that no room reads. modes: those with a section."""
    fields = defaults(General)
    known = (*SECTIONS, "network", "method", "sampler", "optimizer", *modes)
    for name, value in config.items():
        if name not in known and isinstance(value, ml_collections.ConfigDict):
            close = difflib.get_close_matches(name, known, cutoff=0)[0]
            raise ConfigError(f"config has a section {name!r}; did you mean {close!r}?")
        if name in known and not isinstance(value, ml_collections.ConfigDict):
            raise ConfigError(f"config.{name}: expected a section, got {value!r}")
    for name in fields:
        if name not in config:
            raise ConfigError(f"config has no field {name!r}: start from configs/default.py")


def plain(section: Any) -> dict[str, Any]:
    """A section as a dict; a value that is given by reference is resolved."""
    return section.to_dict() if hasattr(section, "to_dict") else dict(section)


@contextlib.contextmanager
def one_line(name: str = "") -> Iterator[None]:
    """Turns what is wrong with values, files or optional packages into a ConfigError.

    name: of the field that it is the fault of, where the error's message does not name it.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError, ImportError, OverflowError) as error:
        raise ConfigError(f"{name}: {error}" if name else str(error)) from error


def get_section(config: ml_collections.ConfigDict, name: str) -> Any:
    """config[name].

    Raises:
      ConfigError: where it is missing.
    """
    if name not in config:
        raise ConfigError(f"config has no section {name!r}: start from configs/default.py")
    return config[name]
