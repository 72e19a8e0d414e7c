"""Sizes at places where they were never seen: sums of two energies against one of both.

    python benchmarks/held_out_combinations.py                                # shapes, 32 x 32
    python benchmarks/held_out_combinations.py --shares=.05,.5 --num_steps=500
    python benchmarks/held_out_combinations.py --config=dsprites_igebm

For each share rho of the places: an energy given the size is trained on these places in all sizes,
an energy given the place on all places at one size, and, as the baseline, one energy given both on
the union. --mode=compose then samples combinations that none has seen, on the sum of the first two
and on the third, and reads them with a regression that was trained on real images: see
`ebm_jax/data/sources/combinations.py`. One training for the places serves all shares.

Writes held_out_combinations.json and .png to the workdir, and prints a table. Running it again goes
on where it stopped.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from measure import machine, table

from ebm_jax.io import charts, files, image_grids

ROOT = pathlib.Path(__file__).parent.parent
CONCEPTS = ("position", "size")
MODELS = {"sum of two energies": "size", "one energy of both": "both"}


def run_main(config: str, variant: str, workdir: pathlib.Path, *flags: str) -> None:
    """Runs main.py in a process of its own."""
    command = [
        sys.executable,
        "main.py",
        f"--config=configs/{config}.py:{variant}",
        f"--workdir={workdir.resolve()}",
        "--config.train.sample_every=0",
        *flags,
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def measure(args: argparse.Namespace, share: float) -> dict[str, dict[str, Any]]:
    """{model: what --mode=compose wrote} for one share, after the trainings that it wants.

    Every training is asked of main.py, which has nothing to do for a run that is at its last step,
    and refuses one that was begun with other settings.
    """
    workdir, found = pathlib.Path(args.workdir), {}
    general = [f"--config.seed={args.seed}", *args.flags]
    if args.num_steps:
        general.append(f"--config.training.num_steps={args.num_steps}")
    position = workdir / "position"
    run_main(args.config, "seen_position", position, *general)
    for title, seen in MODELS.items():
        folder = workdir / f"{seen}_{share:g}"
        flags = [*general, f"--config.data.seen_places={share}"]
        run_main(args.config, f"seen_{seen}", folder, *flags)
        settings = {
            "workdirs": (str(position.resolve()),) if seen == "size" else (),
            "num_images": args.num_images,
            "num_steps": args.chain_steps,
            "judge_steps": args.judge_steps,
        }
        if (result := measured(folder, settings, (position, folder))) is None:
            asked = [f"--config.compose.{name}={value}" for name, value in settings.items()]
            run_main(args.config, f"seen_{seen}", folder, *flags, "--mode=compose", *asked)
            result = measured(folder, settings, ())
        assert result is not None  # else main.py has failed
        found[title] = result
    return found


def measured(
    workdir: pathlib.Path, settings: Mapping[str, Any], runs: Sequence[pathlib.Path]
) -> dict[str, Any] | None:
    """What --mode=compose wrote with these settings, later than all checkpoints of these runs."""
    path = workdir / "compose" / "compose.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    wanted = json.loads(json.dumps(settings))  # tuples as lists
    if {name: result["settings"].get(name) for name in wanted} != wanted:
        return None
    steps = [step for run in runs for step in (run / "checkpoints").iterdir()]
    if any(step.stat().st_mtime > path.stat().st_mtime for step in steps):
        return None
    return result


def errors(results: Mapping[float, Mapping[str, Any]]) -> dict[str, dict[str, list[list[float]]]]:
    """{quantity: {line: [error, standard error] of each share}}; the last model of a sum is whole.

    Lines: each of `MODELS`, 'another image' for chance, and 'real images' for a floor, which of
    pixels is 0. The last two are of the sum's regressions.
    """
    names = (*CONCEPTS, "pixels")
    found: dict[str, dict[str, list[list[float]]]] = {
        name: {line: [] for line in (*MODELS, "another image", "real images")} for name in names
    }
    del found["pixels"]["real images"]
    for by_model in results.values():
        for title, result in by_model.items():
            count = str(len(result["models"]))
            places = {title: count}
            if title == next(iter(MODELS)):
                places |= {"another image": "chance", "real images": "real"}
            for name, lines in found.items():
                rows = result["pixels"] if name == "pixels" else result["factors"][name]
                for line in lines.keys() & places.keys():
                    row = rows[places[line]]
                    error = row["rmse"] if name == "pixels" else row["error"]
                    lines[line].append([error, row["standard_error"]])
    return found


def picture(shares: Sequence[float], found: Mapping[str, Any]) -> np.ndarray:
    """A panel per quantity: errors against the share of the places that are seen in all sizes."""
    units = {"position": "mean |error|, places from 0 to 1", "size": "mean |error|, scale .5 to 1",
             "pixels": "RMSE, in units of white"}  # fmt: skip
    panels = []
    for name, lines in found.items():
        values = {line: np.array(pairs).T for line, pairs in lines.items()}
        panels.append(
            charts.Curves(
                name,
                list(shares),
                {line: pairs[0] for line, pairs in values.items()},
                {line: pairs[1] for line, pairs in values.items()},
                x_label="share of the places seen in all sizes",
                y_label=units[name],
            )
        )
    return charts.curves_picture(panels, columns=3)


def show(shares: Sequence[float], found: Mapping[str, Any]) -> None:
    rows = [
        [name, line, *(f"{error:.3f} ± {spread:.3f}" for error, spread in pairs)]
        for name, lines in found.items()
        for line, pairs in lines.items()
    ]
    print(table(["error of", "", *(f"rho {share:g}" for share in shares)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="shapes_igebm", help="of configs/, with variants seen_")
    parser.add_argument("--shares", default=".02,.1,.5", help="of the places, seen in all sizes")
    parser.add_argument(
        "--num_steps", type=int, default=0, help="of each training; 0: the config's"
    )
    parser.add_argument("--chain_steps", type=int, default=40, help="of the chains of samples")
    parser.add_argument("--num_images", type=int, default=200, help="held-out combinations")
    parser.add_argument("--judge_steps", type=int, default=400, help="of training regressions")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--workdir", default="runs/held_out_combinations")
    args, args.flags = parser.parse_known_args()
    shares = [float(share) for share in args.shares.split(",")]
    results = {share: measure(args, share) for share in shares}
    found, workdir = errors(results), pathlib.Path(args.workdir)
    show(shares, found)
    files.write_json(
        workdir / "held_out_combinations.json",
        {
            "measured_on": machine(),
            "shares": shares,
            "errors": found,
            "models": {
                f"{share:g}": {title: one["measured_on"] for title, one in by_model.items()}
                for share, by_model in results.items()
            },
        },
    )
    image_grids.save_image(workdir / "held_out_combinations.png", picture(shares, found))
    print(f"\n{workdir}/held_out_combinations.png and held_out_combinations.json")


if __name__ == "__main__":
    main()
