"""--mode=compose: samples of several models' energies together, each given a label of its own.

The energies of models of single factors add up to one of all of them (Du & Mordatch 2019): a
product of densities is the conjunction of what they describe.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import energy, samplers
from ebm_jax.data.sources import factors
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.factor_regressor import FactorErrors, FactorRegressor
from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import KernelSampler
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.results import Result
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun, load_other
from ebm_jax.settings import setting

IMAGES_ONLY = True

_SHOWN = 8  # images of the figure
_MAX_JUDGED = 2_000  # real images that the regressions are judged on
_ANY = "any"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which energies, how they are put together, and for which labels."""

    workdirs: tuple[str, ...] = setting((), "of the other models, on the same images")
    logic: str = setting(
        "and", "all; at least one; all but the last", one_of=("and", "or", "and_not")
    )
    order: str = setting(
        "sum", "of a step: on all energies, or on one after the other, as published",
        one_of=("sum", "turns"),
    )  # fmt: skip
    labels: str = setting("", "of each model, as '1; 0.75; 0.2,0.8'; '': those of held-out images")
    num_images: int = setting(100, "held-out images whose labels are taken, samples", at_least=2)
    num_steps: int = setting(
        0, "of the chains; 0: as many as the first model samples with", at_least=0
    )
    sharpness: float = setting(
        100.0, "of 'or': -log sum exp(-s E) / s, in 1 / units of the energies", above=0
    )
    negation: float = setting(0.5, "weight of the energy that is 'not'", above=0)
    judge_steps: int = setting(
        1_500, "of training each network that reads a label off the samples", at_least=1
    )


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`compose/`: compose.png, factors added one by one; samples.npz; compose.json with errors."""
    models = [trained, *(load_other(path) for path in settings.workdirs)]
    _check(models, settings)
    models = _with_same_held_out(models, settings)
    truth, labels = _labels(models, settings)
    number = len(labels[0])
    counts = range(1, len(models) + 1)
    work.begin("composing", number * len(counts))
    samples = {}
    for count in counts:
        kept = work.piece(
            f"models_{count}",
            trained.fingerprint(
                others=[model.fingerprint() for model in models[1:count]],
                labels=[label.tolist() for label in labels[:count]],
                settings=_of_samples(settings),
            ),
        )
        samples[count] = kept.map_batches(
            "samples",
            _sampler(models[:count], settings, negates_last=count == len(models)),
            tuple(model.params for model in models[:count]),
            (np.arange(number, dtype=np.int32), *labels[:count]),
            batch_size=trained.run.sampling.batch_size,
        )["x"]
    images = {count: trained.run.to_pixels(x) for count, x in samples.items()}
    metrics, lines = _judged(models, settings, images, truth, labels)
    names = [_name(model) for model in models]
    columns = {} if truth is None else {"the image whose labels these are": truth[:_SHOWN]}
    for count in counts:
        title = (
            names[0] if count == 1 else f"{_word(settings, count, len(models))} {names[count - 1]}"
        )
        columns[title] = images[count][:_SHOWN]
    return Result(
        num_examples=number,
        metrics={"models": names, "labels": [label.tolist() for label in labels], **metrics},
        summary=[f"{number} samples of {', '.join(names)} ({settings.logic})", *lines],
        figures={"compose": image_grids.columns_picture(columns)},
        archives={"samples": {"x": samples[len(models)], "image": images[len(models)]}},
    )


def _of_samples(settings: Settings) -> dict[str, Any]:
    """What samples depend on: not how they are judged."""
    return {k: v for k, v in dataclasses.asdict(settings).items() if k != "judge_steps"}


def _name(model: TrainedRun) -> str:
    return model.run.data.label or model.run.dataset.name


def _word(settings: Settings, count: int, number: int) -> str:
    if settings.logic == "and_not":
        return "and not" if count == number else "and"
    return settings.logic


def _check(models: Sequence[TrainedRun], settings: Settings) -> None:
    """Raises ConfigError where the models' images or energies do not go together."""
    first = models[0].run
    if settings.logic == "and_not" and len(models) < 2:
        raise ConfigError("compose.logic: expected 'and' or 'or' with one model, got 'and_not'")
    if settings.logic != "and" and settings.order == "turns":
        raise ConfigError(
            f"compose.order: expected 'sum' with compose.logic={settings.logic!r}, got 'turns'"
        )
    for model, path in zip(models, ("this workdir", *settings.workdirs), strict=True):
        run = model.run
        here, there = (
            (r.data.name, r.dataset.example_shape, r.data.low, r.data.high) for r in (first, run)
        )
        if here != there:
            raise ConfigError(
                f"compose.workdirs: expected models of one data set in one range, {here}, got "
                f"{there} in {path}"
            )
        if not isinstance(run.method, KernelSampler):
            raise ConfigError(
                f"--mode=compose wants contrastive_divergence, whose chains run on any energy; got "
                f"{run.config.method.name} in {path}"
            )


