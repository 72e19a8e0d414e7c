"""--mode=card: the model as safetensors, with a card that says what it is and how good it is.

The folder is what `ebm_jax.models.load` and `training.init_from` take.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import model_folder, preview
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES_ONLY = False

_NOT_STATED = "not stated"
_SHOWN_IMAGES, _SHOWN_POINTS = 100, 2_000  # of the figure
_SUMMARY = "summary"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the card says beside what the workdir knows."""

    title: str = setting("", "first line of the card; '': the method and the data")
    about: str = setting("", "what the model is, and what for")
    license: str = setting("", "of the weights and of the data")
    limits: str = setting("", "what it cannot do, or must not be used for")


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`card/`: weights.safetensors, model.json, card.md, samples.png, and card.json.

    The card quotes what the modes of this workdir printed of this checkpoint and sampler.
    """
    if trained.run.config.ensemble.checkpoints:
        raise ValueError(
            "ensemble.checkpoints: expected (), as a card is of one checkpoint, got "
            f"{tuple(trained.run.config.ensemble.checkpoints)}"
        )
    contents = model_folder.contents(trained)
    number = _SHOWN_IMAGES if trained.run.has_images else _SHOWN_POINTS
    samples = trained.samples(work, number)
    measured = _measured(trained)
    stored = contents[model_folder.WEIGHTS]
    card = _card(trained, settings, measured, stored)
    return Result(
        num_examples=number,
        metrics={
            "num_parameters": model_folder.num_parameters(trained.params),
            "weights_bytes": len(stored),
            "weights_sha256": hashlib.sha256(stored).hexdigest(),
            "quoted": sorted(measured),
        },
        summary=[
            f"step {trained.step}: {model_folder.num_parameters(trained.params):,} parameters in "
            f"{len(stored) / 1e6:.2f} MB; quoted: {', '.join(sorted(measured)) or 'no mode yet'}"
        ],
        figures={"samples": preview.figure(trained.run, trained.params, samples)},
        other_files=contents | {model_folder.CARD: card.encode()},
    )


def _measured(trained: TrainedRun) -> dict[str, list[str]]:
    """What each mode printed of this checkpoint and sampler, by its name."""
    found, sampler = {}, files.json_safe(trained.run.config.sampler)
    for path in sorted(trained.workdir.glob("*/*.json")) if trained.workdir else ():
        result = _json(path)
        measured_on = result.get("measured_on", {})
        is_ours = (
            measured_on.get("checkpoint_step") == trained.step
            and not measured_on.get("ensemble")
            and measured_on.get("sampler") == sampler  # with another one, samples are others
        )
        if is_ours and result.get(_SUMMARY) and path.parent.name not in ("card", "sample"):
            found[path.parent.name] = result[_SUMMARY]
    return found


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _card(
    trained: TrainedRun, settings: Settings, measured: Mapping[str, list[str]], stored: bytes
) -> str:
    """Markdown, with the front matter that model hubs read."""
    run, config = trained.run, trained.run.config
    described, training = run.dataset, config.training
    shape = " x ".join(map(str, described.example_shape))
    method, network = config.method.name, config.network.get("name", "several networks")
    title = settings.title or f"{method} on {described.name}"
    rows = {
        "method": f"`{method}`: {_values(config.method)}",
        "network": f"`{network}`: {_values(config.network)}; "
        f"{model_folder.num_parameters(trained.params):,} parameters",
        "sampler": _values(config.sampler) or "as in training",
        "data": f"`{described.name}`, split `{described.split}`: {described.num_examples:,} of "
        f"{shape}, model units {run.data.low:g} to {run.data.high:g}",
        "training": f"{trained.step:,} steps of {training.batch_size} examples, EMA "
        f"{trained.ema_decay:g}, seed {run.general.seed}; {_values(config.optimizer)}",
        "weights": f"EMA, float32, {len(stored):,} bytes",
        "SHA-256": f"`{hashlib.sha256(stored).hexdigest()}`",
        "license": settings.license or _NOT_STATED,
    }
    quoted = "\n\n".join(
        f"`--mode={mode}`:\n\n```\n" + "\n".join(lines) + "\n```"
        for mode, lines in measured.items()
    )
    use = "pixels = model.to_pixels(x)" if run.has_images else "points = model.to_data_units(x)"
    return f"""---
license: {json.dumps(settings.license or _NOT_STATED)}
library_name: ebm_jax
tags: [energy-based-model, jax, {method}]
---

# {title}

{settings.about or f"An energy-based model of {described.name}."}

![Samples beside real examples](samples.png)

```python
import jax
from ebm_jax import models

model = models.load("<the folder of this card, or its name>")
x = model.sample(jax.random.key(0), 16)
energies = model.energy_fn(level=0)(x)
{use}
```

| | |
|---|---|
{chr(10).join(f"| {name} | {value} |" for name, value in rows.items())}

## Measured

{quoted or "Nothing yet: run the modes in the workdir, then this one again."}

## Limits

{settings.limits or _NOT_STATED}
"""


def _values(section: ml_collections.ConfigDict) -> str:
    """A section in a line, without its name."""
    return ", ".join(f"{k} {v}" for k, v in section.items() if k != "name")
