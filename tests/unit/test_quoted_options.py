"""Quotes in operators' files: around a value they go, within it they belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.options import to_dict, to_list
from ops.config import read


def written(tmp_path: Path, value: str) -> str:
    path = tmp_path / "some.conf"
    path.write_text(f"[s]\noption = {value}\n")
    return read(path)["s"]["option"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ('"around"', "around"),
        ("'it is'", "it is"),
        ('"role:admin or (service_roles:svc)"', "role:admin or (service_roles:svc)"),
        ('"a":"b"', '"a":"b"'),
        ('"a":"b","c":"d"', '"a":"b","c":"d"'),
        ("'a', 'b'", "'a', 'b'"),
        ("\"a\" , 'b'", "\"a\" , 'b'"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_quotes(tmp_path: Path, value: str, kept: str) -> None:
    assert written(tmp_path, value) == kept


def test_the_recipe_of_the_documentation(tmp_path: Path) -> None:
    value = written(tmp_path, '"property1":"value1","property2":"value2"')
    assert to_dict(value) == {"property1": "value1", "property2": "value2"}
    assert to_list(written(tmp_path, "'no_op', 'inject_image_metadata'")) == ["no_op", "inject_image_metadata"]
