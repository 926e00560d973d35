"""A section of the results is replaced by the one measured last; the others stay as they are."""

from __future__ import annotations

from tests.bench.large import HEADING, with_section

BEFORE = f"# How fast\n\ntable\n\n{HEADING}7 images\n\nold\n\n## What else\n\nkept\n"
NEW = f"{HEADING}9 images\n\nnew\n"


def test_the_section_is_replaced_where_it_stands() -> None:
    assert with_section(BEFORE, NEW) == f"# How fast\n\ntable\n\n{NEW}\n## What else\n\nkept\n"


def test_the_last_section_is_replaced() -> None:
    assert with_section(f"# How fast\n\n{HEADING}7 images\n\nold\n", NEW) == f"# How fast\n\n{NEW}"


def test_a_first_section_comes_last() -> None:
    assert with_section("# How fast\n\ntable\n", NEW) == f"# How fast\n\ntable\n\n{NEW}"
    assert with_section("", NEW) == NEW