def _with_same_held_out(models: Sequence[TrainedRun], settings: Settings) -> list[TrainedRun]:
    """The models with one and the same split of combinations that none of them has seen.

    What a model of positions sees is the same for every share and seed of the places, so that one
    goes with models of sizes of any.

    Raises:
      ConfigError: where the models' combinations have no such split.
    """
    held_out = [
        (
            _ANY if run.data.combinations == "position" else run.data.seen_places,
            run.data.reference_size,
            _ANY if run.data.combinations == "position" else run.data.places_seed,
        )
        if run.data.combinations
        else ()
        for run in (model.run for model in models)
    ]
    first = min(held_out, key=lambda found: found.count(_ANY))
    for found, path in zip(held_out, ("this workdir", *settings.workdirs), strict=True):
        if len(found) != len(first) or any(
            a not in (b, _ANY) for a, b in zip(found, first, strict=True)
        ):
            raise ConfigError(
                "compose.workdirs: expected models of which the same combinations are held out "
                f"(data.seen_places, reference_size, places_seed), {first}, got {found} in {path}"
            )
    if not first or _ANY in first:
        return list(models)
    return [_with_data(model, seen_places=first[0], places_seed=first[2]) for model in models]


def _with_data(model: TrainedRun, **values: Any) -> TrainedRun:
    """A model whose other splits are those of these settings of the data."""
    config = model.run.config.copy_and_resolve_references()
    config.data.update(values)
    data = dataclasses.replace(model.run.data, **values)
    return dataclasses.replace(model, run=dataclasses.replace(model.run, config=config, data=data))


def _labels(
    models: Sequence[TrainedRun], settings: Settings
) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """(the held-out images with these labels, None where there are none; labels of each model)."""
    if settings.labels:
        return None, _written_labels(models, settings)
    held_out = [model.run.held_out() for model in models]
    number = min(settings.num_images, held_out[0].num_examples)
    return np.asarray(held_out[0].images[:number]), [
        np.asarray(dataset.labels[:number]) for dataset in held_out
    ]


def _written_labels(models: Sequence[TrainedRun], settings: Settings) -> list[np.ndarray]:
    parts = [part.split(",") for part in settings.labels.split(";")]
    if len(parts) != len(models):
        raise ConfigError(
            f"compose.labels: expected {len(models)} labels, one per model, parted by ';', got "
            f"{len(parts)}: {settings.labels!r}"
        )
    found = []
    for model, part in zip(models, parts, strict=True):
        dataset = model.run.dataset
        try:
            values = np.array([float(text) for text in part], np.float32)
        except ValueError:
            raise ConfigError(f"compose.labels: expected numbers, got {','.join(part)!r}") from None
        if len(values) != max(dataset.label_size, 1):
            raise ConfigError(
                f"compose.labels: expected {max(dataset.label_size, 1)} values for {_name(model)}, "
                f"got {len(values)}"
            )
        if not dataset.label_size:
            if values[0] not in range(dataset.num_classes):
                raise ConfigError(
                    f"compose.labels: expected a class 0 to {dataset.num_classes - 1}, got "
                    f"{values[0]:g}"
                )
            values = np.asarray(values[0], np.int32)
        found.append(np.repeat(values[None], settings.num_images, axis=0))
    return found


