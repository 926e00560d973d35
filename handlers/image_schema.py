"""What an image may hold at this site: the attributes of the API, and what the operator adds to them.

One value both publishes the schema and enforces it, so that the two agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry

from handlers import schema_documents as documents
from handlers.schema_documents import Schema
from handlers.schemas import ImageBody, formats_allowed, validated
from kernel.errors import ConfigError, Invalid
from kernel.settings import ImageFormat, Settings

FILE: Final = "schema-image.json"

_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


class ImageSchema:
    """The schema of this site's images."""

    def __init__(self, formats: ImageFormat, properties: Mapping[str, Schema], required: Sequence[str] = ()) -> None:
        self._formats = formats.allowed
        self.document = documents.image(self._formats, properties, required)
        self.described = frozenset(properties)
        """Custom properties that have a definition of their own; only they can be null."""
        self._required = tuple(required)
        self._validators = {
            name: Draft202012Validator(definition, registry=Registry()) for name, definition in properties.items()
        }

    @classmethod
    def of(cls, settings: Settings) -> ImageSchema:
        """With the operator's file, or what most sites add; `ConfigError` if the file is faulty.  Blocking."""
        for place in settings.config_dirs:
            path = place / FILE
            if path.is_file():
                return cls(settings.image_format, *_read(path, settings.image_format))
        return cls(settings.image_format, documents.USUAL)

    def create(self, document: Mapping[str, Any]) -> tuple[ImageBody, dict[str, str | None]]:
        """A create body as attributes and custom properties; `Invalid` naming what is wrong."""
        missing = [name for name in self._required if name not in document]
        if missing:
            raise Invalid(f"{missing[0]} is required at this site")
        body = validated(ImageBody, {name: document[name] for name in ImageBody.model_fields if name in document})
        formats_allowed(body, self._formats)
        properties = {name: value for name, value in document.items() if name not in ImageBody.model_fields}
        for name, value in properties.items():
            self._conforms(name, value)
        return body, properties

    def value(self, name: str, value: Any) -> Any:
        """One attribute or custom property as an image will hold it; `Invalid` if it may not hold that."""
        if name not in ImageBody.model_fields:
            self._conforms(name, value)
            return value
        body = validated(ImageBody, {name: value})
        formats_allowed(body, self._formats)
        return getattr(body, name)

    def _conforms(self, name: str, value: Any) -> None:
        """Look at one custom property; one after the other, for a model would find millions of faults to tell one."""
        described = name in self.described
        if not isinstance(value, str) and not (value is None and described):
            raise Invalid(f"{name[:255]}: custom properties are strings")
        if not described:
            return
        fault = next(self._validators[name].iter_errors(value), None)
        if fault is not None:
            raise Invalid(f"{name}: {fault.message[:200]}")


# --- the operator's file -----------------------------------------------------------------


def _read(path: Path, formats: ImageFormat) -> tuple[dict[str, Schema], tuple[str, ...]]:
    """Definitions of custom properties, and the names that every image must have."""
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    nested = isinstance(document, dict) and isinstance(document.get("properties"), dict)
    properties = document["properties"] if nested else document
    if not isinstance(properties, dict):
        raise ConfigError(f"{path} must hold an object of property definitions")
    base = documents.image(formats.allowed, {})["properties"]
    added: dict[str, Schema] = {}
    for name, definition in properties.items():
        if name not in base:
            added[name] = _checked(path, name, definition)
        elif not isinstance(definition, dict) or definition != base[name]:
            raise ConfigError(f"{path}: {name}: an attribute of all images cannot be defined anew")
    required = document.get("required", []) if nested else []
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ConfigError(f"{path}: required must be a list of names")
    return added, tuple(required)


def _checked(path: Path, name: str, definition: Any) -> Schema:
    if not isinstance(definition, dict):
        raise ConfigError(f"{path}: {name}: a definition is an object")
    if _refers(definition):
        raise ConfigError(f"{path}: {name}: references are not supported")
    try:
        Draft202012Validator.check_schema(definition, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except SchemaError as error:
        raise ConfigError(f"{path}: {name}: {error.message}") from None
    types = definition.get("type", "string")
    if "string" not in (types if isinstance(types, list) else [types]):
        raise ConfigError(f"{path}: {name}: custom properties are strings, so its type must allow them")
    return definition


def _refers(definition: Any) -> bool:
    """Whether a definition, or a part of it, stands somewhere else."""
    if isinstance(definition, dict):
        return not _REFERENCES.isdisjoint(definition) or any(map(_refers, definition.values()))
    return isinstance(definition, list) and any(map(_refers, definition))
