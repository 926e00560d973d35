"""Names of outputs, in staging and in stores."""

from __future__ import annotations


def blob_name(image_id: str, attempt: str, step: str, epoch: int) -> str:
    """`<image>/<attempt>/<step>.<epoch>`: unique, and telling whose it is and under which lease it was made."""
    return f"{image_id}/{attempt}/{step}.{epoch}"
