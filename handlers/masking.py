"""Credentials inside URLs, made unreadable before anything is recorded or shown.  Pure."""

from __future__ import annotations

import re
from typing import Any, Final

_PASSWORD: Final = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@:]*:)[^\s/?#]*(?=@)")


def mask_url(text: str) -> str:
    """The text with every password inside a URL replaced by stars."""
    return _PASSWORD.sub(lambda match: f"{match['before']}***", text)


def masked(document: Any) -> Any:
    """A JSON document with the passwords in its URLs masked."""
    match document:
        case str():
            return mask_url(document)
        case dict():
            return {key: masked(value) for key, value in document.items()}
        case list():
            return [masked(item) for item in document]
        case _:
            return document
