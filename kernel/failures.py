"""Why data could not be kept: a kind for machines, a sentence for people."""

from __future__ import annotations

import re
from typing import Final

from kernel import errors

KINDS: Final = ("full", "denied", "bad_value", "duplicate", "forbidden", "vanished", "http", "internal")
"""full: no space · denied: no permission on the medium · bad_value: the data or a value was refused ·
duplicate: the object exists · forbidden: a storage quota or protection · vanished: the image was deleted
meanwhile · http: the transport failed · internal: anything else, refused data included."""


def kind_of(error: BaseException) -> str:
    """The kind under which consumers are told of `error`."""
    match error:
        case errors.StoreFull():
            return "full"
        case errors.BlobExists():
            return "duplicate"
        case errors.StoreDenied():
            return "denied"
        case errors.OverQuota() | errors.StoreReadOnly() | errors.Forbidden():
            return "forbidden"
        case errors.SourceFailed():
            return "http"
        case errors.NotFound() | errors.Gone():
            return "vanished"
        case errors.Corrupt() | errors.Invalid():
            return "bad_value"
        case _:
            return "internal"


_LONGEST: Final = 1000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def reason_of(error: BaseException) -> str:
    """One sentence for the task's message: our own errors speak for themselves, others keep their details.

    Some repeat what a stranger sent, which may be long or hold what no log can keep.
    """
    if not isinstance(error, errors.EntrepotError):
        return f"an unexpected error ({type(error).__name__})"
    said = _CONTROL.sub("\ufffd", str(error))
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
