"""Small faults put into the package, one at a time, and whether a test notices: mutation testing.

    python tests/mutations.py --number 150 --seed 0 --jobs 1 [--only 'ebm_jax/tasks/*']

Each mutant is one change of one expression in a copy of the tree. The tests that import its file,
nearest first, and those of field effects run on it until one fails. What survives is listed with
its line, as something that no test sees; changes that no test can see are in
`mutations_equivalent.txt`, with a reason. It takes hours; `--list` shows the mutants alone.
"""

import argparse
import ast
import collections
import concurrent.futures
import copy
import dataclasses
import fnmatch
import functools
import os
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

TREE = pathlib.Path(__file__).parents[1]
EFFECTS = "tests/runs/effects"  # they see every task, method and section
_METHODS = (
    "recovery_likelihood", "contrastive_divergence", "denoising_score_matching",
    "energy_discrepancy", "dual_score_matching",
)  # fmt: skip
_MODES = ("samples", "fid", "image", "energy", "likelihood", "long_run")
_SOME_MODES = ("class", "compose", "continual", "report", "rollout")  # of some models alone
_EFFECTS_OF = {
    "data": ("data",), "evaluation": (*_MODES, *_SOME_MODES), "methods": _METHODS,
    "networks": ("network",), "runs": ("training", "data", *_MODES),
    "tasks": (*_MODES, *_SOME_MODES), "training": ("training", "optimizer"),
}  # fmt: skip
_EQUIVALENT = "tests/mutations_equivalent.txt"
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", "*.egg-info")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: old and new are the text of an expression that begins at a line of a file."""

    path: str
    line: int
    operator: str
    old: str
    new: str
    file: bytes = dataclasses.field(repr=False)
    begin: int  # of the old text in it

    @property
    def source(self) -> str:
        """Of the whole file with the change."""
        after = self.begin + len(self.old.encode())
        return (self.file[: self.begin] + self.new.encode() + self.file[after:]).decode()

    @property
    def is_valid(self) -> bool:
        """Whether the file still parses."""
        try:
            ast.parse(self.source)
        except SyntaxError:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.operator}: {self.change}"

    @property
    def change(self) -> str:
        """In one line."""
        return f"{' '.join(self.old.split())} -> {' '.join(self.new.split())}"


# ------------------------------------------------------------------------------- operators

_COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip


def comparison(node: ast.AST) -> Iterator[ast.AST]:
    """a < b becomes a <= b and a > b."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _COMPARISONS.get(type(node.ops[0]), ()):
            yield _with(node, ops=[other()])


def arithmetic(node: ast.AST) -> Iterator[ast.AST]:
    """+ for -, * for /."""
    if isinstance(node, ast.BinOp) and (other := _ARITHMETIC.get(type(node.op))):
        if not any(_is_text(side) for side in (node.left, node.right)):
            yield _with(node, op=other())


def constant(node: ast.AST) -> Iterator[ast.AST]:
    """A whole number is one more, another twice as large."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        more = node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0
        yield _with(node, value=more)


# Keywords that change no value: of zip an assertion, when what is printed is seen, where memory is
# taken from, how a loop is compiled.
_NO_VALUES = ("strict", "flush", "donate_argnums", "unroll")


def keyword(node: ast.AST) -> Iterator[ast.AST]:
    """A keyword argument is left out."""
    if isinstance(node, ast.Call):
        for i, argument in enumerate(node.keywords):
            if argument.arg is not None and argument.arg not in _NO_VALUES:
                yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


_SYMMETRIC = ("minimum", "maximum", "min", "max", "logaddexp", "isclose", "gcd")


def arguments(node: ast.AST) -> Iterator[ast.AST]:
    """Two neighboring positional arguments are exchanged, where their order says something."""
    if isinstance(node, ast.Call) and not any(isinstance(a, ast.Starred) for a in node.args):
        if ast.unparse(node.func).rpartition(".")[2] in _SYMMETRIC:
            return
        for i in range(len(node.args) - 1):
            first, second = node.args[i : i + 2]
            if ast.dump(first) != ast.dump(second):
                swapped = [*node.args[:i], second, first, *node.args[i + 2 :]]
                yield _with(node, args=swapped)


def condition(node: ast.AST) -> Iterator[ast.AST]:
    """A condition is negated."""
    if isinstance(node, ast.IfExp):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def logic(node: ast.AST) -> Iterator[ast.AST]:
    """`and` for `or`; an operand of `or` alone, as where 0 stands for a default."""
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        if isinstance(node.op, ast.Or):
            yield copy.deepcopy(node.values[-1])


