"""Which tests come to which files of the package by their imports, and how soon."""

import ast
import collections
import functools
import pathlib

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
