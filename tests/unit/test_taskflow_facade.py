"""What plugins written for Glance get their hands on: what they may change, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.steps._taskflow_facade import ActionWrapper, Context, Repo, TaskRepo

DOCUMENT: dict[str, Any] = {
    "id": "i1",
    "name": "n",
    "status": "importing",
    "visibility": "shared",
    "owner": "pA",
    "protected": False,
    "min_disk": 0,
    "min_ram": 0,
    "checksum": None,
    "disk_format": "raw",
    "container_format": "bare",
    "size": 5,
    "virtual_size": None,
    "tags": ["a"],
    "properties": {"kept": "1", "gone": "2", "none": None},
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
}
NOTHING: dict[str, Any] = {"properties": {}, "removed": []}


@pytest.fixture
def repo() -> Repo:
    return Repo(DOCUMENT)


@pytest.fixture
def wrapper(repo: Repo) -> ActionWrapper:
    return ActionWrapper(repo, "i1")


def test_reading_changes_nothing(repo: Repo, wrapper: ActionWrapper) -> None:
    with wrapper as action:
        assert (action.image_id, action.image_size, action.image_status) == ("i1", 5, "importing")
        assert (action.image_disk_format, action.image_container_format) == ("raw", "bare")
        assert (action.image_virtual_size, action.image_locations) == (None, [])
        assert action.image_extra_properties == DOCUMENT["properties"]
    repo.save(repo.get("i1"), "importing")
    assert repo.changes == NOTHING


def test_what_an_action_sets_is_told(repo: Repo, wrapper: ActionWrapper) -> None:
    with wrapper as action:
        action.set_image_attribute(disk_format="qcow2", virtual_size=9, status="queued", size=7)
        action.set_image_extra_properties({"new": 5, "kept": "1", "os_glance_x": "y"})
        action.pop_extra_property("gone")
        action.pop_extra_property("never was")
    assert repo.changes == {
        "disk_format": "qcow2",
        "virtual_size": 9,
        "properties": {"new": "5"},
        "removed": ["gone"],
    }
    with wrapper as action:
        assert action.image_extra_properties["new"] == 5


def test_what_is_saved_is_told(repo: Repo) -> None:
    image = repo.get("i1")
    assert (image.image_id, image.owner, image.tags, image.created_at) == ("i1", "pA", ["a"], DOCUMENT["created_at"])  # type: ignore[attr-defined]
    image.extra_properties["late"] = "x"
    assert repo.changes == NOTHING
    repo.save(image)
    assert repo.changes["properties"] == {"late": "x"}


def test_an_error_inside_saves_nothing(repo: Repo, wrapper: ActionWrapper) -> None:
    with pytest.raises(ZeroDivisionError), wrapper as action:
        action.set_image_extra_properties({"new": "x"})
        raise ZeroDivisionError
    assert repo.changes == NOTHING


def test_store_lists_are_the_services_own(repo: Repo, wrapper: ActionWrapper) -> None:
    with wrapper as action:
        action.add_importing_stores(["a"])
        action.remove_importing_stores(["a"])
        action.add_failed_stores(["a"])
        action.remove_failed_stores(["a"])
        action.merge_store_list("os_glance_failed_import", ["a"], subtract=True)
    wrapper.assert_task_lock()
    wrapper.drop_lock_for_task()
    assert repo.changes == NOTHING


def test_stores_and_other_attributes_are_out_of_reach(repo: Repo, wrapper: ActionWrapper) -> None:
    with wrapper as action:
        with pytest.raises(NotImplementedError, match="staged file"):
            action.set_image_data("file:///x", "t")
        with pytest.raises(NotImplementedError):
            action.remove_location_for_store("a")
        with pytest.raises(AttributeError, match="name is not allowed"):
            action.set_image_attribute(name="x")
    image = repo.get("i1")
    image.tags.append("b")  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="cannot change tags"):
        repo.save(image)
    with pytest.raises(LookupError):
        repo.get("i2")


def test_the_task_and_the_importing_user_can_be_looked_at() -> None:
    document = {"id": "t", "type": "api_image_import", "status": "processing", "owner": "pA", "user_id": "u"}
    tasks = TaskRepo({**document, "request_id": "req-1", "image_id": "i1", "input": {"import_req": {}}})
    assert (tasks.get("t").task_id, tasks.get("t").task_input) == ("t", {"import_req": {}})
    tasks.save(tasks.get("t"))
    with pytest.raises(LookupError):
        tasks.get("other")
    context = Context({"user_id": "u", "project_id": "pA", "roles": ["member"], "request_id": "req-1"})
    assert (context.tenant, context.is_admin, context.elevated().is_admin) == ("pA", False, True)
    assert context.to_dict()["roles"] == ["member"]
