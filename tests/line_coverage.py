"""Which tests run a line of the package, and how long they take: from one run of them all.

pip install -e '.[test,mutations]'
pytest --cov --cov-context=test --cov-report= --junitxml=tests.xml      # writes .coverage
"""

import ast
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence


class LineCoverage:
    """contexts: (file) -> {line: what ran it, as in 'tests/test_a.py::test_b|run'}."""

    def __init__(
        self,
        contexts: Callable[[str], Mapping[int, Sequence[str]]],
        seconds: Mapping[str, float],
    ):
        self._contexts, self._seconds = contexts, seconds

    @classmethod
    def read(cls, coverage: pathlib.Path, times: pathlib.Path) -> "LineCoverage":
        """From the files of that run. coverage: `.coverage`. times: JUnit's XML."""
        from coverage import CoverageData  # of the extra

        data, seconds = CoverageData(str(coverage)), {}
        data.read()
        for case in ET.parse(times).iter("testcase"):
            path = case.attrib["classname"].replace(".", "/") + ".py"
            seconds[f"{path}::{case.attrib['name']}"] = float(case.attrib["time"])
        return cls(data.contexts_by_lineno, seconds)

    def seconds(self, tests: list[str]) -> float:
        """That they took together."""
        return sum(self._seconds[test] for test in tests)

    def run_at_import(self, path: str, lines: range) -> bool:
        """Whether one of the lines ran where there was no test."""
        by_line = self._contexts(path)
        return any("" in by_line.get(line, ()) for line in lines)

    def tests_of(self, path: str, lines: range, seconds: float = 150) -> list[str]:
        """Tests that run one of the lines, the quickest first, of so many seconds in all.

        The first that takes longer than what is left is among them. Of a fixture that runs a line
        every test of its file is: another than the one that it was made for may look at it.
        """
        by_line = self._contexts(path)
        contexts = {name for line in lines for name in by_line.get(line, ()) if name}
        found, files = set(), set()
        for context in contexts:
            test, _, phase = context.rpartition("|")
            files |= {test.partition("::")[0]} if phase != "run" else set()
            found.add(test)
        found |= {test for test in self._seconds if test.partition("::")[0] in files}
        tests, left = [], seconds
        for test in sorted(found & self._seconds.keys(), key=lambda t: (self._seconds[t], t)):
            if left <= 0:
                break
            tests.append(test)
            left -= self._seconds[test]
        return tests


def lines_of(source: str, begin: int, end: int) -> range:
    """The lines of the statement around those of an expression; of `if`, `for`, the head alone."""
    found = range(begin, end + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            if node.lineno <= begin and end <= node.end_lineno:
                found = range(node.lineno, node.end_lineno + 1)
    return found
