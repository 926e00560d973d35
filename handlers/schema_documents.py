"""The JSON schemas that clients build their models from.  Pure.

glanceclient validates against them before it sends, and when it reads; nova and Horizon
read the enums.  So they say what is enforced, and every name in them counts: an
attribute added here would stop being a property for clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from handlers.schemas import MOST_INT, Status

Schema = dict[str, Any]

UUID_PATTERN: Final = r"^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"

_TIME: Final = {"type": "string", "readOnly": True}


def _text(description: str) -> Schema:
    return {"type": ["null", "string"], "maxLength": 255, "description": description}


def _read_only(kind: Any, description: str, **more: Any) -> Schema:
    return {"type": kind, "readOnly": True, "description": description, **more}


_HASHES: Final[Schema] = {
    "type": "object",
    "writeOnly": True,
    "additionalProperties": False,
    "required": ["os_hash_algo", "os_hash_value"],
    "properties": {
        "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
        "os_hash_algo": {"type": "string", "maxLength": 64},
        "os_hash_value": {"type": "string", "maxLength": 128},
    },
    "description": "Digests that the data is known to have; they become the image's.",
}

_LOCATION: Final[Schema] = {
    "type": "object",
    "required": ["url", "metadata"],
    "properties": {
        "url": {"type": "string", "maxLength": 255},
        "metadata": {"type": "object"},
        "validation_data": _HASHES,
    },
}
USUAL: Final[Mapping[str, Schema]] = {
    "kernel_id": {
        "type": ["null", "string"],
        "pattern": UUID_PATTERN,
        "description": "Image that holds the kernel to boot an AMI-style image with.",
    },
    "ramdisk_id": {
        "type": ["null", "string"],
        "pattern": UUID_PATTERN,
        "description": "Image that holds the ramdisk to boot an AMI-style image with.",
    },
    "instance_uuid": {"type": "string", "description": "Server that this image is a snapshot of."},
    "architecture": {"type": "string", "description": "Processor architecture that the image needs."},
    "os_distro": {"type": "string", "description": "Short name of the operating system's distribution."},
    "os_version": {"type": "string", "description": "Version of the operating system."},
    "description": {"type": "string", "description": "What the image is, for people."},
    "cinder_encryption_key_id": {"type": "string", "description": "Key that the volume in the image needs."},
    "cinder_encryption_key_deletion_policy": {
        "type": "string",
        "enum": ["on_image_deletion", "do_not_delete"],
        "description": "Whether that key is deleted with the image.",
    },
}
"""Custom properties that most sites describe; a `schema-image.json` of the operator's replaces them."""


def image(
    formats: Mapping[str, Sequence[str]], operators: Mapping[str, Schema], required: Sequence[str] = ()
) -> Schema:
    """The schema of an image."""
    document: Schema = {
        "name": "image",
        "properties": {
            **_base(formats),
            **{name: {**schema, "is_base": False} for name, schema in operators.items()},
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }
    if required:
        document["required"] = list(required)
    return document


def _base(formats: Mapping[str, Sequence[str]]) -> dict[str, Schema]:
    count = {"type": "integer", "minimum": 0, "maximum": MOST_INT}
    whole = ["null", "integer"]
    return {
        "id": {"type": "string", "pattern": UUID_PATTERN, "description": "What the image is known by."},
        "name": _text("What people call the image."),
        "status": _read_only("string", "Where the image is in its life.", enum=list(get_args(Status))),
        "visibility": {
            "type": "string",
            "enum": ["community", "public", "private", "shared"],
            "description": "Who can see the image.",
        },
        "protected": {"type": "boolean", "description": "Whether the image cannot be deleted."},
        "os_hidden": {"type": "boolean", "description": "Whether the image is left out of lists by default."},
        "checksum": _read_only(["null", "string"], "MD5 of the data.", maxLength=32),
        "os_hash_algo": _read_only(["null", "string"], "Algorithm of os_hash_value.", maxLength=64),
        "os_hash_value": _read_only(["null", "string"], "Hash of the data, hexadecimal.", maxLength=128),
        "owner": _text("Project that the image belongs to."),
        "size": _read_only(whole, "Length of the data in bytes."),
        "virtual_size": _read_only(whole, "Bytes that a guest sees."),
        "container_format": {
            "type": ["null", "string"],
            "enum": [None, *formats["container_format"]],
            "description": "What the data is wrapped in.",
        },
        "disk_format": {
            "type": ["null", "string"],
            "enum": [None, *formats["disk_format"]],
            "description": "Format of the disk in the data.",
        },
        "created_at": {**_TIME, "description": "When the image was created."},
        "updated_at": {**_TIME, "description": "When the image was last changed."},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}, "description": "Words to find it by."},
        "min_ram": {**count, "description": "Megabytes of memory needed to boot the image."},
        "min_disk": {**count, "description": "Gigabytes of disk needed to boot the image."},
        "direct_url": _read_only("string", "Where the data lies in its store."),
        "self": _read_only("string", "Path of this image."),
        "file": _read_only("string", "Path of its data."),
        "stores": _read_only("string", "Stores that hold the data, joined by commas."),
        "schema": _read_only("string", "Path of this schema."),
        "locations": {"type": "array", "items": _LOCATION, "description": "Where copies of the data lie."},
    }


MEMBER: Final[Schema] = {
    "name": "member",
    "properties": {
        "created_at": {"type": "string", "description": "When the image was shared with the member."},
        "image_id": {"type": "string", "pattern": UUID_PATTERN, "description": "The image shared."},
        "member_id": {"type": "string", "description": "Project that the image is shared with."},
        "schema": {"readOnly": True, "type": "string"},
        "status": {
            "type": "string",
            "enum": ["pending", "accepted", "rejected"],
            "description": "Whether the member wants the image in its lists.",
        },
        "updated_at": {"type": "string", "description": "When the membership was last changed."},
    },
}


def paged(name: str, item: Schema) -> Schema:
    """The schema of a collection that is read in pages."""
    return {
        "name": name,
        "properties": {
            name: {"type": "array", "items": item},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


MEMBERS: Final[Schema] = {
    "name": "members",
    "properties": {"members": {"type": "array", "items": MEMBER}, "schema": {"type": "string"}},
    "links": [{"rel": "describedby", "href": "{schema}"}],
}


def metadef(name: str, properties: Mapping[str, Schema]) -> Schema:
    """The schema of a metadata definition.  There are none here: it is for clients that want one to start at all."""
    return {
        "name": name,
        "properties": {**properties, "self": {"type": "string"}, "schema": {"type": "string"}},
        "additionalProperties": True,
    }
