"""What an import plugin that was written for Glance gets its hands on, in a process of its own.

Plugins read the image, set formats and properties, and look at their task; all of
that works on copies here, and `Repo.changes` is what the service is told in the end.
What the service alone decides (status, store lists, locations, other attributes)
can be read; setting it is ignored where Glance's own steps do so in passing, and
refused where a plugin would count on it.
"""

from __future__ import annotations

import copy
import logging
from types import TracebackType
from typing import Any, Final

log = logging.getLogger(__name__)

RESERVED: Final = "os_glance"
CHANGEABLE: Final = ("disk_format", "container_format", "virtual_size")
_IGNORED: Final = ("status", "size")
_FIXED: Final = ("name", "visibility", "owner", "protected", "min_disk", "min_ram", "tags")


class Context:
    """Who imports, as far as plugins ask."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.user_id = self.user = asked["user_id"]
        self.project_id = self.tenant = self.owner = asked["project_id"]
        self.roles: list[str] = list(asked["roles"])
        self.is_admin = "admin" in self.roles
        self.request_id = asked["request_id"]
        self.read_only = False
        self.auth_token = None
        self.service_catalog: list[Any] = []

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def elevated(self) -> Context:
        """The same person with an administrator's rights."""
        raised = copy.copy(self)
        raised.is_admin = True
        return raised


class Image:
    """The image: attributes of the same names as in Glance's domain."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.image_id: str = document["id"]
        self.id = self.image_id
        for name in (*CHANGEABLE, *_IGNORED, *_FIXED, "checksum", "created_at", "updated_at"):
            setattr(self, name, copy.deepcopy(document[name]))
        self.extra_properties: dict[str, Any] = dict(document["properties"])
        self.locations: list[Any] = []


class Repo:
    """Where the image is got from and saved to; `image_repo` and `admin_repo` are one."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._before = Image(document)
        self._saved = Image(document)

    def get(self, image_id: str) -> Image:
        if image_id != self._saved.image_id:
            raise LookupError(f"image {image_id} cannot be reached from a plugin of image {self._saved.image_id}")
        return copy.deepcopy(self._saved)

    def save(self, image: Image, from_state: str | None = None) -> None:
        for name in _FIXED:
            if getattr(image, name) != getattr(self._saved, name):
                raise AttributeError(f"a plugin cannot change {name}")
        self._saved = copy.deepcopy(image)

    @property
    def changes(self) -> dict[str, Any]:
        """Everything that differs from what it was."""
        before, after = self._before, self._saved
        old, new = before.extra_properties, after.extra_properties
        return {
            **{name: getattr(after, name) for name in CHANGEABLE if getattr(after, name) != getattr(before, name)},
            "properties": {
                name: "" if value is None else str(value)
                for name, value in new.items()
                if not name.startswith(RESERVED) and (name not in old or value != old[name])
            },
            "removed": sorted(name for name in old if name not in new and not name.startswith(RESERVED)),
        }


class Actions:
    """What a plugin may do while it is inside `with action_wrapper as action`."""

    def __init__(self, image: Image) -> None:
        self._image = image

    image_id = property(lambda self: self._image.image_id)
    image_size = property(lambda self: self._image.size)
    image_status = property(lambda self: self._image.status)
    image_locations = property(lambda self: list(self._image.locations))
    image_disk_format = property(lambda self: self._image.disk_format)
    image_container_format = property(lambda self: self._image.container_format)
    image_virtual_size = property(lambda self: self._image.virtual_size)
    image_extra_properties = property(lambda self: dict(self._image.extra_properties))

    def set_image_attribute(self, **attributes: Any) -> None:
        """Set formats and virtual size; status and size are the service's own business."""
        for name, value in attributes.items():
            if name not in CHANGEABLE and name not in _IGNORED:
                raise AttributeError(f"setting {name} is not allowed")
            setattr(self._image, name, value)

    def set_image_extra_properties(self, properties: dict[str, Any]) -> None:
        """Set properties; names that are reserved to the service are left out."""
        for name, value in properties.items():
            if name.startswith(RESERVED):
                log.warning("the property %s is reserved and not set", name)
            else:
                self._image.extra_properties[name] = value

    def pop_extra_property(self, name: str) -> None:
        self._image.extra_properties.pop(name, None)

    def _kept_by_the_service(self, *_: Any, **__: Any) -> None:
        log.info("which stores are being imported to, and which failed, is noted by the service itself")

    merge_store_list = _kept_by_the_service
    add_importing_stores = remove_importing_stores = _kept_by_the_service
    add_failed_stores = remove_failed_stores = _kept_by_the_service

    def _not_a_plugins_business(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("stores are written after the plugins; a plugin changes the staged file instead")

    set_image_data = remove_location_for_store = _not_a_plugins_business


class ActionWrapper:
    """Hands out `Actions`, and saves what they changed unless something goes wrong."""

    def __init__(self, repo: Repo, image_id: str) -> None:
        self._repo = repo
        self._id = image_id
        self._image: Image | None = None

    @property
    def image_id(self) -> str:
        return self._id

    def __enter__(self) -> Actions:
        self._image = self._repo.get(self._id)
        return Actions(self._image)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        image, self._image = self._image, None
        if kind is None and image is not None:
            self._repo.save(image, image.status)  # type: ignore[attr-defined]  # set by name

    def assert_task_lock(self) -> None:
        """The lease is held as long as the plugin runs: who loses it kills the plugin."""

    def drop_lock_for_task(self) -> None:
        """The service gives it back itself."""


class Task:
    """The task; what a plugin tells it of its progress is not kept."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.task_id: str = document["id"]
        self.type = document["type"]
        self.status = document["status"]
        self.owner = document["owner"]
        self.user_id = document["user_id"]
        self.request_id = document["request_id"]
        self.image_id = document["image_id"]
        self.task_input: dict[str, Any] = document["input"]
        self.result: Any = None
        self.message = ""


class TaskRepo:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def get(self, task_id: str) -> Task:
        if task_id != self._document["id"]:
            raise LookupError(f"task {task_id} cannot be reached from a plugin")
        return Task(self._document)

    def save(self, task: Task) -> None:
        """Progress is the service's to tell."""
