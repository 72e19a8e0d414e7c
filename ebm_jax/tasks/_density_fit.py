"""How well a density on the plane is learned, as a table and as numbers for JSON."""

from typing import Any

from ebm_jax.evaluation.density.plane import NUM_BOXES, DensityFit


def lines(found: DensityFit, name: str) -> list[str]:
    """The table."""
    c, box = found.comparison, 2 * found.grid.half_width / NUM_BOXES
    return [
        f"learned density of {name} plus noise of {found.noise_std:.3g}, against the true one",
        f"  KL(true || learned)      {c.kl:.4f} nats",
        f"  total variation          {c.total_variation:.4f}",
        f"  E_true[log learned]      {c.expected_log_likelihood:.4f} nats",
        f"  E_true[log true]         {-c.entropy:.4f} nats",
        f"  learned mass outside     {found.mass_outside:.4f}",
        f"samples, total variation over boxes of {box:.3g}",
        f"  {found.num_samples:,} samples".ljust(27) + f"{found.sample_distance:.4f}",
        "  as many exact samples".ljust(27) + f"{found.exact_distance:.4f}",
    ]


def metrics(found: DensityFit, name: str) -> dict[str, Any]:
    """For the JSON, with what was measured how."""
    grid = found.grid
    return {
        "density": name,
        "units": "nats, and lengths of the data as defined, not as scaled for the model",
        "learned": {
            "of": "data plus normal noise, the lowest noise level; true density: without noise",
            "noise_std": found.noise_std,
            "kl_true_to_learned": found.comparison.kl,
            "total_variation": found.comparison.total_variation,
            "expected_log_likelihood": found.comparison.expected_log_likelihood,
            "entropy_of_true": found.comparison.entropy,
            "mass_outside_data_square": found.mass_outside,
            "log_z": found.log_z,
        },
        "grid": {
            "half_width": grid.half_width,
            "num_cells": [grid.num_cells, grid.num_cells],
            "true_mass": found.comparison.true_mass,
        },
        "samples": {
            "total_variation": found.sample_distance,
            "of_as_many_exact_samples": found.exact_distance,
            "num_boxes": [NUM_BOXES, NUM_BOXES],
        },
    }
