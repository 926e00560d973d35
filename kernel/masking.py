"""Credentials inside URLs, made unreadable before anything is recorded or shown.  Pure."""

from __future__ import annotations

import re
from typing import Any, Final

_USER_INFO: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#@:]*)(?P<rest>[^\s/?#]*)@", re.ASCII
)
_UNESCAPED: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/?#@:\[\]]*):(?!\d*(?:[/?#]|$))[^\s/?#@]*[/?#]\S*@", re.ASCII
)
"""A password with a character in it that ought to have been escaped, and now seems to end the authority."""
_SIGNING: Final = re.compile(
    r"(?P<before>[?&;][^=&;#\s]*(?:sig|token|secret|pass|pwd|credential|key|auth)[^=&;#\s]*=)[^&;#\s]+", re.IGNORECASE
)


def mask_url(text: str) -> str:
    """The text with passwords in URLs, and query parameters that sign or authorise, replaced by stars.

    A user name without a password is a token more often than not, and goes too.
    """
    hidden = _USER_INFO.sub(_user_info, text)
    hidden = _UNESCAPED.sub(lambda match: f"{match['scheme']}{match['user']}:***@", hidden)
    return _SIGNING.sub(lambda match: f"{match['before']}***", hidden)


def _user_info(match: re.Match[str]) -> str:
    user = f"{match['user']}:" if match["rest"].startswith(":") else ""
    return f"{match['scheme']}{user}***@"


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
