"""Recovery likelihood on Fashion-MNIST by this project and by ebmkit, trained for the same time.

    pip install -e '.[benchmark]'
    python benchmarks/fashion_mnist_and_ebmkit.py                          # 17 minutes each
    python benchmarks/fashion_mnist_and_ebmkit.py --weights=inception.pt   # KID too

Ours is `configs/fashion_mnist.py:cpu` with nothing changed but the number of steps. ebmkit has
(in PyTorch) `DiffusionRecoveryLikelihood`, `drl_sample` and `Trainer`, taken as they come, with its
convolutional network for noisy images, Adam and an exponential average. What it leaves to its users
is in `PEER`: the best of four that were tried for two minutes each, its default steps of a chain
(30, of scale .1) and twice as wide a network among them. Each takes both cores alone, one after the
other.
Samples of both, a Gaussian's that is fitted to the training images, and real held-out images are
judged by the same functions, in the format of --mode=evaluate: 32 x 32 pixels, in [-1, 1].

Writes fashion_mnist_and_ebmkit.json and .png to the workdir, and prints a table. Running it again
goes on where it stopped.
"""

import argparse
import json
import pathlib
import time
from importlib import metadata
from typing import Any

import numpy as np
from measure import machine, table
from timed_runs import load_config, num_steps_in, run_main, steps_per_second

from ebm_jax import data
from ebm_jax.evaluation.fidelity.features import inception_extractor
from ebm_jax.evaluation.fidelity.gaussian_images import fit_gaussian_images
from ebm_jax.evaluation.fidelity.inception_scores import kernel_inception_distance
from ebm_jax.evaluation.images.quality import RealImages
from ebm_jax.io import charts, files, image_grids

CONFIG = "fashion_mnist.py:cpu"
OURS, EBMKIT, GAUSSIAN, REAL = "ebm_jax", "ebmkit", "a Gaussian", "real held-out images"
PAD_TO = 32
PEER = {
    "channels": (32, 64, 128),
    "sigma_max": 3.0,
    "sigma_min": 0.03,
    "num_levels": 10,
    "mcmc_steps": 10,
    "step_scale": 0.3,
    "energy_reg": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "ema_decay": 0.998,
    "grad_clip_norm": 1.0,
}
_CALIBRATION_STEPS = 5
_SAMPLED_AT_ONCE = 500
_SHOWN = 100


def ours(workdir: pathlib.Path, minutes: float, num_samples: int, seed: int) -> dict[str, Any]:
    """Trains and samples with main.py; {'x': [n, 32, 32, 1] in [-1, 1], ..}."""
    num_steps = num_steps_in(CONFIG, workdir, 60 * minutes)
    flags = (f"--config.training.num_steps={num_steps}", f"--config.seed={seed}")
    run = workdir / "run"
    run_main(CONFIG, run, *flags)
    seconds = run_main(  # with its start and compilation
        CONFIG, run, *flags, "--mode=sample", f"--config.sampling.num_samples={num_samples}"
    )
    config = load_config(CONFIG)
    assert (config.data.low, config.data.high) == (-1.0, 1.0)
    return {
        "x": np.load(run / "sample" / "samples.npz")["x"],
        "num_steps": num_steps,
        "steps_per_second": steps_per_second(run),
        "seconds_of_sampling": seconds,
    }


