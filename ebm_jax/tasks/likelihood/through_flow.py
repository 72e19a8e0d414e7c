"""The sampler's own likelihood, where it is a flow: log densities, tables, numbers, sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.flow_likelihood import flow_log_density
from ebm_jax.evaluation.density.log_likelihood import Units
from ebm_jax.io import charts, files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks.likelihood.settings import Settings


class ThroughFlow(NamedTuple):
    """log p [n] of a split's images in nats; by_half: with half as many steps of the flow."""

    log_densities: np.ndarray
    by_half: np.ndarray


def log_densities(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    images: Mapping[str, np.ndarray],
    noise_key: jax.Array,
) -> dict[str, ThroughFlow]:
    """By split, on the first of the images with the noise of level 0; {} without a flow."""
    run = trained.run
    if not settings.num_flow_images or run.method.densities(trained.params).flow is None:
        return {}
    key = jax.random.fold_in(run.key("likelihood"), 7)

    def carried_back(params: Any, x: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        densities = run.method.densities(params)
        flow, y = densities.flow, densities.noised(noise_key, 0, x, index)
        assert flow is not None
        steps = len(flow.log_t) - 1
        half = flow._replace(
            log_t=jnp.linspace(flow.log_t[0], flow.log_t[-1], max(steps // 2, 1) + 1)
        )
        return {
            "log_densities": flow_log_density(key, flow, y, index),
            "by_half": flow_log_density(jax.random.fold_in(key, 1), half, y, index),
        }

    number = min(settings.num_flow_images, *(len(x) for x in images.values()))
    chosen = {name: x[:number] for name, x in images.items()}
    piece = work.piece(
        "flow",
        trained.fingerprint(images_sha256=files.arrays_sha256(*chosen.values())),
        keep=True,
    )
    work.begin("flow", number * len(chosen))
    found = {}
    for name, x in chosen.items():
        values = piece.map_batches(
            name.replace(" ", "_"), carried_back, trained.params,
            (x, np.arange(number, dtype=np.int32)), batch_size=run.sampling.batch_size,
        )  # fmt: skip
        found[name] = ThroughFlow(*(values[field] for field in ThroughFlow._fields))
    return found


def margins(
    found: Mapping[str, ThroughFlow], baselines: Sequence[Baseline], split: str
) -> list[Likelihood]:
    """Nats that the flow has more than each fitted density, on the very same noisy images."""
    log_p = found[split].log_densities
    return [
        Likelihood.of(log_p - baseline.log_densities[split][: len(log_p)]) for baseline in baselines
    ]


def metrics(
    found: Mapping[str, ThroughFlow], held_out_margins: Sequence[Likelihood], units: Units
) -> dict[str, Any]:
    """For the JSON. The margins are in the order of the baselines."""
    splits = {}
    for name, values in found.items():
        nats, by_half = map(Likelihood.of, values)
        splits[name] = {
            "num_images": len(values.log_densities),
            "log_likelihood_nats": nats.mean,
            "standard_error": nats.standard_error,
            "with_half_the_steps_nats": by_half.mean,
            **({"bits_per_dim": units.bits_per_dim(nats.mean)} if units.bin_width else {}),
        }
    return {
        "splits": splits,
        "more_nats_held_out_than_baselines": [more._asdict() for more in held_out_margins],
    }


def lines(found: Mapping[str, ThroughFlow], units: Units) -> list[str]:
    """A line for each split."""
    said = []
    for name, values in found.items():
        nats, by_half = map(Likelihood.of, values)
        line = (
            f"through the flow, {name}, {len(values.log_densities):,} images: {nats.mean:.2f} +- "
            f"{nats.standard_error:.2f} nats"
        )
        if units.bin_width:
            line += f", {units.bits_per_dim(nats.mean):.3f} bits/dim"
        said.append(f"{line} ({by_half.mean:.2f} nats with half as many steps)")
    return said


def meaning(
    found: Mapping[str, ThroughFlow],
    held_out_margins: Sequence[Likelihood],
    baselines: Sequence[Baseline],
    split: str,
) -> str:
    """What the lines are, and whether the samples' density beats the fitted ones, in a sentence.

    It does, or does not, where a margin is two standard errors from 0.
    """
    parts = []
    for more, baseline in zip(held_out_margins, baselines, strict=True):
        error = 2 * more.standard_error
        words = "cannot be told from"
        if abs(more.mean) > error:
            words = "beats" if more.mean > 0 else "does not beat"
        value = f"{more.mean:+.2f} +- {more.standard_error:.2f} nats"
        parts.append(f"{words} {baseline.name} ({value})")
    said = (
        "Through the flow: log densities of the samples themselves, by the change of variables "
        "along the probability flow. They integrate to 1 whatever the energies are, but for the "
        "flow's steps; energies of one law with noise would claim the same."
    )
    if not parts:
        return said
    number = len(found[split].log_densities)
    return f"{said} {split.capitalize()}, on the same {number:,} images, it {', and '.join(parts)}"


def figure(
    found: Mapping[str, ThroughFlow], baselines: Sequence[Baseline], units: Units
) -> np.ndarray:
    """Histograms of each split's images: by the flow, and by the fitted densities."""
    panels = {}
    for name, values in found.items():
        number = len(values.log_densities)
        densities = {"the flow": values.log_densities} | {
            baseline.name: baseline.log_densities[name][:number] for baseline in baselines
        }
        if units.bin_width:
            densities = {
                title: np.array([units.bits_per_dim(float(nats)) for nats in log_p])
                for title, log_p in densities.items()
            }
        unit = "bits/dim" if units.bin_width else "log density, nats"
        panels[f"{name}, {unit}"] = densities
    return charts.histograms_picture(panels)
