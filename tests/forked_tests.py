"""Runs tests in forks of a process that has imported everything, with one function changed in each.

    with ForkedTests(tree, os.environ | {"PYTHONPATH": str(tree)}) as forked:
        forked.run("ebm_jax/energy.py", ["tests/test_energy.py"], timeout=60)

Nothing is imported again, which takes longer than most tests. The changed file lies in the tree;
a fork has only the code of its functions replaced. So this does for changes inside a function that
does not run while it is imported, and says `None` of others.
"""

import ast
import contextlib
import functools
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable
from typing import Any

import pytest

OPTIONS = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no")


class FirstFailure:
    """A plugin of pytest that keeps the first test, or file, that fails."""

    name = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid

    pytest_collectreport = pytest_runtest_logreport


class ForkedTests:
    """One process, of a tree, that forks for every run."""

    def __init__(self, tree: pathlib.Path, environment: dict[str, str]):
        self._server = subprocess.Popen(
            [sys.executable, __file__], cwd=tree, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, path: str, tests: list[str], timeout: float) -> str | None:
        """'passed', 'timed out' or '<test> failed'; None where a new process has to say it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([path, tests, timeout]) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def __enter__(self) -> "ForkedTests":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)


def outside_functions(source: str) -> str:
    """What runs as a file is imported: all but the bodies of its functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.dump(tree)


def codes_of(source: str, path: str) -> dict[tuple[str, int], types.CodeType]:
    """{(name in the file, which of those of that name): code} of all functions of a file."""
    found: dict[tuple[str, int], types.CodeType] = {}
    todo, seen = [compile(source, path, "exec", dont_inherit=True)], {}
    while todo:
        code = todo.pop()
        for inner in (c for c in code.co_consts if isinstance(c, types.CodeType)):
            number = seen.get(inner.co_qualname, 0)
            seen[inner.co_qualname] = number + 1
            found[inner.co_qualname, number] = inner
            todo.append(inner)
    return found


def replaced(functions: Iterable[types.FunctionType], before: str, after: str, path: str) -> bool:
    """Gives the functions of a file their code after a change; whether that is all of it."""
    if outside_functions(before) != outside_functions(after):
        return False
    old, new = codes_of(before, path), codes_of(after, path)
    if old.keys() != new.keys():
        return False
    names: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for name, code in old.items():
        names.setdefault((code.co_qualname, code.co_firstlineno), []).append(name)
    for function in functions:
        name, *others = names[function.__code__.co_qualname, function.__code__.co_firstlineno]
        if others or new[name].co_freevars != function.__code__.co_freevars:
            return False  # two in one line; or other variables than it holds
        function.__code__ = new[name]
    return True


def serve(tree: pathlib.Path) -> None:
    """Answers every line of stdin: [path, tests, timeout]."""
    sys.path[:1] = [str(tree), str(tree / "tests")]
    if (tree / "tests/conftest.py").exists():
        importlib.import_module("conftest")  # settings of JAX, before it is imported
    sources = {str(path): path.read_text() for path in tree.glob("ebm_jax/**/*.py")}
    package = importlib.import_module("ebm_jax")
    for module in pkgutil.walk_packages(package.__path__, "ebm_jax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    functions: dict[str, list[types.FunctionType]] = {}
    for value in gc.get_objects():
        if type(value) is types.FunctionType and value.__code__.co_filename in sources:
            functions.setdefault(value.__code__.co_filename, []).append(value)
    gc.freeze()

    def run(path: str, tests: list[str], folder: str) -> str | None:
        file = str(tree / path)
        after = pathlib.Path(file).read_text()
        if not replaced(functions.get(file, ()), sources[file], after, file):
            return None
        first = FirstFailure()
        code = pytest.main([*OPTIONS, f"--basetemp={folder}/base", *tests], plugins=[first])
        return "passed" if code == 0 else f"{first.name or tests[0]} failed"

    # Compiled once and kept: after it nothing is, as files change.
    in_fork(lambda folder: pytest.main([*OPTIONS, "--collect-only"]), timeout=600)
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    for line in sys.stdin:
        path, tests, timeout = json.loads(line)
        said = in_fork(functools.partial(run, path, tests), timeout)
        print(json.dumps(said), flush=True)


def in_fork(run: Callable[[str], Any], timeout: float) -> Any:
    """What `run` returns of a folder, in a fork; None where that ends otherwise."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        said = pathlib.Path(folder, "said")
        process = os.fork()
        if process == 0:
            os.setsid()
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            try:
                said.write_text(json.dumps(run(folder)))
            finally:
                os._exit(0)
        end = time.monotonic() + timeout
        try:
            while os.waitpid(process, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    os.killpg(process, signal.SIGKILL)
                    os.waitpid(process, 0)
                    return "timed out"
                time.sleep(0.01)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what tests have left
                os.killpg(process, signal.SIGKILL)
        return json.loads(said.read_text()) if said.exists() else None


if __name__ == "__main__":
    serve(pathlib.Path.cwd())
