"""Data sets at their true sizes: what the first load, training and the modes take of them.

    python benchmarks/data_at_size.py                            # every set, one after another
    python benchmarks/data_at_size.py --sets=cifar10,celeba --scratch=/scratch
    python benchmarks/data_at_size.py --weights=inception.pt     # `fid_stats` with the real ones
    python benchmarks/data_at_size.py --small                    # few images, to try it out

The files are those that one downloads, in number, name and format; the pictures in them are not:
smooth noise, of which a few hundred are encoded and stand under all names in turn. LSUN's bedrooms
are a tenth of their number. Each command is a process of its own, with a small network; a set is
removed before the next one is written. `fid_stats` looks at ten images in a second on a core and
holds no more with the last than with the hundredth: it is ended after three minutes.

Memory is the highest seen: `anonymous` what a process allocated, `resident` with the pages of files
that it has mapped, which the system takes back when it needs them. A table on stdout, the same as
JSON in benchmarks/results/.
"""

import argparse
import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from measure import machine, table
from PIL import Image

from ebm_jax.data.sources import celeba, cifar10, lsun
from ebm_jax.data.storage import cifar
from ebm_jax.data.storage.paths import manual_dir
from ebm_jax.io import files

ROOT = pathlib.Path(__file__).parent.parent
NUM_ENCODED = 300  # pictures that are encoded, each under many names
_LOAD = "from ebm_jax.data import load_dataset; [load_dataset({!r}, s, data_dir={!r}) for s in {}]"


class Set(NamedTuple):
    """write: (data_dir, {split: examples}) -> bytes written. resolutions: of the network."""

    config: str
    name: str
    numbers: dict[str, int]
    write: Callable[[pathlib.Path, dict[str, int]], int]
    resolutions: int


