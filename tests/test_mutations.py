"""The mutation script itself: its operators, which tests it runs, and what it says of a mutant."""

import ast

import forked_tests
import import_graph
import line_coverage
import mutants
import mutations
import pytest

SOURCE = '''"""Docstring of 1 + 1."""

def f(x: int = 3, *, scale=2.0):
    """Of 2 < 3."""
    if x < 4 and not scale:
        raise ValueError(f"{x + 1}")
    g(x, scale, key=x)
    max(x, scale)
    zip(x, strict=True)
    x.reshape(-1)
    jax.block_until_ready(jax.jit(g, donate_argnums=0))
    spread(scale)
    é = settings.width + f.width + self.width
    return float(x + 2) if x else scale or é
'''
CHANGES = {
    ("comparison", "x < 4 -> (x <= 4)"),
    ("comparison", "x < 4 -> (x > 4)"),
    ("arithmetic", "x + 2 -> (x - 2)"),
    ("constant", "3 -> (4)"),
    ("constant", "2.0 -> (4.0)"),
    ("constant", "4 -> (5)"),
    ("constant", "2 -> (3)"),
    ("keyword", "g(x, scale, key=x) -> (g(x, scale))"),
    ("arguments", "g(x, scale, key=x) -> (g(scale, x, key=x))"),
    ("condition", "x < 4 and not scale -> (not (x < 4 and (not scale)))"),
    ("condition", "float(x + 2) if x else scale or é -> (float(x + 2) if not x else scale or é)"),
    ("logic", "x < 4 and not scale -> (x < 4 or not scale)"),
    ("logic", "scale or é -> (scale and é)"),
    ("logic", "scale or é -> (é)"),
    ("call", "float(x + 2) -> (x + 2)"),
    ("removed", "g(x, scale, key=x) -> pass"),
    ("removed", "max(x, scale) -> pass"),
    ("removed", "zip(x, strict=True) -> pass"),
    ("removed", "x.reshape(-1) -> pass"),
    ("call", "x.reshape(-1) -> (-1)"),
    ("removed", "spread(scale) -> pass"),  # any function of that name but parallel's
    ("call", "spread(scale) -> (scale)"),
    ("attribute", "settings.width -> (128)"),
    (
        "arithmetic",
        "settings.width + f.width + self.width -> (settings.width + f.width - self.width)",
    ),
    ("arithmetic", "settings.width + f.width -> (settings.width - f.width)"),
}


def test_operators():
    """All changes of a function, and nothing of messages, docstrings and annotations."""
    found = mutants.mutants_of("f.py", SOURCE, {"width": "128"})
    assert {(m.operator, m.change) for m in found} == CHANGES
    for mutant in found:
        ast.parse(mutant.source)
        assert len(mutant.source.splitlines()) == len(SOURCE.splitlines())


def test_mutants_of_the_package():
    """Thousands, all of which parse; a sample is of all operators, and the same for a seed."""
    found = mutants.all_mutants(mutations.TREE, "ebm_jax/t*")
    assert len(found) > 500
    sample = mutants.chosen(found, 30, seed=1)
    assert sample == mutants.chosen(found, 30, seed=1)
    assert sample != mutants.chosen(found, 30, seed=2)
    assert {m.operator for m in sample} == {*mutants.EXPRESSIONS, "removed", "attribute"}
    for mutant in sample:
        ast.parse(mutant.source)


def test_equivalent_mutants_are_of_the_package_and_have_a_reason(tmp_path):
    for path, _ in mutants.equivalent(mutations.TREE):
        assert (mutations.TREE / path).exists()
    (tmp_path / "tests").mkdir()
    (tmp_path / "ebm_jax").mkdir()
    (tmp_path / "ebm_jax/one.py").write_text("x = 1\n")
    assert len(mutants.all_mutants(tmp_path, "*")) == 1
    (tmp_path / "tests/mutations_equivalent.txt").write_text(
        "# why\nebm_jax/one.py | 1 -> (2) | nobody reads x\n"
    )
    assert mutants.all_mutants(tmp_path, "*") == []


def test_tests_that_see_a_file():
    imports = import_graph.Imports(mutations.TREE)
    ends = imports.tests_of("ebm_jax/tasks/likelihood/ends.py", 4)
    assert "tests/tasks/test_likelihood.py" in ends
    assert "tests/samplers/test_hmc.py" in imports.tests_of("ebm_jax/samplers/hmc.py", 2)[:2]
    assert "tests/test_cli.py" in imports.tests_of("ebm_jax/command_line.py")
    seen = imports.tests_of("ebm_jax/tasks/fid.py")
    assert f"{import_graph.EFFECTS}/test_fid_effects.py" in seen[:24]
    assert "tests/samplers/test_hmc.py" not in seen