def call(node: ast.AST) -> Iterator[ast.AST]:
    """A function of one argument is left out: f(x) becomes x."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        if not isinstance(node.args[0], (ast.Starred, ast.GeneratorExp)):
            yield copy.deepcopy(node.args[0])


def attribute(node: ast.AST, defaults: dict[str, str], own: set[str]) -> Iterator[ast.AST]:
    """A setting is replaced by its default; of `self` those that the file declares."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in defaults:
        owner = ast.unparse(node.value).rpartition(".")[2]
        if owner in _SECTIONS or (owner == "self" and node.attr in own):
            yield ast.parse(defaults[node.attr], mode="eval").body


_SECTIONS = ("settings", "sampler", "sampling", "training", "general", "data", "described", "s")

EXPRESSIONS: dict[str, Callable[..., Iterator[ast.AST]]] = {
    f.__name__: f
    for f in (comparison, arithmetic, constant, keyword, arguments, condition, logic, call)
}


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def mutants_of(path: str, source: str, defaults: dict[str, str]) -> list[Mutant]:
    """Every mutant of a file; nearly all parse.

    Messages of errors, docstrings, annotations and declarations of settings stay as they are.
    """
    tree, found = ast.parse(source), []
    own = set(setting_defaults([source]))
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    encoded = source.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def add(operator: str, node: ast.AST, new: str) -> None:
        begin, end = place(node)
        old = encoded[begin:end].decode()
        found.append(Mutant(path, node.lineno, operator, old, new, encoded, begin))

    for node in _visible(tree):
        if isinstance(node, (ast.If, ast.While)):
            add("condition", node.test, f"(not ({ast.unparse(node.test)}))")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            add("removed", node, "pass")
        for operator, mutate in EXPRESSIONS.items():
            for new in mutate(node):
                add(operator, node, f"({ast.unparse(new)})")
        for new in attribute(node, defaults, own):
            add("attribute", node, f"({ast.unparse(new)})")
    return found


