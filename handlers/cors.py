"""Letting pages of other origins call the API, where the operator allows it.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kernel.settings import Cors

_SIMPLE: Final = frozenset(
    {
        "accept",
        "accept-language",
        "content-type",
        "cache-control",
        "content-language",
        "expires",
        "last-modified",
        "pragma",
    }
)


def preflight(cors: Cors, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of the answer to an OPTIONS request; none when anything asked for is not allowed."""
    origin = _allowed_origin(cors, headers)
    method = headers.get("Access-Control-Request-Method", "")
    if origin is None or method not in cors.allow_methods:
        return {}
    asked = [name.strip() for name in headers.get("Access-Control-Request-Headers", "").split(",") if name.strip()]
    allowed = _SIMPLE | {name.lower() for name in cors.allow_headers}
    if any(name.lower() not in allowed for name in asked):
        return {}
    answer = {**_common(cors, origin), "Access-Control-Max-Age": str(cors.max_age)}
    answer["Access-Control-Allow-Methods"] = method
    if asked:
        answer["Access-Control-Allow-Headers"] = ",".join(asked)
    return answer


def actual(cors: Cors, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that any other answer carries for an allowed origin."""
    if not cors.allowed_origin:
        return {}
    origin = _allowed_origin(cors, headers)
    if origin is None:
        return {}
    return {**_common(cors, origin), "Access-Control-Expose-Headers": ",".join(cors.expose_headers)}


def _allowed_origin(cors: Cors, headers: Mapping[str, str]) -> str | None:
    origin = headers.get("Origin")
    if origin is None:
        return None
    if origin in cors.allowed_origin:
        return origin
    return "*" if "*" in cors.allowed_origin else None


def _common(cors: Cors, origin: str) -> dict[str, str]:
    answer = {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
    if cors.allow_credentials:
        answer["Access-Control-Allow-Credentials"] = "true"
    return answer
