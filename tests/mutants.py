"""Mutants: small changes of one expression each, of every file of the package or of a sample."""

import ast
import collections
import copy
import dataclasses
import fnmatch
import pathlib
import random
from collections.abc import Callable, Iterable, Iterator

_EQUIVALENT = "tests/mutations_equivalent.txt"


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
# taken from, how a loop is compiled, what NumPy does anyway.
_NO_VALUES = ("strict", "flush", "donate_argnums", "unroll", "allow_pickle")


def keyword(node: ast.AST) -> Iterator[ast.AST]:
    """A keyword argument is left out."""
    if isinstance(node, ast.Call):
        for i, argument in enumerate(node.keywords):
            if argument.arg is not None and argument.arg not in _NO_VALUES:
                yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


_SYMMETRIC = (
    "minimum", "maximum", "min", "max", "logaddexp", "isclose", "gcd",
    "hypot", "swapaxes", "broadcast_shapes",
    "distance", "frechet_distance", "frechet_per_step", "image_error",
)  # fmt: skip


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


# How a function is compiled, what is computed again, where an array lies.
_NO_VALUE_CALLS = (
    "jax.jit", "jax.checkpoint", "jax.device_put", "jax.block_until_ready",
    "parallel.spread", "parallel.everywhere",
)  # fmt: skip


def call(node: ast.AST) -> Iterator[ast.AST]:
    """A function of one argument is left out: f(x) becomes x."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        if ast.unparse(node.func) in _NO_VALUE_CALLS:
            return
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
            if ast.unparse(node.value.func) not in _NO_VALUE_CALLS:
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
        if isinstance(node, ast.keyword) and node.arg in _NO_VALUES:
            continue
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_params", "bases"):
                continue
            children = value if isinstance(value, list) else [value]
            for child in children:
                if not isinstance(child, ast.AST) or _is_declaration(child):
                    continue
                if not (_is_reshape(node) and ast.unparse(child) == "-1"):
                    todo.append(child)


def _is_reshape(node: ast.AST) -> bool:
    """Any negative size is the one that is left open."""
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("reshape")


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