def _visible(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose changes something could see."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            continue
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params", "bases"):
                continue
            children = value if isinstance(value, list) else [value]
            for child in children:
                if isinstance(child, ast.AST) and not _is_declaration(child):
                    todo.append(child)


def _is_declaration(node: ast.AST) -> bool:
    named = isinstance(node, ast.Call) and getattr(node.func, "id", "")
    return named in ("setting", "TypeVar")


def setting_defaults(sources: Iterable[str]) -> dict[str, str]:
    """{name of a setting: its default as source}; names with several defaults are left out."""
    found = collections.defaultdict(set)
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
                if getattr(node.value.func, "id", "") == "setting":
                    found[node.target.id].add(ast.unparse(node.value.args[0]))
    return {
        name: values.copy().pop()
        for name, values in found.items()
        if len(values) == 1 and _is_literal(*values)
    }


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except ValueError:
        return False
    return True


# ----------------------------------------------------------------------- which tests see it


class Imports:
    """The import graph of a tree: which test files come to which modules, and how soon."""

    def __init__(self, tree: pathlib.Path):
        self.tree = tree
        folders = [folder for folder in ("ebm_jax", "configs", "tests") if (tree / folder).is_dir()]
        files = [file for folder in folders for file in sorted((tree / folder).rglob("*.py"))]
        files += [file for file in (tree / "main.py",) if file.exists()]
        self.files = [str(file.relative_to(tree)) for file in files]
        self.by_name = {self._name(path): path for path in self.files}
        self.imports = {path: self._imported(path) for path in self.files}

    def _name(self, path: str) -> str:
        """As it is imported; test modules go by their last name."""
        parts = pathlib.Path(path).with_suffix("").parts
        if parts[0] == "tests":
            return parts[-1]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imported(self, path: str) -> set[str]:
        text = (self.tree / path).read_text()
        found = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            found |= {self.by_name[name] for name in names if name in self.by_name}
        if path == "ebm_jax/tasks/__init__.py":  # which loads its modules by name
            found |= {p for p in self.files if p.startswith("ebm_jax/tasks/")}
        if "main.py" in text and path.startswith("tests/"):  # in a process of its own
            found |= {p for p in ("main.py",) if p in self.files}
        return found

    @functools.cache  # noqa: B019
    def _distances(self, test: str) -> dict[str, int]:
        found, todo = {test: 0}, collections.deque([test])
        while todo:
            path = todo.popleft()
            for other in sorted(self.imports[path]):
                if other not in found:
                    found[other] = found[path] + 1
                    todo.append(other)
        return found

    def tests_of(self, path: str, nearest: int = 0) -> list[str]:
        """Test files that import a file, the nearest first; those of effects among the first.

        nearest: at most so many, and of those of effects the ones of the file's room; 0: all.
        """
        stem = pathlib.Path(path).stem.lstrip("_")
        tests = [p for p in self.files if pathlib.Path(p).name.startswith("test_")]
        seen = [(self._distances(test).get(path), test) for test in tests]
        ranked = sorted(
            (distance - 2 * (stem in pathlib.Path(test).stem), test)
            for distance, test in seen
            if distance is not None and not test.startswith(EFFECTS)
        )
        near = [test for _, test in ranked]
        effects = [test for distance, test in seen if distance and test.startswith(EFFECTS)]
        if nearest:
            room = pathlib.Path(path).parts[1]
            near, here = near[:nearest], _EFFECTS_OF.get(room, ())
            effects = [f"{EFFECTS}/test_{name}_effects.py" for name in here]
            effects = [test for test in effects if test in self.files]
        return [*near[:3], *effects, *near[3:]]


# ------------------------------------------------------------------------------- judgement


def copy_tree(tree: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """A copy of a tree without its history and caches."""
    return shutil.copytree(tree, to, ignore=_NOT_COPIED)


def run_tests(tree: pathlib.Path, tests: list[str], timeout: float) -> str:
    """'passed', or the first test that fails and 'failed', or 'timed out'."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(tempfile.gettempdir()) / "mutations_xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
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


def judge(mutant: Mutant | None, tree: pathlib.Path, tests: list[str], timeout: float) -> str:
    """What tests say of a mutant, the nearest files first, in a copy that is left as it was.

    Returns:
      'survived', or what `run_tests` says.
    """
    if mutant is not None:
        before = (tree / mutant.path).read_text()
        (tree / mutant.path).write_text(mutant.source)
    try:
        for some in (tests[:3], tests[3:9], tests[9:]):
            outcome = run_tests(tree, some, timeout * len(some)) if some else "passed"
            if outcome != "passed":
                return outcome
        return "survived"
    finally:
        if mutant is not None:
            (tree / mutant.path).write_text(before)


def chosen(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """So many of them, of all operators alike, the same for a seed."""
    rng, pools = random.Random(seed), collections.defaultdict(list)
    for mutant in mutants:
        pools[mutant.operator].append(mutant)
    for operator in sorted(pools):
        rng.shuffle(pools[operator])
    picked: list[Mutant] = []
    while len(picked) < number and any(pools.values()):
        for operator in sorted(pools):
            if pools[operator] and (mutant := pools[operator].pop()).is_valid:
                picked.append(mutant)
    return picked[:number]


def equivalent(tree: pathlib.Path) -> set[tuple[str, str]]:
    """(path, change) of the mutants that no test can tell from the package."""
    file = tree / _EQUIVALENT
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return {(path, change) for path, change, _ in rows}


def all_mutants(tree: pathlib.Path, only: str) -> list[Mutant]:
    """Of every file of the package that matches, but for those that are equivalent."""
    sources = {
        str(file.relative_to(tree)): file.read_text()
        for file in sorted((tree / "ebm_jax").rglob("*.py"))
    }
    defaults, same = setting_defaults(sources.values()), equivalent(tree)
    mutants = []
    for path, source in sources.items():
        if fnmatch.fnmatch(path, only):
            mutants += mutants_of(path, source, defaults)
    return [m for m in mutants if (m.path, m.change) not in same]


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
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    picked = chosen(all_mutants(TREE, options.only), options.number, options.seed)
    if options.list:
        print(*picked, sep="\n")
        return 0
    imports, begin = Imports(TREE), time.monotonic()
    judged: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutations_") as folder:
        trees: queue.SimpleQueue = queue.SimpleQueue()
        for i in range(options.jobs):
            trees.put(copy_tree(TREE, pathlib.Path(folder) / str(i)))
        passing: dict[str, bool] = {}

        def one(mutant: Mutant) -> None:
            if time.monotonic() - begin > options.seconds:
                return
            tree = trees.get()
            try:
                tests = imports.tests_of(mutant.path, options.nearest)
                said = judge(mutant, tree, tests, options.timeout)
                test = said.removesuffix(" failed")
                if said.endswith(" failed"):  # does it pass without?
                    if test not in passing:
                        passing[test] = run_tests(tree, [test], options.timeout) == "passed"
                    if not passing[test]:
                        said = f"unknown: {test} does not pass on the package itself"
                judged[mutant] = said
                print(f"{said}: {mutant}", flush=True)
            finally:
                trees.put(tree)

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
