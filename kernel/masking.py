"""Credentials inside URLs, made unreadable before anything is recorded or shown.  Pure."""

from __future__ import annotations

import re
from typing import Any, Final

_USER_INFO: Final = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#@:]*)(?::[^\s/?#]*)?@")
_SIGNING: Final = re.compile(
    r"(?P<before>[?&][^=&#\s]*(?:sig|token|secret|passw|credential|key|auth)[^=&#\s]*=)[^&#\s]+", re.IGNORECASE
)


def mask_url(text: str) -> str:
    """The text with passwords in URLs, and query parameters that sign or authorise, replaced by stars."""
    hidden = _USER_INFO.sub(lambda match: f"{match['before']}{match['user']}:***@", text)
    return _SIGNING.sub(lambda match: f"{match['before']}***", hidden)


def masked(document: Any) -> Any:
    """A JSON document with the credentials in its URLs masked."""
    match document:
        case str():
            return mask_url(document)
        case dict():
            return {key: masked(value) for key, value in document.items()}
        case list():
            return [masked(item) for item in document]
        case _:
            return document
