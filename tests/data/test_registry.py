"""Names, options and directories, as `load_dataset` takes them."""

import os
import subprocess
import sys

import pytest

from ebm_jax.data import dataset_names, load_dataset
from ebm_jax.data.storage.paths import published


def test_unknown_name_gives_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_dataset("cifar-10")
    assert str(caught.value) == (
        "unknown data set 'cifar-10'; nearest is 'cifar10', known are " + ", ".join(dataset_names())
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"image_size": 16}, "digits has no option 'image_size'.* none$"),
        ("celeba", {"label": "shape"}, "celeba has no option 'label'.* it has image_size$"),
        ("dsprites", {"scale": 2.0}, "dsprites has no option 'scale'.* it has label$"),
        ("celeba", {"image_size": 0}, "image_size is 0; it must be at least 1$"),
        ("rings", {"pad_to": 8}, "rings has no images, so that pad_to does not apply$"),
        ("digits", {"pad_to": 4}, "8x8 cannot be padded to 4x4$"),
    ],
)
def test_options_that_do_not_apply(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, data_dir=tmp_path, **options)


def test_directory_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
    load_dataset("digits")
    assert (tmp_path / "from_environment" / "ebm_jax" / "digits").is_dir()
    load_dataset("digits", data_dir=tmp_path / "given")
    assert (tmp_path / "given" / "ebm_jax" / "digits").is_dir()


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot make the data directory [^\n]*TFDS_DATA_DIR$"):
        load_dataset("digits", data_dir=tmp_path / "file")


def test_directory_is_published_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "target"

    def interrupted():
        with published(target) as scratch:
            (scratch / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    with published(target) as scratch:
        (scratch / "file").write_text("mine")
        with published(target) as other:  # another process is quicker
            (other / "file").write_text("theirs")
    assert (target / "file").read_text() == "theirs"
    assert list(target.parent.iterdir()) == [target]


WITHOUT_TENSORFLOW = """
import sys
from ebm_jax import data
assert "tensorflow_datasets" not in sys.modules, "importing the package should be quick"
data.load_dataset("digits", data_dir=sys.argv[1])
for split in ("train", "test"):
    data.load_dataset("cifar10", split, data_dir=sys.argv[1])
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_never_imported(archives, tmp_path):
    """Not even where it is installed: here a package of that name that fails when imported."""
    archives.cifar10(per_batch=2)
    package = tmp_path / "site" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('tensorflow was imported')")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(archives.data_dir)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
