"""Data sets as uint8 arrays, and batches as a pure function of (seed, step).

Nothing here imports TensorFlow; tensorflow_datasets is imported by the functions that need it.
"""

from ebm_jax.data.batches import batch_indices, local_batch
from ebm_jax.data.dataset import Dataset, Trajectories
from ebm_jax.data.mixture import Mixture, data_mixture
from ebm_jax.data.moments import Moments, moments
from ebm_jax.data.prefetch import prefetch
from ebm_jax.data.preprocess import (
    dequantize,
    example_keys,
    intensity_scale,
    pad_images,
    random_flip,
    scale_images,
    scale_points,
    unscale_images,
    unscale_points,
)
from ebm_jax.data.registry import dataset_names, held_out_split, load_dataset
from ebm_jax.data.sources.combinations import Combinations
from ebm_jax.data.sources.toy2d import TOY_DENSITIES, ToyDensity, toy_density

__all__ = [
    "TOY_DENSITIES",
    "Combinations",
    "Dataset",
    "Mixture",
    "Moments",
    "ToyDensity",
    "Trajectories",
    "batch_indices",
    "data_mixture",
    "dataset_names",
    "dequantize",
    "example_keys",
    "held_out_split",
    "intensity_scale",
    "load_dataset",
    "local_batch",
    "moments",
    "pad_images",
    "prefetch",
    "random_flip",
    "scale_images",
    "scale_points",
    "toy_density",
    "unscale_images",
    "unscale_points",
]
