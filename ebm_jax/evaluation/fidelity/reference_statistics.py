"""Mean and covariance of a data set's features, on file.

`.npz` with `mu` [d] and `sigma` [d, d], as other programs have them, and what they are of:
`described`, JSON. Files of other programs lack that, and can be checked for d alone.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.evaluation.fidelity.frechet import GaussianFit
from ebm_jax.io import files


class Statistics(NamedTuple):
    """fit: of the features; its num_examples is 0 where unknown. described: what they are of."""

    fit: GaussianFit
    described: Mapping[str, Any]


def write_statistics(path: str | os.PathLike[str], statistics: Statistics) -> None:
    """Writes the file."""
    fit, described = statistics.fit, files.json_safe(statistics.described)
    described |= {"num_images": fit.num_examples}
    files.write_arrays(
        path, {"mu": fit.mean, "sigma": fit.covariance, "described": json.dumps(described)}
    )


def read_statistics(path: str, expected: Mapping[str, Any], num_features: int) -> Statistics:
    """Reads the file, and compares what it says of itself with what is wanted.

    Args:
      expected: fields of `described` that have to agree where the file has them.
    Raises:
      ValueError: for a file that cannot be read, or is of other features or data; one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[name], np.float64) for name in ("mu", "sigma"))
            described = json.loads(str(file["described"])) if "described" in file else {}
        if not isinstance(described, dict):
            raise ValueError(f"described is a {type(described).__name__}, no object")
        num_images = described.get("num_images", 0)
        if not isinstance(num_images, int):
            raise ValueError(f"num_images is {num_images!r}")
        if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(covariance))):
            raise ValueError("some of its values are not finite")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the readers raise errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"the statistics {path} cannot be read ({reason}): give a .npz with mu and sigma, "
            "such as --mode=fid_stats writes"
        ) from error
    shapes = (num_features,), (num_features, num_features)
    if (mean.shape, covariance.shape) != shapes:
        raise ValueError(
            f"the statistics {path} are of {mean.shape} features and the network has "
            f"{num_features}: give those of the same network"
        )
    for field, value in files.json_safe(expected).items():
        if field in described and described[field] != value:
            raise ValueError(
                f"the statistics {path} are of {field} {described[field]!r}, and this run asks for "
                f"{value!r}: give others, or make them with --mode=fid_stats"
            )
    return Statistics(GaussianFit(mean, covariance, num_images), described)
