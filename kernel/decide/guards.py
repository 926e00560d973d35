"""What many commands demand of an image, whatever they are about."""

from __future__ import annotations

from kernel.errors import Conflict, NotFound
from kernel.image import Image


def must_be_known(image: Image) -> None:
    """Refuse what nobody ever made; an image that is gone may still have work."""
    if not image.exists:
        raise NotFound("No such image")


def must_exist(image: Image) -> None:
    """Refuse an image that no request can see."""
    if not image.exists or image.gone:
        raise NotFound(f"No image found with ID {image.id}" if image.id else "No such image")


def check_unlocked(image: Image) -> None:
    """Refuse what may not happen while an import holds the image."""
    if image.job is not None:
        raise Conflict(f"Image {image.id} has an active task {image.job.task_id}")


def missing_formats(image: Image) -> list[str]:
    """Which of the two formats that data needs are not set."""
    return [name for name in ("container_format", "disk_format") if getattr(image, name) is None]
