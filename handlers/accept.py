"""Choosing the form of an error from what the client accepts."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

Form = Literal["html", "json", "plain"]

_QUALITY: Final = re.compile(r"0(\.[0-9]*)?|1(\.0*)?|\.[0-9]+")


@lru_cache(maxsize=256)
def error_form(accept: str | None) -> Form:
    """HTML or JSON by quality, HTML winning ties; plain text when neither is acceptable or nothing was said."""
    html = json = 0.0
    html_rank = json_rank = -1
    for item in (accept or "").split(","):
        media, quality = _parse(item)
        for name, rank in (("text/html", 2), ("text/*", 1), ("*/*", 0)):
            if media == name and rank > html_rank:
                html, html_rank = quality, rank
        for name, rank in (("application/json", 2), ("application/*", 1), ("*/*", 0)):
            if media == name and rank > json_rank:
                json, json_rank = quality, rank
    if html <= 0 and json <= 0:
        return "plain"
    return "json" if json > html else "html"


def _parse(item: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return media, float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return media, 1.0
