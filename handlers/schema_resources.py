"""`GET /v2/schemas/…`, and the empty catalogue of metadata definitions.

Other modules serve the schemas of their own resources.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp.web import StreamResponse

from handlers import schema_documents as documents
from handlers.call import Call
from handlers.routing import Handler, Route
from handlers.schema_documents import Schema


async def image(call: Call) -> StreamResponse:
    """`GET /v2/schemas/image`"""
    return call.reply(call.app.image_schema.document)


async def images(call: Call) -> StreamResponse:
    """`GET /v2/schemas/images`"""
    return call.reply(documents.paged("images", call.app.image_schema.document))


def _constant(document: Any) -> Handler:
    async def handler(call: Call) -> StreamResponse:
        return call.reply(document)

    return handler


_TEXT: Final[Schema] = {"type": "string"}
_LONG: Final[Schema] = {"type": "string", "description": "What it means, for people."}
_TIMES: Final[dict[str, Schema]] = {
    name: {"type": "string", "readOnly": True, "description": f"When it was {verb}."}
    for name, verb in (("created_at", "created"), ("updated_at", "last changed"))
}
_TITLED: Final[dict[str, Schema]] = {"title": _TEXT, "description": _LONG}

_METADEFS: Final[dict[str, tuple[str, str, dict[str, Schema]]]] = {
    "namespace": (
        "namespace",
        "namespaces",
        {
            "namespace": {"type": "string", "maxLength": 80, "description": "What it is known by."},
            "display_name": {"type": "string", "maxLength": 80},
            "description": _LONG,
            "visibility": {"type": "string", "enum": ["public", "private"]},
            "protected": {"type": "boolean"},
            "owner": {"type": "string", "maxLength": 255},
            **_TIMES,
        },
    ),
    "resource_type": (
        "resource_type_association",
        "resource_type_associations",
        {"name": _TEXT, "prefix": _TEXT, "properties_target": _TEXT, **_TIMES},
    ),
    "property": ("property", "properties", {"name": _TEXT, **_TITLED, "type": _TEXT}),
    "object": (
        "object",
        "objects",
        {
            "name": _TEXT,
            "description": _LONG,
            "required": {"type": "array"},
            "properties": {"type": "object"},
            **_TIMES,
        },
    ),
    "tag": ("tag", "tags", {"name": {"type": "string", "maxLength": 80}, **_TIMES}),
}
"""Kind of definition -> names of its schema and of that of its collection, and its members."""


def _metadefs() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for kind, (name, collection, properties) in _METADEFS.items():
        single = documents.metadef(name, properties)
        plural = "properties" if kind == "property" else f"{kind}s"
        found[f"metadefs/{kind}"] = single
        found[f"metadefs/{plural}"] = documents.paged(collection, single)
    return found


def _schema(name: str, handler: Handler) -> Route:
    return Route(method="GET", path=f"/schemas/{name}", handler=handler, errors=(400, 401), summary=f"Schema {name}")


def _catalogue(name: str, document: Schema) -> Route:
    return Route(
        method="GET",
        path=f"/metadefs/{name}",
        handler=_constant(document),
        body="any",
        errors=(401,),
        summary="Metadata definitions: there are none",
    )


ROUTES: Final = (
    _schema("image", image),
    _schema("images", images),
    _schema("member", _constant(documents.MEMBER)),
    _schema("members", _constant(documents.MEMBERS)),
    *(_schema(name, _constant(document)) for name, document in _metadefs().items()),
    _catalogue(
        "namespaces",
        {"namespaces": [], "first": "/v2/metadefs/namespaces", "schema": "/v2/schemas/metadefs/namespaces"},
    ),
    _catalogue("resource_types", {"resource_types": [], "schema": "/v2/schemas/metadefs/resource_types"}),
)
