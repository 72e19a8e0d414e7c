"""The three methods on UCI digits, each trained for the same time on this machine.

    python benchmarks/methods_on_digits.py                     # 4 minutes of training steps each
    python benchmarks/methods_on_digits.py --minutes=1 --workdir=runs/methods_in_a_minute

Every method is the README's command with its own digits config and nothing changed but the number
of steps (`timed_runs.py`). Compilation, checkpoints and the pictures come on top and are reported.
Then --mode=evaluate measures 1,797 samples of the EMA weights, drawn as each paper draws them.

Writes methods_on_digits.json and .png to the workdir, and prints a table. Running it again goes on
where it stopped.
"""

import argparse
import json
import pathlib
from typing import Any

import numpy as np
from measure import machine, table
from timed_runs import load_config, num_steps_in, run_main, steps_per_second

from ebm_jax import data
from ebm_jax.io import charts, files, image_grids

CONFIGS = {
    "recovery likelihood": "digits.py",
    "IGEBM": "digits_igebm.py",
    "multiscale DSM": "digits_mdsm.py",
}


def gradients_per_sample(config: Any) -> int:
    """Input gradients of the energy that one sample takes."""
    method, sampler = config.method, config.sampler
    if method.name == "recovery_likelihood":
        return method.num_pairs * (sampler.num_steps or method.num_steps)
    if method.name == "contrastive_divergence":
        return sampler.num_steps or method.num_steps
    return sampler.num_hot + sampler.num_cooling + sampler.num_final + 1  # and the last jump


def measure(name: str, workdir: pathlib.Path, seconds: float) -> dict[str, Any]:
    """Trains and evaluates one method; its metrics."""
    result_file = workdir / "result.json"
    if result_file.exists():
        return json.loads(result_file.read_text())
    num_steps = num_steps_in(name, workdir, seconds)
    length = f"--config.training.num_steps={num_steps}"
    run = workdir / "run"
    training_seconds = run_main(name, run, length)
    for mode in ("sample", "evaluate"):
        run_main(name, run, length, f"--mode={mode}")
    evaluation = json.loads((run / "evaluate" / "evaluation.json").read_text())
    distance = evaluation["frechet_distance_to_training"]["over_pixels"]
    classifier = evaluation["classifier"]
    result = {
        "num_steps": num_steps,
        "steps_per_second": steps_per_second(run),
        "seconds_with_compilation": training_seconds,
        "gradients_per_sample": gradients_per_sample(load_config(name)),
        "frechet_distance": distance["samples"],
        "frechet_distance_of_real": distance["floor"],
        "num_samples": distance["num_samples"],
        "median_confidence": classifier["samples"]["median_confidence"],
        "median_confidence_of_real": classifier["held_out"]["median_confidence"],
        "rarest_class": min(classifier["samples"]["class_share"]),
        "rarest_class_of_real": min(classifier["held_out"]["class_share"]),
        "measured_on": evaluation["measured_on"],
    }
    files.write_json(result_file, result)
    return result


def show(results: dict[str, dict[str, Any]]) -> None:
    head = ["", "steps", "steps/s", "Frechet distance over pixels", "median confidence",
            "rarest class", "gradients per sample"]  # fmt: skip
    rows = [
        [
            name,
            f"{found['num_steps']:,}",
            f"{found['steps_per_second']:.1f}",
            f"{found['frechet_distance']:.2f}",
            f"{found['median_confidence']:.2f}",
            f"{found['rarest_class']:.1%}",
            f"{found['gradients_per_sample']:,}",
        ]
        for name, found in results.items()
    ]
    real = next(iter(results.values()))
    rows.append(
        ["real held-out digits", "", "", f"{real['frechet_distance_of_real']:.2f}",
         f"{real['median_confidence_of_real']:.2f}", f"{real['rarest_class_of_real']:.1%}", ""]
    )  # fmt: skip
    print(table(head, rows))


def picture(workdir: pathlib.Path) -> np.ndarray:
    """One grid per method and one of real digits."""
    grids = {}
    for name, config_name in CONFIGS.items():
        config = load_config(config_name)
        samples = np.load(folder(workdir, name) / "run" / "sample" / "samples.npz")["x"]
        images = np.asarray(data.unscale_images(samples, config.data.low, config.data.high))
        grids[name] = image_grids.image_grid(images)
    real = data.load_dataset("digits", "test").images
    grids["real"] = image_grids.image_grid(real[data.batch_indices(len(real), len(images), 0, 0)])
    return charts.grids_picture(grids)


def folder(workdir: pathlib.Path, name: str) -> pathlib.Path:
    return workdir / name.replace(" ", "_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training steps, each method")
    parser.add_argument("--workdir", default="runs/methods_on_digits")
    args = parser.parse_args()
    workdir = pathlib.Path(args.workdir)
    results = {
        name: measure(config_name, folder(workdir, name), 60 * args.minutes)
        for name, config_name in CONFIGS.items()
    }
    show(results)
    files.write_json(
        workdir / "methods_on_digits.json",
        {"measured_on": machine(), "minutes": args.minutes, "methods": results},
    )
    image_grids.save_image(workdir / "methods_on_digits.png", picture(workdir))
    print(f"\n{workdir}/methods_on_digits.png and methods_on_digits.json")


if __name__ == "__main__":
    main()
