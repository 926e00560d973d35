"""An operator's `schema-image.json`: read whole, or refused with what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from handlers import schemas
from handlers.image_schema import ImageSchema
from handlers.locations import RegisteredBody
from kernel.errors import ConfigError, Invalid
from kernel.settings import Settings


def of(directory: Path, document: Any) -> ImageSchema:
    raw = document if isinstance(document, bytes) else orjson.dumps(document)
    (directory / "schema-image.json").write_bytes(raw)
    return ImageSchema.of(Settings(config_dirs=(directory / "empty", directory)))


def test_without_a_file_it_is_what_most_sites_have(tmp_path: Path) -> None:
    schema = ImageSchema.of(Settings(config_dirs=(tmp_path,)))
    assert "kernel_id" in schema.described
    assert len(schema.described) == 9


@pytest.mark.parametrize(
    "document",
    [{"x": {"type": "string"}}, {"properties": {"x": {"type": "string"}}}, {"x": {"type": "string", "is_base": True}}],
)
def test_both_forms(tmp_path: Path, document: Any) -> None:
    schema = of(tmp_path, document)
    assert schema.described == {"x"}
    assert schema.document["properties"]["x"]["is_base"] is False
    assert "required" not in schema.document


def test_an_empty_file_describes_nothing(tmp_path: Path) -> None:
    schema = of(tmp_path, {})
    assert schema.described == set()
    assert schema.value("kernel_id", "anything") == "anything"


def test_an_attribute_may_be_repeated_as_it_is(tmp_path: Path) -> None:
    base = ImageSchema.of(Settings()).document["properties"]["name"]
    schema = of(tmp_path, {"name": base, "x": {}})
    assert schema.described == {"x"}
    assert "is_base" not in schema.document["properties"]["name"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        ([], "object of property definitions"),
        ({"x": "string"}, "x: a definition is an object"),
        ({"properties": {"x": 5}}, "x: a definition is an object"),
        ({"name": {"type": "string"}}, "name: an attribute"),
        ({"locations": {}}, "locations: an attribute"),
        ({"x": {"type": "strange"}}, "x: "),
        ({"x": {"pattern": "("}}, "x: "),
        ({"x": {"maxLength": "5"}}, "x: "),
        ({"x": {"type": "integer"}}, "x: custom properties are strings"),
        ({"x": {"type": ["null", "boolean"]}}, "x: custom properties are strings"),
        ({"x": {"anyOf": [{"$ref": "http://127.0.0.1/x"}]}}, "x: references"),
        ({"properties": {"x": {}}, "required": "x"}, "required"),
        ({"properties": {"x": {}}, "required": [5]}, "required"),
    ],
    ids=repr,
)
def test_what_is_faulty_refuses_the_start(tmp_path: Path, document: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, document)
    assert "schema-image.json" in str(caught.value)
    assert reason in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "schema-image.json").mkdir()
    assert "kernel_id" in ImageSchema.of(Settings(config_dirs=(tmp_path,))).described


def test_long_values_are_not_echoed_whole(tmp_path: Path) -> None:
    schema = of(tmp_path, {"x": {"maxLength": 3}})
    with pytest.raises(Invalid) as caught:
        schema.value("x", "y" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"tags": [1] * 9}, "tags.0: "),
        ({"locations": [1] * 9}, "locations.0: "),
        ({f"m{number}": 1 for number in range(9)}, "m0: "),
        ({"kernel_id": 1, "ramdisk_id": 1}, "kernel_id: "),
    ],
)
def test_of_many_faults_one_is_looked_for(document: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for a million in a body, and each takes its time to be described."""
    monkeypatch.setattr(schemas, "describe", only_one)
    with pytest.raises(Invalid, match=f"^{told}"):
        ImageSchema.of(Settings()).create(document)


def test_of_many_strangers_one_is_named() -> None:
    with pytest.raises(Invalid, match=r"^m0: "):
        schemas.validated(RegisteredBody, {f"m{number}": 1 for number in range(9)})


def only_one(error: ValidationError) -> str:
    assert error.error_count() == 1
    return describe(error)


describe = schemas.describe
