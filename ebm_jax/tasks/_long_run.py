"""Long chains as sentences and curves."""

from collections.abc import Sequence

import numpy as np

from ebm_jax.evaluation.density.long_run import Record, Reference
from ebm_jax.io import plotting


def curves(records: Sequence[Record], real: Reference) -> np.ndarray:
    """Energy, gradient norm, displacement and Frechet distance against steps; uint8 picture.

    The steps' axis is logarithmic for chains at one level, which settle, and linear for those that
    pass several; real images have the noise of the last.
    """
    shown = [r for r in records if r.step > 0]
    steps, of_one_level = [r.step for r in shown], shown[0].level == shown[-1].level

    def panel(title: str, name: str, unit: str, of_real: float | None = None) -> plotting.Curves:
        lines = {"chains": [getattr(r, name) for r in shown]}
        if of_real is not None:
            lines[f"real images, level {shown[-1].level}"] = [of_real] * len(shown)
        return plotting.Curves(
            title, steps, lines, x_label="steps of the chain", y_label=unit, log_x=of_one_level
        )

    panels = [
        panel("energy", "energy", "nats", real.energy),
        panel("norm of the energy's gradient", "grad_norm", "nats per model unit"),
        panel("distance from the start", "displacement", "model units"),
    ]
    if np.isfinite(real.frechet_floor):
        panels.append(
            panel("Frechet distance over pixels", "frechet", "squared units", real.frechet_floor)
        )
    return plotting.curves_picture(panels)
