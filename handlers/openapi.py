"""`GET /ops/v1/openapi.json`: what there is, by the routes themselves.

A route says its method, path and statuses; what its bodies look like is said here, in
the schemas that clients are given and requests are held to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp.web import StreamResponse
from pydantic import BaseModel

from handlers import record_views
from handlers import schema_documents as documents
from handlers.call import Call
from handlers.patching import NEW, OLD
from handlers.routing import Route
from handlers.schemas import ImageBody, ImportBody

Schema = dict[str, Any]

_OBJECT: Final[Schema] = {"type": "object"}
_ALWAYS: Final = (400, 401, 431, 503)
"""What any request may get: malformed, not authenticated, its id too long, no database."""

_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["message", "code", "title"],
    "properties": {name: {"type": "string"} for name in ("message", "code", "title")},
}
_MEMBER_STATUS: Final[Schema] = {"type": "string", "enum": ["pending", "accepted", "rejected"]}
_REQUESTS: Final[dict[tuple[str, str], str | Schema]] = {
    ("POST", "/images"): "ImageRequest",
    ("POST", "/images/{image_id}/import"): "ImportRequest",
    ("POST", "/images/{image_id}/members"): {
        "type": "object",
        "required": ["member"],
        "properties": {"member": {"type": "string", "minLength": 1, "maxLength": 255}},
    },
    ("PUT", "/images/{image_id}/members/{member}"): {
        "type": "object",
        "required": ["status"],
        "properties": {"status": _MEMBER_STATUS},
    },
    ("POST", "/images/{image_id}/locations"): {
        "type": "object",
        "required": ["url"],
        "properties": {"url": {"type": "string"}, "validation_data": _OBJECT},
    },
    ("POST", "/tasks"): {
        "type": "object",
        "required": ["type", "input"],
        "properties": {"type": {"type": "string", "enum": ["import"]}, "input": _OBJECT},
    },
    ("POST", "/image-imports"): "ImageImportRequest",
}
_PATCH: Final[dict[str, Schema]] = {
    NEW: {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["op", "path"],
            "properties": {
                "op": {"type": "string", "enum": ["add", "replace", "remove"]},
                "path": {"type": "string"},
                "value": {},
            },
        },
    },
    OLD: {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {**{verb: {"type": "string"} for verb in ("add", "replace", "remove")}, "value": {}},
        },
    },
}
_ANSWERS: Final[dict[tuple[str, str], str]] = {
    ("GET", "/images"): "Images",
    ("POST", "/images"): "Image",
    ("GET", "/images/{image_id}"): "Image",
    ("PATCH", "/images/{image_id}"): "Image",
    ("GET", "/images/{image_id}/members"): "Members",
    ("POST", "/images/{image_id}/members"): "Member",
    ("GET", "/images/{image_id}/members/{member}"): "Member",
    ("PUT", "/images/{image_id}/members/{member}"): "Member",
    ("GET", "/tasks"): "Tasks",
    ("POST", "/tasks"): "Task",
    ("GET", "/tasks/{task_id}"): "Task",
    ("GET", "/image-imports"): "ImageImports",
    ("POST", "/image-imports"): "ImageImport",
    ("GET", "/image-imports/{import_id}"): "ImageImport",
}
_QUERIES: Final[dict[tuple[str, str], dict[str, Schema]]] = {
    ("GET", "/images"): {
        "limit": {"type": "integer", "minimum": 0},
        "marker": {"type": "string"},
        "sort": {"type": "string"},
        "sort_key": {"type": "array", "items": {"type": "string"}},
        "sort_dir": {"type": "array", "items": {"type": "string", "enum": ["asc", "desc"]}},
        "tag": {"type": "array", "items": {"type": "string"}},
        "visibility": {"type": "string", "enum": ["public", "private", "shared", "community", "all"]},
        "member_status": {"type": "string", "enum": ["pending", "accepted", "rejected", "all"]},
        **{
            name: {"type": "string"}
            for name in ("id", "name", "status", "owner", "disk_format", "container_format", "checksum")
        },
        **{name: {"type": "string"} for name in ("created_at", "updated_at", "os_hidden", "protected")},
        **{f"size_{end}": {"type": "integer"} for end in ("min", "max")},
    },
    ("GET", "/tasks"): {
        "limit": {"type": "integer", "minimum": 0},
        "marker": {"type": "string"},
        "status": {"type": "string"},
        "type": {"type": "string"},
        "sort_key": {"type": "string"},
        "sort_dir": {"type": "string", "enum": ["asc", "desc"]},
    },
    ("GET", "/image-imports"): {
        "limit": {"type": "integer", "minimum": 0},
        "marker": {"type": "string"},
        "status": {"type": "string"},
    },
}
_HEADERS: Final[dict[tuple[str, str], dict[str, Schema]]] = {
    ("PUT", "/images/{image_id}/file"): {"X-OpenStack-Image-Size": {"type": "string"}},
    ("PUT", "/images/{image_id}/stage"): {"X-OpenStack-Image-Size": {"type": "string"}},
    ("GET", "/images/{image_id}/file"): {"Range": {"type": "string"}},
}
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


async def show(call: Call) -> StreamResponse:
    """`GET /ops/v1/openapi.json`"""
    return call.reply(call.app.openapi)


ROUTES: Final = (Route(method="GET", path="/openapi.json", handler=show, summary="This document"),)


def document(routes: Mapping[str, Iterable[Route]], image: Schema) -> Schema:
    """The whole document: routes by the path that they lie below, and the schema of an image on this site."""
    paths: dict[str, Any] = {}
    for prefix, below in routes.items():
        for route in below:
            if route.success:
                paths.setdefault(f"{prefix}{route.path}", {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Entrepot",
            "version": "2.17",
            "description": "Image API version 2, and what operators see and do.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(image)},
    }


def _operation(route: Route) -> Schema:
    key = route.method, route.path
    operation: Schema = {
        "summary": route.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in _PARAMETER.findall(route.path)
            ),
            *({"name": name, "in": "query", "schema": schema} for name, schema in _QUERIES.get(key, {}).items()),
            *({"name": name, "in": "header", "schema": schema} for name, schema in _HEADERS.get(key, {}).items()),
        ],
        "responses": {str(status): _success(route, status) for status in route.success},
    }
    for status in sorted({*route.errors, *_ALWAYS, *((413,) if route.body == "json" else ())}):
        operation["responses"][str(status)] = _refusal(status)
    if route.body in ("json", "data"):
        operation["requestBody"] = {"required": True, "content": _content(route)}
    return operation


def _content(route: Route) -> Schema:
    if route.body == "data":
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    if route.method == "PATCH":
        return {media_type: {"schema": schema} for media_type, schema in _PATCH.items()}
    return {"application/json": {"schema": _named(_REQUESTS.get((route.method, route.path), _OBJECT))}}


def _success(route: Route, status: int) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if status not in (202, 204):
        if route.path.endswith("/file"):
            answer["content"] = {"application/octet-stream": {}}
        else:
            schema = _named(_ANSWERS.get((route.method, route.path), {}))
            answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _refusal(status: int) -> Schema:
    return {
        "description": HTTPStatus(status).phrase,
        "content": {
            "application/json": {"schema": _named("Error")},
            "text/html": {"schema": {"type": "string"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }


def _named(schema: str | Schema) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema


def _schemas(image: Schema) -> Schema:
    found: Schema = {
        "Error": _ERROR,
        "Image": _plain(image),
        "Images": _plain(documents.paged("images", _named("Image"))),
        "Member": _plain(documents.MEMBER),
        "Members": _plain(documents.MEMBERS),
        "Task": _plain(record_views.TASK),
        "Tasks": _plain(record_views.TASKS),
        "ImageImport": _plain(record_views.IMAGE_IMPORT),
        "ImageImports": _plain(record_views.IMAGE_IMPORTS),
        "ImageImportRequest": _plain(record_views.IMPORT_REQUEST),
    }
    for name, model in (("ImageRequest", ImageBody), ("ImportRequest", ImportBody)):
        found |= _of_model(name, model)
    return found


def _plain(schema: Schema) -> Schema:
    """What a client's schema says of an object; names, links and what creating needs are for clients only."""
    kept = {name: value for name, value in schema.items() if name in ("properties", "additionalProperties")}
    return {"type": "object", **kept}


def _of_model(name: str, model: type[BaseModel]) -> dict[str, Schema]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    found = {**schema.pop("$defs", {}), name: schema}
    for described in found.values():
        for member in described["properties"].values():
            member.pop("default", None)  # those of ours are not all values that clients may send
    return found
