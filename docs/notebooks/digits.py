# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Digits, end to end
#
# An energy-based model of handwritten digits (UCI, 8 x 8, carried by scikit-learn) through the
# command line: train, look at samples, evaluate, fill in hidden pixels. A cell `run(...)` is the
# command that it prints.
#
# `NUM_STEPS` is small, so that all of this ends in a few minutes on two CPU cores: digits are
# recognizable, not good. The config's own number, 4,500, gives those of the README.

# %%
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

NUM_STEPS = 500  # of training; 4,500 is the config's
WORKDIR = pathlib.Path(tempfile.mkdtemp()) / "digits"  # or a folder that is kept


def run(*flags):
    """`ebm-jax --config=digits --workdir=... <flags>`; shows what it printed last."""
    arguments = ["--config=digits", f"--workdir={WORKDIR}", *flags]
    print("ebm-jax", *arguments)
    began = time.monotonic()
    command = [sys.executable, "-m", "ebm_jax", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    print(*done.stdout.splitlines()[-16:], f"[{time.monotonic() - began:.0f} s]", sep="\n")


def show(path):
    return Image.open(WORKDIR / path)


# %% [markdown]
# ## Train
#
# Recovery likelihood with two noise levels. Any field of the config can be overridden; the run is
# in its workdir, and the same command goes on where it stopped.

# %%
train_flags = [f"--config.training.num_steps={NUM_STEPS}", "--config.optimizer.warmup_steps=50"]
run(*train_flags)

# %%
print(*sorted(str(path.relative_to(WORKDIR)) for path in WORKDIR.iterdir()), sep="\n")

# %% [markdown]
# `metrics.jsonl` has what was logged, one JSON object a line:

# %%
logged = [json.loads(line) for line in (WORKDIR / "metrics.jsonl").read_text().splitlines()]
print(len(logged), "rows; the last:", {k: v for k, v in list(logged[-1].items())[:8]})

# %% [markdown]
# ## Samples
#
# From noise, by the chains that the model was trained with, beside real digits. `samples.npz` has
# them as numbers, in model units, $[-1, 1]$ from black to white.

# %%
run(*train_flags, "--mode=sample", "--config.sampling.num_samples=64")
samples = np.load(WORKDIR / "sample" / "samples.npz")["x"]
print(samples.shape, samples.dtype)
assert samples.shape == (64, 8, 8, 1)
assert np.isfinite(samples).all()

# %% tags=["picture"]
show("sample/samples.png")

# %% [markdown]
# ## How good are they?
#
# The Fréchet distance compares means and covariances of two sets of images, and a classifier that
# was trained on real digits says how sure it is of the samples and how often it sees each class.
# Beside each number stands that of real digits that were held out.

# %%
run(*train_flags, "--mode=evaluate", "--config.evaluate.num_samples=896")
evaluation = json.loads((WORKDIR / "evaluate" / "evaluation.json").read_text())
distance = evaluation["frechet_distance_to_training"]["over_pixels"]
classified = evaluation["classifier"]["samples"]
assert distance["floor"] < distance["samples"] < 4  # of real digits, and of these
assert classified["median_confidence"] > 0.4  # by chance: 0.1
assert min(classified["class_share"]) > 0.01  # no class is missing

# %%
show("evaluate/evaluation.png")

# %% [markdown]
# ## Hidden pixels
#
# An energy of whole images is, up to a constant, also that of some pixels given the others: the
# seen pixels are held, and chains sample the hidden ones. Several draws show what the model takes
# to be open.

# %%
run(*train_flags, "--mode=inpaint", "--config.inpaint.num_images=4")
inpainted = json.loads((WORKDIR / "inpaint" / "inpaint.json").read_text())
errors = inpainted["error_on_hidden_pixels"]
assert inpainted["standard_deviation_of_samples"] > 0.05  # draws differ
assert errors["mean of 4 samples"]["rmse"] < errors["one sample"]["rmse"] < 0.6

# %%
show("inpaint/inpaint.png")

# %% [markdown]
# ## In Python
#
# A workdir is a trained model. `energies` are those of its lowest noise level: real digits that
# were held out have lower ones than the same digits turned upside down, or with their pixels in
# another order.

# %%
import jax  # noqa: E402

from ebm_jax.runs.trained import load_other  # noqa: E402

trained = load_other(WORKDIR)
digits = trained.run.scale(trained.run.held_out().images[:500])
order = np.random.default_rng(0).permutation(64)
others = {
    "held-out digits": digits,
    "upside down": digits[:, ::-1],
    "pixels in another order": digits.reshape(-1, 64)[:, order].reshape(digits.shape),
}
energies = {name: trained.energies(jax.random.key(0), 0, x) for name, x in others.items()}
for name, found in energies.items():
    low, middle, high = np.quantile(found, [0.25, 0.5, 0.75])
    print(f"{name}: median energy {middle:.0f}, quartiles {low:.0f} and {high:.0f}")
of_digits, upside_down, shuffled = map(np.median, energies.values())
assert of_digits < upside_down < shuffled

# %% [markdown]
# More modes (`--help` lists them) measure likelihoods, out-of-distribution detection, long
# chains, memorization and others; see `docs/trained_models.md`.
