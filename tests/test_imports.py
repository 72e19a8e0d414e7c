"""Imports go down: each room of the package imports from the rooms below it alone."""

import ast
import pathlib
import subprocess
import sys

import ebm_jax

ROOT = pathlib.Path(ebm_jax.__file__).parent

# From the ground up. A room may import those that stand before it; rooms of one line stand beside
# each other and do not know each other.
FLOORS = [
    ("settings", "energy", "samplers", "diffusion", "parallel"),
    ("io", "data", "processes"),
    ("networks",),
    ("methods", "convert"),
    ("training", "evaluation"),
    ("runs",),
    ("tasks", "models"),
    ("overview",),
    ("command_line",),
    ("main",),
    ("__main__",),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def rooms_imported(path: pathlib.Path) -> set[str]:
    """Rooms of the package that a file imports, those inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "ebm_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ebm_jax."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in names if name[0] == "ebm_jax" and len(name) > 1}
    return found


def files_by_room() -> dict[str, list[pathlib.Path]]:
    rooms: dict[str, list[pathlib.Path]] = {}
    for path in ROOT.rglob("*.py"):
        first = path.relative_to(ROOT).parts[0].removesuffix(".py")
        rooms.setdefault(first, []).append(path)
    rooms.pop("__init__")
    return rooms


def test_every_room_has_its_floor():
    assert set(files_by_room()) == set(FLOOR)


def test_imports_go_down():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for room, paths in files_by_room().items()
        for path in paths
        for other in rooms_imported(path) - {room}
        if FLOOR[other] >= FLOOR[room]
    ]
    assert not wrong


def test_no_room_below_the_runs_sees_a_config():
    wrong = [
        str(path.relative_to(ROOT))
        for room, paths in files_by_room().items()
        for path in paths
        if FLOOR[room] < FLOOR["runs"]
        and any(
            word in path.read_text(encoding="utf-8") for word in ("ml_collections", "import flags")
        )
    ]
    assert not wrong


def test_flags_are_of_the_command_line_alone():
    users = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if "import flags" in path.read_text(encoding="utf-8")
    }
    assert users == {"command_line.py"}


def test_no_file_of_utilities():
    assert not [path for path in ROOT.rglob("*.py") if "util" in path.name]


def test_energies_and_samplers_import_jax_and_numpy_alone():
    code = """
import sys
before = set(sys.modules)
from ebm_jax import energy, samplers
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(tops & {"flax", "optax", "ml_collections", "orbax", "sklearn", "matplotlib", "rich"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.split() == []
