"""Errors on the wire: ONE table from kernel errors to statuses, and the three forms of a body.

The forms matter: glanceclient and openstacksdk read HTML line by line, Tempest and
gophercloud want flat JSON, and a flat JSON sent to `*/*` crashes glanceclient.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson

from handlers.accept import error_form
from kernel import errors as k

STATUSES: Final[Mapping[type[k.EntrepotError], int]] = {
    k.Invalid: 400,
    k.Unauthenticated: 401,
    k.Forbidden: 403,
    k.NotFound: 404,
    k.Conflict: 409,
    k.LeaseHeld: 409,
    k.WrongExpectedVersion: 409,
    k.Gone: 410,
    k.TooLarge: 413,
    k.UnacceptableData: 415,
    k.BadSignature: 400,
    k.Unavailable: 503,
    k.UnknownEvent: 503,
    k.Fenced: 503,
    k.BlobInUse: 409,
    k.StoreReadOnly: 410,
    k.StoreFull: 413,
    k.StoreError: 503,
}


class HttpError(Exception):
    """An answer that is decided by HTTP alone: routing, media types, ranges."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def status_of(error: k.EntrepotError) -> int:
    """The status for an error of the kernel's: that of its nearest listed class."""
    for cls in type(error).__mro__:
        status = STATUSES.get(cls)
        if status is not None:
            return status
    return 500


def reason(status: int) -> str:
    """`404 Not Found` and the like."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def printable(text: str) -> str:
    """The text with bytes of a client's that are no UTF-8 spelt out, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()


def body(status: int, message: str, accept: str | None) -> tuple[bytes, str]:
    """The body of an error and its content type."""
    line, message = reason(status), printable(message)
    title = line.partition(" ")[2]
    match error_form(accept):
        case "json":
            return orjson.dumps({"message": message, "code": line, "title": title}), "application/json"
        case "html":
            text = html.escape(message, quote=False)  # clients show it as it is
            page = (
                f"<html>\n<head>\n<title>{line}</title>\n</head>\n<body>\n<h1>{line}</h1>\n{text}\n</body>\n</html>\n"
            )
            return page.encode(), "text/html; charset=UTF-8"
        case "plain":
            return f"{line}\n\n{message}\n".encode(), "text/plain; charset=UTF-8"