def smooth_images(number: int, height: int, width: int) -> list[Image.Image]:
    """Smooth noise in color."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 8, 8, 3), np.uint8)
    return [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]


def encoded(number: int, height: int, width: int) -> list[bytes]:
    """The same as JPEG."""
    contents = []
    for image in smooth_images(number, height, width):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    return contents


def write_cifar10(data_dir: pathlib.Path, numbers: dict[str, int]) -> int:
    """The tar file of binary batches, accepted by the digest beside it."""
    images = np.stack([np.asarray(i) for i in smooth_images(NUM_ENCODED, 32, 32)])
    rng = np.random.default_rng(1)
    path = _made(manual_dir(data_dir, "cifar10")) / cifar10.ARCHIVE.filename
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for split, names in cifar10.BATCHES.items():
            for name in names:
                number = numbers[split] // len(names)
                rows = np.empty((number, 1 + cifar.ROW), np.uint8)
                rows[:, 0] = np.arange(number) % 10
                chosen = images[rng.integers(0, len(images), number)]
                rows[:, 1:] = chosen.transpose(0, 3, 1, 2).reshape(number, -1)
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = rows.nbytes
                tar.addfile(member, io.BytesIO(rows.tobytes()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    return path.stat().st_size


def write_celeba(data_dir: pathlib.Path, numbers: dict[str, int]) -> int:
    """The zip file of photographs, and the partition."""
    folder, contents = _made(manual_dir(data_dir, "celeba")), encoded(NUM_ENCODED, 218, 178)
    path, lines = folder / f"{celeba.IMAGES}.zip", []
    with zipfile.ZipFile(path, "w") as archive:
        for part, split in enumerate(celeba.SPLITS):
            for _ in range(numbers[split]):
                name = f"{len(lines) + 1:06d}.jpg"
                archive.writestr(f"{celeba.IMAGES}/{name}", contents[len(lines) % len(contents)])
                lines.append(f"{name} {part}\n")
    (folder / celeba.PARTITION).write_text("".join(lines))
    return path.stat().st_size


def lsun_writer(name: str) -> Callable[[pathlib.Path, dict[str, int]], int]:
    """Writes the LMDBs of a category, whose keys are 40 hexadecimal digits in order."""

    def write(data_dir: pathlib.Path, numbers: dict[str, int]) -> int:
        import lmdb

        contents, size = encoded(NUM_ENCODED, 256, 341), 0
        for split, number in numbers.items():
            folder = f"{lsun.CATEGORIES[name]}_{lsun.SPLITS[split]}_lmdb"
            path = _made(manual_dir(data_dir, "lsun") / folder)
            room = 2 * sum(map(len, contents)) * (number // len(contents) + 1) + 2**24
            with lmdb.open(str(path), map_size=room, sync=False) as environment:
                for first in range(0, number, 10_000):
                    with environment.begin(write=True) as transaction:
                        for i in range(first, min(first + 10_000, number)):
                            key = f"{i:040x}".encode()
                            transaction.put(key, contents[i % len(contents)], append=True)
            size += (path / "data.mdb").stat().st_size
        return size

    return write


SETS = {
    "cifar10": Set("cifar10", "cifar10", {"train": 50_000, "test": 10_000}, write_cifar10, 4),
    "celeba": Set(
        "celeba64", "celeba", {"train": 162_770, "validation": 19_867, "test": 19_962},
        write_celeba, 5,
    ),
    "church": Set(
        "lsun_church64", "lsun_church", {"train": 126_227, "validation": 300},
        lsun_writer("lsun_church"), 5,
    ),
    "bedroom_tenth": Set(
        "lsun_bedroom64", "lsun_bedroom", {"train": 303_304, "validation": 300},
        lsun_writer("lsun_bedroom"), 5,
    ),
}  # fmt: skip


class Measured(NamedTuple):
    """One process.

    refusal: what it said, where it could not do it; '' where it did.
    is_ended: whether it was ended before it was done.
    """

    seconds: float
    resident_bytes: int
    anonymous_bytes: int
    refusal: str
    is_ended: bool = False


def run(*arguments: str, at_most: float = float("inf")) -> Measured:
    """Runs Python with arguments to its end, or for so many seconds."""
    print(f"  {arguments[-1][:80]}", flush=True)
    begin, highest, ended = time.perf_counter(), [0], []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip

        def watch() -> None:
            while (found := _anonymous_bytes(process.pid)) is not None:
                highest[0] = max(highest[0], found)
                if time.perf_counter() - begin > at_most and not ended:
                    ended.append(True)
                    process.send_signal(signal.SIGTERM)
                time.sleep(0.05)

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    failed = process.returncode and not ended
    refusal = (said or ["ended without a word"])[-1] if failed else ""
    seconds = time.perf_counter() - begin
    return Measured(seconds, usage.ru_maxrss * 1024, highest[0], refusal, bool(ended))


def _anonymous_bytes(pid: int) -> int | None:
    """What a process has allocated now; None once it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("RssAnon:")]
    return int(found[0][1]) * 1024 if found else None  # a process that has ended has no memory


