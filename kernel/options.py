"""How operators write values in INI files: lists, dictionaries, booleans, sizes.

Both of the ways found in operators' files are understood everywhere: bare
`a, b` and bracketed `['a', "b"]`.  A wrong value raises `ValueError` with the
reason; the loader adds file, section and option.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, BeforeValidator

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_MOST: Final = 1 << 63
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def split(text: str) -> list[str]:
    """Items of a list, at commas outside quotes; quotes and surrounding blanks are dropped."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    elif text.startswith("[") and "]" not in text:
        raise ValueError(f"a bracket is not closed: {text}")
    items: list[str] = []
    current, quote = "", ""
    for char in text:
        if quote:
            current += char
            quote = "" if char == quote else quote
        elif char in "'\"" and not current.strip():
            current, quote = char, char
        elif char == ",":
            items.append(current)
            current = ""
        else:
            current += char
    if quote:
        raise ValueError(f"a quote is not closed: {text}")
    items.append(current)
    return [unquoted for item in items if (unquoted := unquote(item))]


def unquote(text: str) -> str:
    """Text without surrounding blanks and one pair of quotes."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def to_list(value: Any) -> Any:
    return split(value) if isinstance(value, str) else value


def to_lines(value: Any) -> Any:
    """A list whose option may be repeated: a line each time, and on every line one item or several."""
    return [item for line in value.split("\n") for item in split(line)] if isinstance(value, str) else value


def to_dict(value: Any) -> Any:
    """`key:value` pairs; key and value may each be in quotes, inside which `,` and `:` are data."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    pairs: dict[str, str] = {}
    for item in _pairs(text):
        key, colon, rest = _at_colon(item)
        if not colon:
            raise ValueError(f"'{item.strip()}' is no key:value pair")
        name = unquote(key)
        if name in pairs:
            raise ValueError(f"the key '{name}' appears twice")
        pairs[name] = unquote(rest)
    return pairs


def _pairs(text: str) -> list[str]:
    items, current, quote = [], "", ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and current.strip()[-1:] in ("", ":"):
            quote = char
        elif char == ",":
            items.append(current)
            current = ""
            continue
        current += char
    if quote:
        raise ValueError(f"a quote is not closed: {text}")
    items.append(current)
    return [item for item in items if item.strip()]


def _at_colon(item: str) -> tuple[str, str, str]:
    """Split at the first colon that is not inside a quoted key."""
    start = item.lstrip()
    if start[:1] in ("'", '"'):
        end = start.find(start[0], 1)
        if end > 0 and start[end + 1 :].lstrip().startswith(":"):
            return start[: end + 1], ":", start[end + 1 :].lstrip()[1:]
    return item.partition(":")


def to_bool(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"'{value}' is no boolean (true, false, yes, no, on, off, 1, 0)")


def to_port(value: Any) -> Any:
    try:
        port = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"'{value}' is no port number") from None
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is no port number (1 to 65535)")
    return port


def to_host(value: Any) -> Any:
    """A host name or an address; no wildcard, no network."""
    text = str(value).strip()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ValueError(f"'{value}' is neither a host name nor an address") from None
    return text


def to_bytes(value: Any) -> Any:
    """A number with an optional unit of bytes, powers of 1024: `20GB`, `500 MB`, `0`."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"'{value}' is no size: a number with B, KB, MB, GB or TB, or without a unit")
    number, unit = match[1], _UNITS[(match[2] or "").upper()]
    size = int(number) * unit if number.isdigit() else int(float(number) * unit)
    if size >= _MOST:
        raise ValueError(f"'{value}' is more than anybody stores")
    return size


def meant(model: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as written; one that is left empty counts as not set, unless it is a list, which may be empty."""
    fields = model.model_fields
    return {
        name: value
        for name, value in options.items()
        if value != "" or name not in fields or _collects(fields[name].annotation)
    }


def _collects(annotation: Any) -> bool:
    return get_origin(annotation) in (tuple, list, dict, frozenset) or any(map(_collects, get_args(annotation)))


IniBool = Annotated[bool, BeforeValidator(to_bool)]
IniList = Annotated[tuple[str, ...], BeforeValidator(to_list)]
IniLines = Annotated[tuple[str, ...], BeforeValidator(to_lines)]
IniDict = Annotated[dict[str, str], BeforeValidator(to_dict)]
Port = Annotated[int, BeforeValidator(to_port)]
Host = Annotated[str, BeforeValidator(to_host)]
PortList = Annotated[tuple[Port, ...], BeforeValidator(to_list)]
HostList = Annotated[tuple[Host, ...], BeforeValidator(to_list)]


def to_hash(value: Any) -> Any:
    """The name of a hash that hashlib makes digests of a fixed length with."""
    try:
        if hashlib.new(str(value), usedforsecurity=False).digest_size > 0:
            return value
    except ValueError:
        pass
    raise ValueError(f"'{value}' is no hash that hashlib knows")


HashName = Annotated[str, BeforeValidator(to_hash)]
ByteSize = Annotated[int, BeforeValidator(to_bytes)]
