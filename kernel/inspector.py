"""Looking at bytes while they stream by: which disk formats they are, and what is unsafe in them.

Wraps the field's own inspector, oslo.utils' format_inspector, and boils its
findings down to `Facts`, which are recorded; `kernel/verdict.py` judges them.
Parsing is bounded (it keeps headers only), but it is parsing of hostile data:
callers run it in a thread, never on the event loop.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

from oslo_utils.imageutils import format_inspector

from kernel.events import Facts, Format

_HEAD: Final = 4096
_DESCRIPTOR: Final = re.compile(rb"(?:[ ]*\r?\n|#[^\n]*\n)*version=[123]\r?\n")
"""How a vmdk begins that is nothing but a descriptor, which names the files that the disk is in."""
_CREATE_TYPE: Final = re.compile(rb'createtype="([^"\n]{0,64})"')


class _Slot:
    """Hands one chunk at a time to the wrapper, which wants to pull."""

    def __init__(self) -> None:
        self.chunk = b""

    def read(self, size: int) -> bytes:
        return self.chunk


class Inspector:
    """Feed it every byte in order, then ask once."""

    def __init__(self) -> None:
        self._slot = _Slot()
        self._wrapper: Any = format_inspector.InspectWrapper(cast(Any, self._slot))
        self._head = b""

    def eat(self, chunk: bytes) -> None:
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
        self._slot.chunk = chunk
        self._wrapper.read(len(chunk))

    def finish(self) -> Facts:
        """What was seen.  Data that the inspector itself stumbles over counts as unsafe."""
        self._slot.chunk = b""
        self._wrapper.close()
        try:
            found = self._wrapper.formats or []
        except Exception as error:
            return Facts(formats=(Format(name="unreadable", unsafe={"inspection": _text(error)}),))
        formats = [_format(item) for item in found]
        formats += _overlooked(self._head, {item.name for item in formats})
        return Facts(formats=tuple(sorted(formats, key=lambda item: item.name)))


def _overlooked(head: bytes, names: set[str]) -> list[Format]:
    """A vmdk descriptor with zeros after it: the library sees no text then, but qemu would follow it."""
    if "vmdk" in names or not _DESCRIPTOR.match(head):
        return []
    kind = _CREATE_TYPE.search(head.lower())
    variant = _printable(kind[1].decode("ascii", "replace")) if kind else None
    return [Format(name="vmdk", variant=variant, unsafe={"descriptor": "it names other files"})]


def _format(inspector: Any) -> Format:
    unsafe: dict[str, str] = {}
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        unsafe = {str(name): _text(why) for name, why in error.failures.items()}
    except Exception as error:
        unsafe = {"inspection": _text(error)}
    try:
        virtual_size = int(inspector.virtual_size)
    except Exception:
        virtual_size = 0
    variant = getattr(inspector, "vmdktype", None)
    variant = None if variant is None else _printable(str(variant)[:64])
    return Format(name=str(inspector), virtual_size=virtual_size or None, unsafe=unsafe, variant=variant)


def _text(error: object) -> str:
    return _printable(str(error)[:200]) or type(error).__name__


def _printable(text: str) -> str:
    """Without what a header may hold that is no letter: it is told to people, and kept."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
