"""The table of requirements: whole, and no mark names what is not in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.requirements import ANSWERS, REQUIREMENTS

TESTS = Path(__file__).parents[1]


def marked() -> Iterator[tuple[str, str]]:
    """File and id of every requirement that a mark names."""
    for path in TESTS.rglob("test_*.py"):
        if "mark.requirement" not in (source := path.read_text()):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requirement":
                for argument in node.args:
                    yield path.name, ast.literal_eval(argument)


def test_the_table_has_every_number() -> None:
    assert list(REQUIREMENTS) == [f"REQ-{number:03}" for number in range(1, 118)]
    assert set(ANSWERS) <= set(REQUIREMENTS)


def test_marks_name_requirements_that_exist() -> None:
    assert [(file, name) for file, name in marked() if name not in REQUIREMENTS] == []


def test_every_requirement_is_shown_or_answered() -> None:
    shown = {name for _, name in marked()}
    assert [name for name in REQUIREMENTS if name not in shown and name not in ANSWERS] == []