def measure(
    chosen: Set, scratch: pathlib.Path, *, batch_size: int, number: int, weights: str
) -> dict[str, Any]:
    """Seconds, memory and disk of each command on one set. number: of images, in the modes."""
    data_dir, workdir = scratch / "data", scratch / "run"
    begin = time.perf_counter()
    written = chosen.write(data_dir, chosen.numbers)
    seconds_to_write = time.perf_counter() - begin
    splits = [split for split in chosen.numbers if split in ("train", "test", "validation")]
    print(f"{chosen.name}: written in {seconds_to_write:.0f} s", flush=True)
    steps = {"first load": run("-c", _LOAD.format(chosen.name, str(data_dir), splits))}
    steps["later load"] = run("-c", _LOAD.format(chosen.name, str(data_dir), splits))
    flags = [
        "main.py", f"--config=configs/{chosen.config}.py", f"--workdir={workdir}",
        f"--config.data_dir={data_dir}", "--config.network.width=4",
        f"--config.network.multipliers={(1,) * chosen.resolutions}",
        "--config.network.num_blocks=1", "--config.method.num_steps=2",
        "--config.optimizer.schedule=constant", f"--config.training.batch_size={batch_size}",
        "--config.sampling.num_samples=16", "--config.sampling.batch_size=64",
        f"--config.neighbours.num_images={number}", "--config.neighbours.num_samples=16",
        f"--config.ood.num_images={number}", "--config.neighbours.max_levels=2",
        "--config.ood.max_levels=2", f"--config.fid.weights={weights}",
    ]  # fmt: skip
    steps["train, 20 steps"] = run(*flags, "--config.training.num_steps=20")
    steps["resume, 20 more"] = run(*flags, "--config.training.num_steps=40")
    for mode in ("fid_stats", "neighbours", "ood"):
        at_most = 180 if mode == "fid_stats" else float("inf")
        steps[mode] = run(
            *flags, "--config.training.num_steps=40", f"--mode={mode}", at_most=at_most
        )
    decoded = sum(f.stat().st_size for f in (data_dir / "ebm_jax").rglob("*.npy"))
    return {
        "examples": chosen.numbers,
        "archive_bytes": written,
        "decoded_bytes": decoded,
        "all_bytes": sum(f.stat().st_size for f in data_dir.rglob("*") if f.is_file()),
        "seconds_to_write": seconds_to_write,
        "commands": {name: found._asdict() for name, found in steps.items()},
    }


def rows(results: dict[str, Any]) -> list[list[str]]:
    """Lines of the table: set, command, seconds, MB allocated, MB resident."""
    lines = []
    for name, found in results.items():
        about = (
            f"{name} ({sum(found['examples'].values()):,}; {found['decoded_bytes'] / 1e9:.2f} GB)"
        )
        for command, one in found["commands"].items():
            seconds = f"{one['seconds']:.0f}{', ended' if one['is_ended'] else ''}"
            seconds = "refused" if one["refusal"] else seconds
            lines.append(
                [about, command, seconds, f"{one['anonymous_bytes'] / 1e6:.0f}",
                 f"{one['resident_bytes'] / 1e6:.0f}"]
            )  # fmt: skip
            about = ""
    return lines


HEAD = ["set (examples; decoded)", "command", "seconds", "anonymous, MB", "resident, MB"]


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--scratch", default=None, help="a folder with room; by default a new one")
    parser.add_argument("--weights", default="", help="of Inception, for fid_stats")
    parser.add_argument("--small", action="store_true", help="one in five hundred of the examples")
    parser.add_argument("--out", default="benchmarks/results/data_at_size.json")
    args = parser.parse_args()
    args.weights = args.weights and os.path.abspath(args.weights)
    if unknown := set(args.sets.split(",")) - SETS.keys():
        parser.error(
            f"--sets: expected some of {', '.join(SETS)}, got {', '.join(sorted(unknown))}"
        )
    return args


def small(chosen: Set) -> Set:
    """The same set with few examples."""
    return chosen._replace(
        numbers={s: max(n // 500 * 5 // 5, 20) for s, n in chosen.numbers.items()}
    )


def main() -> None:
    args, results = parse(), {}
    number = 10 if args.small else 1_000
    for name in args.sets.split(","):
        chosen = small(SETS[name]) if args.small else SETS[name]
        with tempfile.TemporaryDirectory(prefix=f"{name}_", dir=args.scratch) as scratch:
            results[name] = measure(
                chosen, pathlib.Path(scratch), batch_size=16, number=number, weights=args.weights
            )
        about = {"measured_with": machine(), "modes_images": number, "sets": results}
        files.write_json(args.out, about)  # a set is not lost with the next one
    print(table(HEAD, rows(results)))


if __name__ == "__main__":
    main()