def ebmkit(
    images: np.ndarray, minutes: float, num_samples: int, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Trains ebmkit's recovery likelihood and samples it.

    Args:
      images: uint8 [n, 28, 28, 1].
    Returns:
      {'x': [num_samples, 32, 32, 1] in [-1, 1], padded with black, ..}.
    """
    import ebm
    import torch

    torch.manual_seed(seed)
    x = torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    levels = np.geomspace(settings["sigma_max"], settings["sigma_min"], settings["num_levels"])
    sigmas = torch.tensor(levels, dtype=torch.float32)
    chain = {key: settings[key] for key in ("mcmc_steps", "step_scale")}

    def trainer() -> Any:
        network = ebm.nets.NoiseConditionalConvEnergy(1, channels=settings["channels"])
        return ebm.Trainer(
            network,
            ebm.DiffusionRecoveryLikelihood(sigmas, **chain, energy_reg=settings["energy_reg"]),
            lr=settings["learning_rate"],
            ema_decay=settings["ema_decay"],
            grad_clip_norm=settings["grad_clip_norm"],
            log_every=50,
        )

    batch = settings["batch_size"]
    trial = trainer()
    trial.fit(x, 1, batch, verbose=False)
    begin = time.perf_counter()
    trial.fit(x, _CALIBRATION_STEPS, batch, verbose=False)
    rate = _CALIBRATION_STEPS / (time.perf_counter() - begin)
    num_steps = max(1, round(60 * minutes * rate))
    trained = trainer()
    begin = time.perf_counter()
    trained.fit(x, num_steps, batch)
    seconds = time.perf_counter() - begin
    parts, begin = [], time.perf_counter()
    for first in range(0, num_samples, _SAMPLED_AT_ONCE):
        number = min(_SAMPLED_AT_ONCE, num_samples - first)
        samples = ebm.drl_sample(trained.ema.module, sigmas, number, (1, 28, 28), **chain)
        parts.append(samples.permute(0, 2, 3, 1).numpy())
    width = (PAD_TO - 28) // 2
    around = ((0, 0), (width, width), (width, width), (0, 0))
    return {
        "x": np.pad(np.concatenate(parts), around, constant_values=-1.0),
        "num_steps": num_steps,
        "steps_per_second": num_steps / seconds,
        "seconds_of_sampling": time.perf_counter() - begin,
        "num_parameters": sum(p.numel() for p in trained.energy.parameters()),
    }


def to_pixels(x: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] as uint8."""
    return np.asarray(data.unscale_images(x, -1.0, 1.0))


def judge(x: np.ndarray, real: RealImages) -> dict[str, Any]:
    """Distances and the classifier's figures of values in [-1, 1]."""
    found = real.quality(x)
    assert found.pixel is not None
    assert found.logits is not None
    assert found.samples is not None
    return {
        "frechet_distance_over_logits": found.logits.samples,
        "frechet_distance_over_pixels": found.pixel.samples,
        "median_confidence": found.samples.median_confidence,
        "class_share": found.samples.class_share,
    }


def kernel_distances(
    sets: dict[str, np.ndarray], reference: np.ndarray, weights: str
) -> dict[str, dict[str, Any]]:
    """KID, unbiased however few they are, of sets of uint8 images from the reference's."""
    extractor = inception_extractor(weights, 64)

    def features(images: np.ndarray) -> np.ndarray:
        parts = [images[first : first + 256] for first in range(0, len(images), 256)]
        return np.concatenate([extractor.extract(part)["features"] for part in parts])

    real, found = features(reference), {}
    for name, images in sets.items():
        print(f"Inception's features of {len(images):,} images: {name}", flush=True)
        size = min(1_000, len(images), len(real))
        distance = kernel_inception_distance(
            features(images), real, num_subsets=100, subset_size=size
        )
        found[name] = {
            "kernel_inception_distance": distance._asdict(),
            "num_images_of_it": len(images),
            "weights": dict(extractor.details),
        }
    return found


def check_asked(path: pathlib.Path, asked: dict[str, Any]) -> None:
    """Refuses to go on with other settings than the workdir was begun with; these are kept."""
    asked = json.loads(json.dumps(asked))
    if not path.exists():
        files.write_json(path, asked)
    elif (kept := json.loads(path.read_text())) != asked:
        raise SystemExit(f"--workdir: expected a new one, as {path.parent} was begun with {kept}")


def show(results: dict[str, dict[str, Any]]) -> None:
    head = ["", "steps", "steps/s", "samples/s", "KID", "Frechet distance over logits",
            "over pixels", "median confidence", "rarest class"]  # fmt: skip
    rows = []
    for name, found in results.items():
        speed = ["", "", ""]
        if "num_steps" in found:
            per_second = found["num_samples"] / found["seconds_of_sampling"]
            rate = f"{found['steps_per_second']:.2f}"
            speed = [f"{found['num_steps']:,}", rate, f"{per_second:.0f}"]
        kid = found.get("kernel_inception_distance")
        rows.append([
            name, *speed,
            "" if kid is None else f"{kid['mean']:.3f}",
            f"{found['frechet_distance_over_logits']:.2f}",
            f"{found['frechet_distance_over_pixels']:.2f}",
            f"{found['median_confidence']:.2f}",
            f"{min(found['class_share']):.1%}",
        ])  # fmt: skip
    print(table(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=17.0, help="of training steps, each")
    parser.add_argument("--workdir", default="runs/fashion_mnist_and_ebmkit")
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--weights", default="", help="of the FID Inception; '': no KID")
    parser.add_argument("--num_kid_images", type=int, default=2_000, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", default="{}", help="settings of ebmkit as JSON, over PEER")
    args = parser.parse_args()
    workdir = pathlib.Path(args.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    number = args.num_samples
    training, held_out = (
        data.load_dataset("fashion_mnist", split, pad_to=PAD_TO) for split in ("train", "test")
    )
    settings = {**PEER, **json.loads(args.peer)}
    asked = {"minutes": args.minutes, "num_samples": number, "seed": args.seed, "peer": settings}
    check_asked(workdir / "asked.json", asked)
    samples, results = {}, {}
    for name in (OURS, EBMKIT):
        kept, about = workdir / f"{name}.npy", workdir / f"{name}.json"
        if not about.exists():
            if name == OURS:
                made = ours(workdir / name, args.minutes, number, args.seed)
            else:
                images = data.load_dataset("fashion_mnist", "train").images
                made = ebmkit(images, args.minutes, number, settings, args.seed)
                made["settings"] = {**settings, "version": metadata.version("ebmkit")}
            np.save(kept, made.pop("x"))
            files.write_json(about, {**made, "num_samples": number})
        samples[name], results[name] = np.load(kept), json.loads(about.read_text())
    gaussian = fit_gaussian_images(training.images).draw(0, number, seed=args.seed)
    real = held_out.images[:number]
    samples[GAUSSIAN], samples[REAL] = (np.asarray(x / 127.5 - 1) for x in (gaussian, real))
    images = RealImages(training, held_out, -1.0, 1.0)
    for name, x in samples.items():
        results[name] = {**results.get(name, {}), **judge(x, images)}
    if args.weights:
        few = args.num_kid_images
        pixels = {name: to_pixels(x[:few]) for name, x in samples.items()}
        pixels[REAL] = training.images[:few]  # the reference is of the held-out ones
        for name, found in kernel_distances(pixels, held_out.images[:few], args.weights).items():
            results[name] |= found
    show(results)
    files.write_json(
        workdir / "fashion_mnist_and_ebmkit.json",
        {"measured_on": machine(), "minutes": args.minutes, "results": results},
    )
    grids = {
        name: image_grids.image_grid(to_pixels(x[:_SHOWN]))
        for name, x in samples.items()
        if name != GAUSSIAN
    }
    image_grids.save_image(workdir / "fashion_mnist_and_ebmkit.png", charts.grids_picture(grids))
    print(f"\n{workdir}/fashion_mnist_and_ebmkit.png and .json")


if __name__ == "__main__":
    main()
