"""Events to JSON and back, for ever.

Data is written in the newest shape.  When a shape changes, its version in
`VERSIONS` goes up and `UPCASTERS` gains a function from the old JSON object to
the next one; `tests/golden` keeps a file of every type and version that must
decode for as long as the log lives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from kernel.events import EVENTS, Event, Unrecognised
from kernel.recorded import Meta

VERSIONS: Final[dict[str, int]] = {}
"""Schema versions above 1, by type."""

UPCASTERS: Final[dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""(type, version) -> a function that lifts that version's object to the next version."""

_ENCODER = msgspec.json.Encoder()
_DECODERS: Final = {cls.__name__: msgspec.json.Decoder(cls) for cls in EVENTS}
_TYPES: Final = {cls.__name__: cls for cls in EVENTS}
_META: Final = msgspec.json.Decoder(Meta)

encode = _ENCODER.encode
"""Any struct of ours as compact JSON."""


def type_of(event: Event) -> str:
    """The name under which an event is recorded."""
    return type(event).__name__


def version_of(type_name: str) -> int:
    """The schema version in which events of this type are written today."""
    return VERSIONS.get(type_name, 1)


def decode_meta(raw: bytes | str) -> Meta:
    """The circumstances of an event."""
    return _META.decode(raw)


def decode(type_name: str, version: int, raw: bytes | str) -> Event | Unrecognised:
    """An event from its recorded form; a placeholder when a newer node wrote it."""
    decoder = _DECODERS.get(type_name)
    current = VERSIONS.get(type_name, 1)
    if decoder is None or version > current:
        return Unrecognised(type_name, version)
    if version == current:
        return decoder.decode(raw)
    document: dict[str, Any] = msgspec.json.decode(raw)
    for old in range(version, current):
        document = UPCASTERS[type_name, old](document)
    return msgspec.convert(document, _TYPES[type_name])
