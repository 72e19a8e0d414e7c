"""--mode=rollout: trajectories that follow from their first frames, against true ones.

After Du & Mordatch 2019 (arXiv 1903.08689), in the form of their published code: the true frames of
a context, then states predicted from predicted ones; at each time the Frechet distance of Gaussians
fitted to predicted and to true held-out states, z-scored. Beside the energies: a feed-forward
network of the same layers, the last frame again and again, and trajectories to train on.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.data import Trajectories
from ebm_jax.evaluation.trajectories import errors
from ebm_jax.evaluation.trajectories.next_state import NextStatePredictor, next_state_predictor
from ebm_jax.evaluation.trajectories.rollout import NextState, repeat_last, rollout
from ebm_jax.io import charts
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import OneNetwork
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _film, _updates
from ebm_jax.tasks._classes import num_parameters

IMAGES_ONLY = False

ENERGIES, FEED_FORWARD = "energies", "feed-forward network"
REPEAT, FLOOR = "last frame repeated", "floor: training trajectories"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is predicted, what it is compared with, what is drawn."""

    num_trajectories: int = setting(
        1_000, "held-out trajectories, taken from the start; as many to train on are the floor",
        at_least=2,
    )  # fmt: skip
    num_draws: int = setting(
        3, "rollouts of the energies, of other random numbers each", at_least=1
    )
    horizons: tuple[int, ...] = setting(
        (1, 10, 50), "steps after the last true frame, of the squared errors", at_least=1
    )
    feed_forward: bool = setting(
        True, "whether to train a network of the same layers that predicts the next state"
    )
    feed_forward_steps: int = setting(
        0, "updates of that network; 0: as many as the run's", at_least=0
    )
    spectral_norm: bool = setting(
        False, "of that network's layers, which keeps rollouts from growing apart"
    )
    film_frames: int = setting(
        100, "states of one trajectory that are drawn as a film; 0: no film", at_least=0
    )


class Competitor(NamedTuple):
    """frechet: [draws, length]. errors: by horizon; None where it predicts none."""

    frechet: np.ndarray
    errors: Mapping[int, errors.SquaredError] | None


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`rollout/`: rollout.json, frechet.png, film.png, film.gif and states.npz."""
    trajectories = _checked(trained, settings)
    predictor = _predictor(trained, settings) if settings.feed_forward else None
    true = trajectories.states[: settings.num_trajectories]
    actions = trajectories.actions[: settings.num_trajectories]
    context, (number, _, size) = trajectories.context, true.shape
    train = trained.run.dataset.trajectories
    assert train is not None
    forward_params = None if predictor is None else _trained(trained, settings, work, predictor)
    work.begin("rolling out", number * (settings.num_draws + (predictor is not None) + 1))

    def unroll(name: str, params: Any, next_state: Callable[..., NextState], **others: Any) -> Any:
        def unrolled(
            params: Any, frames: jax.Array, actions: jax.Array, index: jax.Array
        ) -> dict[str, jax.Array]:
            return {"x": rollout(next_state(params, index), frames, actions)}

        kept = work.piece(name, trained.fingerprint(number=number, **others))
        found = kept.map_batches(
            "states",
            unrolled,
            params,
            (
                true[:, :context].reshape(number, -1),
                actions[:, context:],
                np.arange(number, dtype=np.int32),
            ),
            batch_size=trained.run.sampling.batch_size,
        )["x"]
        return np.concatenate([true[:, :context], found], axis=1)

    states = {
        ENERGIES: [
            unroll(f"energies_{draw}", trained.params, _energies(trained, draw), draw=draw)
            for draw in range(settings.num_draws)
        ]
    }
    if predictor is not None:
        predict = _feed_forward(trained, predictor)
        made_of = {"steps": settings.feed_forward_steps, "spectral_norm": settings.spectral_norm}
        states[FEED_FORWARD] = [unroll("feed_forward_states", forward_params, predict, **made_of)]
    repeated = functools.partial(repeat_last, size=size)
    states[REPEAT] = [unroll("repeated", (), lambda params, index: repeated)]
    found = {
        name: _competitor(draws, true, settings.horizons, context) for name, draws in states.items()
    }
    floor = errors.frechet_per_step(train.states[:number], true)
    found[FLOOR] = Competitor(floor[None], None)
    first = {name: draws[0] for name, draws in states.items()}
    drawn = {"true": true, **{name: x for name, x in first.items() if name != REPEAT}}
    film, said = _film_of(trained, trajectories, drawn, settings.film_frames)
    return Result(
        num_examples=number,
        metrics={
            "data": trained.run.dataset.name,
            "split": trained.run.general.held_out_split,
            "context": context,
            "length": true.shape[1],
            "num_actions": actions.shape[2],
            "columns": trajectories.columns,
            "competitors": {name: _row(one) for name, one in found.items()},
            "num_parameters": {
                ENERGIES: num_parameters(trained.params),
                **({} if predictor is None else {FEED_FORWARD: num_parameters(forward_params)}),
            },
            "units": "squared z-scores; the mean Frechet distance is over all times, the frames of "
            "the context counting as 0; the squared error is the mean over a state's values",
        },
        summary=[*_lines(found, trained, number, context, settings.horizons), *said],
        figures={"frechet": _picture(found, context), **film.figures},
        archives={
            "states": {
                "true": true,
                **{name.replace(" ", "_").replace("-", "_"): x for name, x in first.items()},
            }
        },
        other_files=film.files,
    )


def _checked(trained: TrainedRun, settings: Settings) -> Trajectories:
    """The held-out trajectories.

    Raises:
      ValueError: one line, for a model that predicts none, or numbers that do not fit.
    """
    run = trained.run
    if not run.has_trajectories:
        raise ValueError(
            f"--mode=rollout: expected a model of trajectories, got one of {run.dataset.name}; "
            "configs/trajectories.py is one"
        )
    if not getattr(run.method, "is_conditional", False):
        raise ValueError(
            "--mode=rollout: expected contrastive_divergence with the network conditional_mlp, "
            f"whose states are given their contexts, got {run.config.method.name} with "
            f"{run.config.network.name}"
        )
    held_out = run.held_out().trajectories
    assert held_out is not None
    number, length, size = held_out.states.shape
    errors.check_number(min(number, settings.num_trajectories), size)
    ahead = length - held_out.context
    if max(settings.horizons, default=0) > ahead:
        raise ValueError(
            f"rollout.horizons: expected at most {ahead}, the states after the context, got "
            f"{settings.horizons}"
        )
    return held_out


def _predictor(trained: TrainedRun, settings: Settings) -> NextStatePredictor:
    method = trained.run.method
    assert isinstance(method, OneNetwork)  # as it is conditional
    return next_state_predictor(method.network, has_norm=settings.spectral_norm)


def _trained(
    trained: TrainedRun, settings: Settings, work: ResumableWork, predictor: NextStatePredictor
) -> Any:
    """EMA parameters, trained as the energies were but for Adam's beta_1 of .9, as published."""
    return _updates.train_beside(
        trained,
        work,
        predictor,
        name=FEED_FORWARD,
        piece="feed_forward",
        depends_on={"spectral_norm": settings.spectral_norm},
        num_steps=settings.feed_forward_steps,
        shown=("squared_error",),
        optimizer={"b1": 0.9},
    )


