"""Request bodies, validated; what the published schemas say and what is enforced agree.

Messages name the member that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints, ValidationError

from kernel.errors import Invalid

MOST_INT: Final = 2147483647

_UUID: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"

READ_ONLY_PRESENCE: Final = ("direct_url", "self", "file", "schema", "stores")
"""Attributes whose mere presence in a create body is refused, before anything is validated."""

READ_ONLY_VALUES: Final = ("created_at", "updated_at", "status", "checksum", "size", "virtual_size")
"""Attributes that are refused if their value is well formed."""

RESERVED: Final = ("location", "deleted", "deleted_at", "locations")
RESERVED_PREFIX: Final = "os_glance"

Status = Literal[
    "queued",
    "saving",
    "active",
    "killed",
    "deleted",
    "uploading",
    "importing",
    "pending_delete",
    "deactivated",
]


def _whole(value: Any) -> Any:
    """5.0 is as good as 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


Text255 = Annotated[str, StringConstraints(max_length=255)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MOST_INT)]
Size = Annotated[int, BeforeValidator(_whole), Field(ge=0)]


class ImageBody(BaseModel):
    """An image as a client describes it; everything else in the body is a custom property, a string."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, str]

    id: Annotated[str, StringConstraints(pattern=_UUID)] = ""
    name: Text255 | None = None
    owner: Text255 | None = None
    visibility: Literal["public", "private", "shared", "community"] = "shared"
    protected: bool = False
    os_hidden: bool = False
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: Count = 0
    min_ram: Count = 0
    tags: Annotated[list[Text255], FailFast()] = Field(default=[])
    status: Status = "queued"
    size: Size | None = None
    virtual_size: Size | None = None
    checksum: Annotated[str, StringConstraints(max_length=32)] | None = None
    os_hash_algo: Annotated[str, StringConstraints(max_length=64)] | None = None
    os_hash_value: Annotated[str, StringConstraints(max_length=128)] | None = None
    created_at: str = ""
    updated_at: str = ""
    locations: Annotated[list[dict[str, Any]] | None, FailFast()] = None


class Method(BaseModel):
    """The `method` member of an import request; a method's own model looks at the rest."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    uri: str | None = None


class StoreWishes(BaseModel):
    """Where a client wants the data of an import to go."""

    model_config = ConfigDict(extra="ignore", strict=True)

    stores: Annotated[list[str] | None, FailFast()] = None
    all_stores: bool = False
    all_stores_must_succeed: bool = True


class ImportBody(StoreWishes):
    """The body of `POST /v2/images/{id}/import`; what it does not know is echoed in the task."""

    model_config = ConfigDict(extra="ignore", strict=True)

    method: Method


def formats_allowed(body: ImageBody, formats: Mapping[str, Sequence[str]]) -> None:
    """Refuse formats that this site does not take."""
    for name, allowed in formats.items():
        value = getattr(body, name)
        if value is not None and value not in allowed:
            raise Invalid(f"{name}: '{value}' is not one of {', '.join(allowed)}")


T = TypeVar("T", bound=BaseModel)


def validated(model: type[T], document: Any) -> T:
    """The document as a model; `Invalid` naming the first member that is wrong."""
    if model.model_config.get("extra") == "forbid" and isinstance(document, dict):
        strange = next((name for name in document if name not in model.model_fields), None)
        if strange is not None:  # a model would gather all of them
            raise Invalid(f"{strange[:255]}: there is no such member")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise Invalid(describe(error)) from None


def describe(error: ValidationError) -> str:
    """The first fault, in a client's words."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'The body'}: {first['msg']}"
