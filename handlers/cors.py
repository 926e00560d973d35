"""Letting pages of other origins call the API, where the operator allows it.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kernel.settings import Cors, Settings

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


Origins = Mapping[str, Cors]
"""Origin, or `*` for all others -> what its pages may do."""


def origins(settings: Settings) -> Origins:
    """All origins that the operator lists; one that is listed twice is as its last section says."""
    return {origin: cors for cors in (settings.cors, *settings.more_cors.values()) for origin in cors.allowed_origin}


def preflight(known: Origins, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of the answer to an OPTIONS request; none when anything asked for is not allowed."""
    found = _found(known, headers)
    method = headers.get("Access-Control-Request-Method", "")
    if found is None or method not in found[1].allow_methods:
        return {}
    cors = found[1]
    asked = [name.strip() for name in headers.get("Access-Control-Request-Headers", "").split(",") if name.strip()]
    allowed = _SIMPLE | {name.lower() for name in cors.allow_headers}
    if any(name.lower() not in allowed for name in asked):
        return {}
    answer = {**_common(*found), "Access-Control-Max-Age": str(cors.max_age)}
    answer["Access-Control-Allow-Methods"] = method
    if asked:
        answer["Access-Control-Allow-Headers"] = ",".join(asked)
    return answer


def actual(known: Origins, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that any other answer carries for an allowed origin."""
    found = _found(known, headers) if known else None
    if found is None:
        return {}
    return {**_common(*found), "Access-Control-Expose-Headers": ",".join(found[1].expose_headers)}


def _found(known: Origins, headers: Mapping[str, str]) -> tuple[str, Cors] | None:
    """The origin as it is told that it is allowed, with what it may do."""
    origin = headers.get("Origin")
    if origin is None:
        return None
    name = origin if origin in known else "*"
    return (name, known[name]) if name in known else None


def _common(origin: str, cors: Cors) -> dict[str, str]:
    answer = {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
    if cors.allow_credentials:
        answer["Access-Control-Allow-Credentials"] = "true"
    return answer