def _sampler(
    models: Sequence[TrainedRun], settings: Settings, *, negates_last: bool
) -> Callable[..., dict[str, Any]]:
    """(params of each model, index, labels of each) -> {'x': ends of chains from noise}.

    negates_last: with 'and_not', whether the last of these models is that which is negated.
    """
    first, level = models[0].run, jnp.array(0)
    method, key = first.method, first.key("compose")
    assert isinstance(method, KernelSampler)  # else `_check` has refused

    def native_kernel(densities: Densities, energy_fn: energy.EnergyFn) -> samplers.Kernel:
        assert densities.native_kernel is not None  # of a method that makes samples with chains
        return densities.native_kernel(energy_fn, level)

    def sample(params: Sequence[Any], index: jax.Array, *labels: jax.Array) -> dict[str, Any]:
        densities: list[Densities] = [
            model.run.method.densities(p) for model, p in zip(models, params, strict=True)
        ]
        energies = [
            found.class_energy(level, label) if found.class_energy else found.energy(level)
            for found, label in zip(densities, labels, strict=True)
        ]
        if settings.order == "turns":
            kernel = _in_turn([*map(native_kernel, densities, energies)])
        else:
            together = _together(energies, settings, negates_last=negates_last)
            kernel = native_kernel(densities[0], together)
        return {"x": method.sample_with(key, kernel, index, settings.num_steps)}

    return sample


def _together(
    energies: Sequence[energy.EnergyFn], settings: Settings, *, negates_last: bool
) -> energy.EnergyFn:
    if settings.logic == "or":
        sharp = [energy.temper(energy_fn, 1 / settings.sharpness) for energy_fn in energies]
        return energy.temper(energy.mixture_energy(sharp), settings.sharpness)
    weights = [1.0] * len(energies)
    if settings.logic == "and_not" and negates_last:
        weights[-1] = -settings.negation
    return energy.sum_energies(energies, weights)


def _in_turn(kernels: Sequence[samplers.Kernel]) -> samplers.Kernel:
    """A step of each kernel, one after the other, from where the one before has ended."""

    def step(rng_key: jax.Array, state: Any) -> tuple[Any, Any]:
        info = None
        for n, kernel in enumerate(kernels):
            fresh = kernel.init(state.x)._replace(chain=state.chain)
            state, info = kernel.step(jax.random.fold_in(rng_key, n), fresh)
        return state, info

    return samplers.Kernel(kernels[0].init, step)


def _judged(
    models: Sequence[TrainedRun],
    settings: Settings,
    images: dict[int, np.ndarray],
    truth: np.ndarray | None,
    labels: Sequence[np.ndarray],
) -> tuple[dict[str, Any], list[str]]:
    """Errors of every factor, beside those of real images and of labels at random; and of pixels.

    Turns are left out: shapes that are turned look like others that are not.
    """
    metrics: dict[str, Any] = {"factors": {}}
    lines = ["mean error of        " + "".join(f"{n} models   " for n in images) + "real   chance"]
    for model, label in zip(models, labels, strict=True):
        name, dataset = _name(model), model.run.dataset
        if name in ("rotation", "orientation") or (
            not dataset.label_size and dataset.num_classes < 2
        ):
            continue
        if model.run.data.combinations:  # the model's own images show one size, or few places
            dataset = model.run.load_split("others")
        held_out = model.run.held_out()
        real, known = held_out.images[:_MAX_JUDGED], held_out.labels[:_MAX_JUDGED]
        for concept, part in factors.concepts_of(name).items():
            regressor = FactorRegressor(
                dataset.images, dataset.labels[..., part], num_classes=dataset.num_classes,
                num_steps=settings.judge_steps,
            )  # fmt: skip
            rows = {str(n): regressor.errors(x, label[..., part]) for n, x in images.items()}
            rows["real"] = regressor.errors(real, known[..., part])
            rows["chance"] = regressor.errors(real, np.roll(known, 1, axis=0)[..., part])
            metrics["factors"][concept] = {place: found._asdict() for place, found in rows.items()}
            lines.append(f"  {concept:<18}" + "  ".join(_cell(found) for found in rows.values()))
    if truth is not None:
        white = {n: image_error(found, truth, value_range=255.0) for n, found in images.items()}
        metrics["pixels"] = {str(n): found._asdict() for n, found in white.items()}
        black = image_error(np.zeros_like(truth), truth, value_range=255.0)
        chance = image_error(np.roll(truth, 1, axis=0), truth, value_range=255.0)
        metrics["pixels"] |= {"black": black._asdict(), "chance": chance._asdict()}
        lines.append(
            "  pixels (RMSE)     "
            + "  ".join(f"{found.rmse:.3f}" for found in white.values())
            + f"  all black: {black.rmse:.3f}, another image: {chance.rmse:.3f}"
        )
    return metrics, lines


def _cell(found: FactorErrors) -> str:
    return f"{found.error:.3f} +- {found.standard_error:.3f}"
