"""Names of ours as drivers must treat them: `<image>/<attempt>/<step>.<epoch>`, and nothing else.

A name becomes a file name or an object key, so a driver refuses whatever could
step outside its own place before it looks at anything.
"""

from __future__ import annotations

import re
from typing import Final

from kernel.errors import StoreDenied

_SEGMENT: Final = "[0-9A-Za-z_-][0-9A-Za-z._-]*"
_NAME: Final = re.compile(rf"{_SEGMENT}/{_SEGMENT}/{_SEGMENT}\.[0-9]+")
_LONGEST: Final = 240
"""Characters; a file name may have 255, and drivers add a suffix."""


def is_name(text: str) -> bool:
    """Whether `text` is a name that we could have given."""
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None


def checked(store: str, name: str) -> str:
    """The name itself; `StoreDenied` when it is none of ours."""
    if not is_name(name):
        raise StoreDenied(store, f"{name[:80]!r} is not a name of ours")
    return name


def epoch_of(name: str) -> int:
    """The epoch of the writer that a name belongs to."""
    return int(name.rpartition(".")[2])
