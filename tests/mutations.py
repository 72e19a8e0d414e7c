"""Small faults put into the package, one at a time, and whether a test notices: mutation testing.

    python tests/mutations.py --number 150 --seed 0 --jobs 1 [--only 'ebm_jax/tasks/*']

Each mutant is one change of one expression in a copy of the tree. The tests that import its file,
nearest first, and those of field effects run on it until one fails. What survives is listed with
its line, as something that no test sees; changes that no test can see are in
`mutations_equivalent.txt`, with a reason. It takes hours; `--list` shows the mutants alone.

With `--coverage=.coverage --times=tests.xml --nearest=3`, which `line_coverage.py` says how to
make, the tests that run the changed line come first, in forks of a process that has imported all
(`forked_tests.py`): 150 take about a quarter of an hour on two cores.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from forked_tests import ForkedTests
from import_graph import Imports
from line_coverage import LineCoverage, lines_of
from mutants import Mutant, all_mutants, chosen

TREE = pathlib.Path(__file__).parents[1]
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", "*.egg-info")


def copy_tree(tree: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """A copy of a tree without its history and caches, beside what lies beside the tree."""
    if (reference := tree.parent / "shared").exists() and not (to.parent / "shared").exists():
        (to.parent / "shared").symlink_to(reference.resolve())
    return shutil.copytree(tree, to, ignore=_NOT_COPIED)


def environment_of(tree: pathlib.Path) -> dict[str, str]:
    """Of a process that runs tests of a tree."""
    return {
        **os.environ,
        "PYTHONPATH": str(tree),
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(tempfile.gettempdir()) / "mutations_xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run_tests(tree: pathlib.Path, tests: list[str], timeout: float) -> str:
    """'passed', or the first test that fails and 'failed', or 'timed out'; in a new process."""
    environment = environment_of(tree) | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "-rfE", "--tb=no", *tests], cwd=tree, env=environment,
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            if process.wait(timeout) == 0:
                return "passed"
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        said.seek(0)
        failed = re.findall(
            r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said.read().decode(), re.MULTILINE
        )
    return f"{failed[0] if failed else tests[0]} failed"


class Batch(NamedTuple):
    """Tests that one process runs. timeout: of it, in seconds."""

    tests: list[str]
    timeout: float


def lines(mutant: Mutant) -> range:
    """Of the statement that is changed."""
    last = mutant.line + mutant.old.count("\n")
    return lines_of(mutant.file.decode(), mutant.line, last)


QUICK = 12  # tests that run a line and are asked first


def batches_of(
    mutant: Mutant, imports: Imports, nearest: int, timeout: float, coverage: LineCoverage | None
) -> list[Batch]:
    """The tests of a mutant, those first that are soonest to notice it.

    timeout: of a file.
    """
    files = imports.tests_of(mutant.path, nearest)
    by_file = [Batch(some, timeout * len(some)) for some in (files[:3], files[3:9], files[9:])]
    if coverage is None:
        return by_file
    tests = coverage.tests_of(mutant.path, lines(mutant))
    if not tests and nearest:  # it runs as its file is imported, for every test
        return batches_of(mutant, imports, 4 * nearest, timeout, None)
    by_line = [  # of one file together: they share what it sets up
        Batch(sorted(some), 120 + 5 * coverage.seconds(some))
        for some in (tests[:QUICK], tests[QUICK:])
    ]
    return by_line + by_file


def judge(
    mutant: Mutant | None,
    tree: pathlib.Path,
    batches: list[Batch],
    forked: ForkedTests | None = None,
) -> str:
    """What tests say of a mutant, batch after batch, in a copy that is left as it was.

    forked: where tests run that need no new process.

    Returns:
      'survived', or what `run_tests` says.
    """
    if mutant is not None:
        before = (tree / mutant.path).read_text()
        (tree / mutant.path).write_text(mutant.source)
    try:
        for tests, timeout in batches:
            if not tests:
                continue
            outcome = forked.run(mutant.path, tests, timeout) if forked and mutant else None
            outcome = outcome or run_tests(tree, tests, timeout)
            if outcome != "passed":
                return outcome
        return "survived"
    finally:
        if mutant is not None:
            (tree / mutant.path).write_text(before)


def main(arguments: list[str]) -> int:
    """Judges a sample of mutants; returns 1 where more than a twentieth survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="*", help="files, such as 'ebm_jax/tasks/*'")
    parser.add_argument("--nearest", type=int, default=0, help="test files; 0: all that import it")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for a test file")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin none after")
    parser.add_argument("--coverage", type=pathlib.Path, help="of each test, see line_coverage.py")
    parser.add_argument("--times", type=pathlib.Path, default="tests.xml", help="of the same run")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    picked = chosen(all_mutants(TREE, options.only), options.number, options.seed)
    if options.list:
        print(*picked, sep="\n")
        return 0
    imports, begin = Imports(TREE), time.monotonic()
    coverage = LineCoverage.read(options.coverage, options.times) if options.coverage else None
    judged: dict[Mutant, str] = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutations_"))
        trees: queue.SimpleQueue = queue.SimpleQueue()
        for i in range(options.jobs):
            tree, forked = copy_tree(TREE, pathlib.Path(folder) / str(i)), None
            if coverage is not None:
                forked = stack.enter_context(ForkedTests(tree, environment_of(tree)))
            trees.put((tree, forked))
        passing: dict[str, bool] = {}

        def one(mutant: Mutant) -> None:
            if time.monotonic() - begin > options.seconds:
                return
            tree, forked = trees.get()
            try:
                batches = batches_of(mutant, imports, options.nearest, options.timeout, coverage)
                at_import = coverage is None or coverage.run_at_import(mutant.path, lines(mutant))
                said = judge(mutant, tree, batches, None if at_import else forked)
                test = said.removesuffix(" failed")
                if said.endswith(" failed"):  # does it pass without?
                    if test not in passing:
                        passing[test] = run_tests(tree, [test], options.timeout) == "passed"
                    if not passing[test]:
                        said = f"unknown: {test} does not pass on the package itself"
                judged[mutant] = said
                print(f"{said}: {mutant}", flush=True)
            finally:
                trees.put((tree, forked))

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, picked))
    survivors = [m for m, said in judged.items() if said == "survived"]
    known = sum(not said.startswith("unknown") for said in judged.values())
    rate = len(survivors) / max(known, 1)
    print(f"\n{len(survivors)} of {known} mutants survived ({rate:.1%})")
    print(*survivors, sep="\n")
    return int(rate > 0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
