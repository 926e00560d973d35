"""Names of outputs, in staging and in stores."""

from __future__ import annotations

import re
import zlib
from typing import Final

_PLAIN: Final = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,60}")


def blob_name(image_id: str, attempt: str, step: str, epoch: int) -> str:
    """`<image>/<attempt>/<step>.<epoch>`: unique, and telling whose it is and under which lease it was made."""
    return f"{image_id}/{attempt}/{plain(step)}.{epoch}"


def plain(text: str) -> str:
    """A step, such as the name of a store, in characters that every store takes."""
    if _PLAIN.fullmatch(text):
        return text
    kept = re.sub(r"[^0-9A-Za-z_-]", "_", text)[:40]
    return f"{kept}-{zlib.crc32(text.encode()):08x}"