def test_tests_that_run_a_line():
    """Quick ones first, of so many seconds; of a fixture that runs it all of its file."""
    seconds = {"a.py::slow": 9.0, "a.py::quick": 1.0, "b.py::one": 2.0, "b.py::two": 3.0}
    contexts = {
        4: ["a.py::slow|run", "a.py::quick|run"], 5: ["b.py::one|setup"], 6: [""],
        7: ["gone.py::one|run"],
    }  # fmt: skip
    covered = line_coverage.LineCoverage({"f.py": contexts}.__getitem__, seconds)
    assert covered.tests_of("f.py", range(4, 5)) == ["a.py::quick", "a.py::slow"]
    assert covered.tests_of("f.py", range(4, 5), seconds=1) == ["a.py::quick"]
    assert covered.tests_of("f.py", range(5, 6)) == ["b.py::one", "b.py::two"]
    assert covered.tests_of("f.py", range(6, 9)) == []
    assert covered.seconds(["a.py::slow", "b.py::one"]) == 11
    assert covered.run_at_import("f.py", range(5, 7))
    assert not covered.run_at_import("f.py", range(7, 9))


def test_lines_of_a_statement():
    source = "if a and (\n    b\n):\n    c = f(\n        d,\n    )\n"
    assert line_coverage.lines_of(source, 5, 5) == range(4, 7)
    assert line_coverage.lines_of(source, 1, 2) == range(1, 3)


@pytest.fixture
def small(tmp_path):
    """A tree of one module and its test."""
    (tmp_path / "ebm_jax").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "ebm_jax/one.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "tests/test_one.py").write_text(
        "from ebm_jax.one import twice\n\ndef test_twice():\n    assert twice(3) == 6\n"
    )
    return tmp_path


def test_a_fault_is_noticed_and_none_is_not(small):
    imports = import_graph.Imports(small)
    assert imports.tests_of("ebm_jax/one.py") == ["tests/test_one.py"]
    (doubled, *_) = (m for m in mutants.all_mutants(small, "*") if m.operator == "constant")
    batches = mutations.batches_of(doubled, imports, nearest=0, timeout=60, coverage=None)
    said = mutations.judge(doubled, small, batches)
    assert said == "tests/test_one.py::test_twice failed"
    assert mutations.judge(None, small, batches) == "survived"
    assert "return 2 * x" in (small / "ebm_jax/one.py").read_text()


CHANGED = """
def outer(x, y=1):
    def inner():
        return x + y
    return inner

kept = outer(3)

class A:
    def f(self):
        return 1
    def f(self):
        return 2

h = lambda x: 3
"""


def test_functions_get_the_code_of_a_change():
    """In place, wherever they are held; what runs at import is not for them."""

    def changed(old, new):
        """What functions of the changed file return; None where a function cannot be changed."""
        module = {"__name__": "made"}
        exec(compile(CHANGED, "made.py", "exec"), module)
        of_class, kept = module["A"], module["kept"]
        functions = [module["outer"], kept, of_class.__dict__["f"], module["h"]]
        after = CHANGED.replace(old, new)
        if forked_tests.replaced(functions, CHANGED, after, "made.py"):
            return kept(), of_class().f(), module["h"](0)
        return None

    assert changed("", "") == (4, 2, 3)
    assert changed("x + y", "(x -\n y)") == (2, 2, 3)  # lines below move
    assert changed("return 1", "return 5") == (4, 2, 3)  # replaced by the second f
    assert changed("return 2", "return 5") == (4, 5, 3)
    for old, new in (("y=1", "y=2"), ("x: 3", "x: 4"), ("class A", "class B")):
        assert changed(old, new) is None
    assert changed("x + y", "x") is None  # kept holds y, too


def test_forks_notice_what_processes_do(small):
    """The same said of a fault inside a function, of none, of a loop; of one at import nothing."""
    test = "tests/test_one.py::test_twice"
    file = small / "ebm_jax/one.py"
    whole = file.read_text()
    file.write_text(f"{whole}\nTHREE = 3\n")
    with forked_tests.ForkedTests(small, mutations.environment_of(small)) as forked:

        def said(old, new, timeout=60):
            file.write_text(f"{whole}\nTHREE = 3\n".replace(old, new))
            return forked.run("ebm_jax/one.py", [test], timeout)

        assert said("2 * x", "3 * x") == f"{test} failed"
        assert said("2 * x", "2 * x") == "passed"
        assert said("return 2 * x", "while True: pass", timeout=2) == "timed out"
        assert said("THREE = 3", "THREE = 4") is None
        assert said("return 2 * x", "import os; os._exit(0)") is None
        assert said("2 * x", "x + x") == "passed"


def test_a_loop_without_end_is_stopped(small):
    (small / "tests/test_one.py").write_text("while True:\n    pass\n")
    assert mutations.run_tests(small, ["tests/test_one.py"], timeout=2) == "timed out"


def test_a_copy_has_the_reference_values_beside_it(tmp_path):
    """Tests of published values are skipped where there are none."""
    tree = tmp_path / "here/tree"
    (tree / "ebm_jax").mkdir(parents=True)
    (tree / ".git").mkdir()
    (tmp_path / "there").mkdir()
    copied = mutations.copy_tree(tree, tmp_path / "there/0")
    assert [path.name for path in copied.iterdir()] == ["ebm_jax"]
    (tmp_path / "here/shared/reference").mkdir(parents=True)
    for name in ("1", "2"):
        mutations.copy_tree(tree, tmp_path / "there" / name)
    assert (tmp_path / "there/shared/reference").is_dir()