def _energies(trained: TrainedRun, draw: int) -> Callable[..., NextState]:
    """(params, index) -> the next state: the end of a chain on the energy of its context."""
    method: Any = trained.run.method
    key = jax.random.fold_in(trained.run.key("rollout"), draw)

    def next_state(params: Any, index: jax.Array) -> NextState:
        return lambda t, label: method.sample(
            params, jax.random.fold_in(key, t), index, label=label
        )

    return next_state


def _feed_forward(trained: TrainedRun, predictor: NextStatePredictor) -> Callable[..., NextState]:
    """Its predictions, kept to the box that the chains run in."""
    low, high = trained.run.data.low, trained.run.data.high

    def next_state(params: Any, index: jax.Array) -> NextState:
        del index
        return lambda t, label: jnp.clip(predictor.predict(params, label), low, high)

    return next_state


def _competitor(
    draws: list[np.ndarray], true: np.ndarray, horizons: tuple[int, ...], context: int
) -> Competitor:
    frechet = np.stack([errors.frechet_per_step(x, true) for x in draws])

    def at(t: int) -> errors.SquaredError:  # a trajectory's error is the mean over its draws
        together = np.concatenate([x[:, t] for x in draws], axis=1)
        return errors.squared_error(together, np.tile(true[:, t], len(draws)))

    return Competitor(frechet, {h: at(context + h - 1) for h in horizons})


def _row(one: Competitor) -> dict[str, Any]:
    means = one.frechet.mean(axis=1)
    row: dict[str, Any] = {
        "frechet": one.frechet.mean(axis=0),
        "mean_frechet": means.mean(),
        "mean_frechet_of_each_draw": means,
    }
    if one.errors is not None:
        row["squared_errors"] = {str(h): found._asdict() for h, found in one.errors.items()}
    return row


def _lines(
    found: Mapping[str, Competitor],
    trained: TrainedRun,
    number: int,
    context: int,
    horizons: tuple[int, ...],
) -> list[str]:
    title = f"{number} trajectories of {trained.run.dataset.name}, context {context}"
    lines = [f"{title:<44}{'mean Frechet':>16}" + "".join(f"{f'MSE at {h}':>18}" for h in horizons)]
    for name, one in found.items():
        means = one.frechet.mean(axis=1)
        spread = f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else ""
        cells = (
            "".join(f"{f'{e.mean:.3f} ± {e.standard_error:.3f}':>18}" for e in one.errors.values())
            if one.errors is not None
            else ""
        )
        lines.append(f"  {name:<42}{f'{means.mean():.3f}{spread}':>16}{cells}")
    return lines


def _picture(found: Mapping[str, Competitor], context: int) -> np.ndarray:
    return charts.series_picture(
        {name: one.frechet[:, context:].mean(axis=0) for name, one in found.items()},
        x_label="steps after the last true frame",
        y_label="Frechet distance, squared z-scores",
        first=1,
        log_y=True,
    )


def _film_of(
    trained: TrainedRun, trajectories: Trajectories, rows: Mapping[str, np.ndarray], frames: int
) -> tuple[_film.Film, list[str]]:
    """(the film of the first trajectory, what is to be said of it)."""
    if not frames:
        return _film.Film({}, {}), []
    shown = {
        name: trajectories.mean + trajectories.std * x[0, :frames].astype(np.float64)
        for name, x in rows.items()
    }
    try:
        return _film.film(trained.run.dataset.name, trajectories, shown), []
    except ImportError as error:  # of the simulator, without which a hand has no shape
        return _film.Film({}, {}), [f"no film: {error}"]
