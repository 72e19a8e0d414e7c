"""What methods take from the training data beside their shape, and what of it a workdir keeps.

That is `mixture.safetensors`, where a method has a mixture: finding one may take a minute, and
another machine may find another.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from ebm_jax import data, parallel
from ebm_jax.io import files, weights
from ebm_jax.methods.registry import METHODS
from ebm_jax.runs.settings import ConfigError, one_line, read_general, read_named
from ebm_jax.runs.workdir import has_checkpoints

NUM_LABELS = 1_000  # of the training set, which samples given vectors have in turn
_MIXTURE = "mixture.safetensors"


class DataFacts(NamedTuple):
    """What a method takes from the training data; None: it takes none.

    moments: of the data in model units. labels: float [m, k], which samples are given in turn.
    mixture: of the data in model units.
    """

    moments: data.Moments | None = None
    labels: np.ndarray | None = None
    mixture: data.Mixture | None = None

    def groups(self) -> dict[str, dict[str, np.ndarray]]:
        """For a file of arrays."""
        found: dict[str, dict[str, np.ndarray]] = {}
        if self.moments is not None:
            found["moments"] = self.moments._asdict()
        if self.labels is not None:
            found["labels"] = {"values": np.asarray(self.labels)}
        if self.mixture is not None:
            found["data_mixture"] = self.mixture._asdict()
        return found

    @classmethod
    def of_groups(cls, groups: Mapping[str, Any]) -> "DataFacts":
        """Those that `groups` gave."""
        moments, labels, mixture = map(groups.get, ("moments", "labels", "data_mixture"))
        return cls(
            data.Moments(**moments) if moments else None,
            labels["values"] if labels else None,
            data.Mixture(**mixture) if mixture else None,
        )

    @classmethod
    def of_method(cls, method: Any) -> "DataFacts":
        """Those that a method was made with."""
        names = ("data_moments", "labels", "data_mixture")
        return cls(*(getattr(method, name, None) for name in names))


def of_data(
    config: ml_collections.ConfigDict, dataset: data.Dataset, workdir: pathlib.Path | None
) -> DataFacts:
    """Of a data set; what the config's method does not take is not computed.

    workdir: where the mixture is kept once something is trained there; else process 0 fits one.
    Raises:
      ConfigError: with one line, where it is not there any more.
    """
    cls, values = read_named(config, "method", METHODS)
    known = {field.name for field in dataclasses.fields(cls)}
    described = config.data
    units = (described.low, described.high)
    moments = labels = mixture = None
    if "data_moments" in known:
        moments = data.moments(dataset, *units, dequantized=described.dequantize)
    if "labels" in known and dataset.label_size:
        labels = np.asarray(dataset.labels[:NUM_LABELS])
    if (number := values.get("num_components", 1)) > 1 and "data_mixture" in known:

        def find() -> data.Mixture:
            if workdir is not None and has_checkpoints(workdir):
                if (mixture := kept(workdir).mixture) is not None:
                    return mixture
                raise ConfigError(
                    f"{workdir / _MIXTURE} is missing or of an earlier version: this run's "
                    "energies are about the mixture in it, so train it anew"
                )
            with one_line("method.num_components"):
                return data.data_mixture(
                    dataset, *units, num_components=number, noise_std=values["min_noise"],
                    seed=read_general(config).seed, dequantized=described.dequantize,
                )  # fmt: skip

        mixture = _by_first(find)
    return DataFacts(moments, labels, mixture)


def keep(workdir: pathlib.Path, facts: DataFacts) -> None:
    """Writes what is not to be found again; process 0 does."""
    if facts.mixture is None:
        return
    content = weights.to_bytes(DataFacts(mixture=facts.mixture).groups())
    with one_line():
        parallel.first_does(lambda: files.write_atomically(workdir / _MIXTURE, content))


def _by_first(find: Callable[[], data.Mixture]) -> data.Mixture:
    """What process 0 finds, on all: nothing says that EM ends at the same numbers on each."""
    content = b""

    def write() -> None:
        nonlocal content
        content = weights.to_bytes({"mixture": find()._asdict()})

    with one_line():
        parallel.first_does(write)
    return data.Mixture(**weights.from_bytes(parallel.tell_bytes(content) or b"")["mixture"])


def kept(workdir: pathlib.Path) -> DataFacts:
    """What a workdir keeps; all None where it keeps nothing."""
    path = workdir / _MIXTURE
    return DataFacts.of_groups(weights.read(path)) if path.is_file() else DataFacts()
