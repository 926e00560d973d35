"""Credentials inside URLs, made unreadable before anything is recorded or shown.  Pure."""

from __future__ import annotations

import re
from typing import Any, Final

_USER_INFO: Final = re.compile(r"(?<=[A-Za-z0-9+.-])://(?P<info>[^\s/?#]*)@", re.ASCII)
_UNESCAPED: Final = re.compile(
    r"(?<=[A-Za-z0-9+.-])://(?P<user>[^/?#@:\[\]]*):(?!\d*(?:[/?#]|$))[^/?#@]*[/?#]", re.ASCII
)
"""A password with a character in it that ought to have been escaped, and now seems to end the authority."""
_WORD: Final = re.compile(r"\S+", re.ASCII)
_SIGNING: Final = re.compile(
    r"(?P<before>[?&;](?>[^=&;?#\s]*?(?:sig|token|secret|pass|pwd|credential|key|auth))[^=&;?#\s]*+=)[^&;#\s]+",
    re.IGNORECASE,
)
"""The first word that tells in a name decides: looking for another one would take as long as somebody likes."""


def mask_url(text: str) -> str:
    """The text with passwords in URLs, and query parameters that sign or authorise, replaced by stars.

    A user name without a password is a token more often than not, and goes too.  The text is a
    stranger's, and may be long: nothing here takes more than a few passes over it.
    """
    if "@" in text:
        text = _WORD.sub(_unescaped, _USER_INFO.sub(_user_info, text))
    return _SIGNING.sub(r"\g<before>***", text)


def _user_info(match: re.Match[str]) -> str:
    name, colon, _ = match["info"].partition(":")
    return f"://{name}:***@" if colon and "@" not in name else "://***@"


def _unescaped(match: re.Match[str]) -> str:
    word = match[0]
    last = word.rfind("@")
    found = _UNESCAPED.search(word, 0, last) if last > 0 else None
    return word if found is None else f"{word[: found.start()]}://{found['user']}:***{word[last:]}"


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
