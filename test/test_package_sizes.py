"""Files and functions are short enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("starry_ros", "launch") for path in (ROOT / room).rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def functions(source: str) -> list[tuple[str, int]]:
    """Name and length of every function."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1)
            for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def test_every_file_and_function_is_short() -> None:
    assert len(FILES) > 200
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) < MOST_LINES, path
        assert [item for item in functions(source) if item[1] >= MOST_FUNCTION_LINES] == [], path


@pytest.mark.parametrize("lines", [MOST_FUNCTION_LINES, 3])
def test_the_lines_of_a_function_are_counted_from_its_name_to_its_end(lines: int) -> None:
    source = "class A:\n    async def f(self):\n" + "        pass\n" * (lines - 1) + "x = 1\n"
    assert functions(source) == [("f", lines)]
