"""What a wheel holds is a list in pyproject.toml: no folder of ours may be missing from it."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_package_is_packed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = set(project["tool"]["setuptools"]["packages"])
    top = {name for name in packed if "." not in name}
    there = {
        ".".join(init.parent.relative_to(ROOT).parts) for name in top for init in (ROOT / name).rglob("__init__.py")
    }
    assert packed == there
