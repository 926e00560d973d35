"""A patch meets an image: what it changes together, and the first thing that refuses it."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import commands as c
from kernel import events as e
from kernel.errors import Conflict, Forbidden, NotFound, TooLarge
from kernel.patch import Operation, Right
from tests.support.builders import ACTIVE, STAGED, created, importing
from tests.support.spec import given

QUEUED = created(properties={"a": "1", "b": "2"}, tags=("t",))


def add(name: str, value: Any, **more: Any) -> Operation:
    return Operation(verb="add", name=name, value=value, **more)


def replace(name: str, value: Any, **more: Any) -> Operation:
    return Operation(verb="replace", name=name, value=value, **more)


def remove(name: str, **more: Any) -> Operation:
    return Operation(verb="remove", name=name, **more)


def patch(*operations: Operation, **quotas: int) -> c.PatchImage:
    return c.PatchImage(operations=operations, **quotas)


def test_only_what_was_touched_is_recorded() -> None:
    given(QUEUED).when(patch(replace("name", "m"), add("c", "3"), remove("a"))).then(
        e.ImageUpdated(name="m", properties_set={"c": "3"}, properties_removed=("a",))
    )


def test_the_last_word_counts() -> None:
    given(QUEUED).when(patch(add("a", "x"), replace("a", "y"), replace("name", "m"), add("name", None))).then(
        e.ImageUpdated(name=None, properties_set={"a": "y"})
    )


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([add("c", "3"), remove("c")], e.ImageUpdated()),
        ([remove("a"), add("a", "3")], e.ImageUpdated(properties_set={"a": "3"})),
        ([remove("a"), add("a", "3"), remove("a")], e.ImageUpdated(properties_removed=("a",))),
    ],
)
def test_what_comes_and_goes(operations: list[Operation], expected: e.ImageUpdated) -> None:
    given(QUEUED).when(patch(*operations)).then(expected)


def test_no_operations_are_no_event() -> None:
    given(QUEUED).when(patch()).then()


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (replace("c", "3"), Conflict),
        (remove("c"), Conflict),
        (remove("name"), Forbidden),
        (add("name", "m", strict=True), Conflict),
        (add("a", "3", strict=True), Conflict),
        (replace("status", "active"), Conflict),
    ],
)
def test_what_cannot_be_refuses_all_of_it(operation: Operation, error: type[Conflict]) -> None:
    given(QUEUED).when(patch(replace("name", "m"), operation)).refuses(error)


def test_every_attribute_finds_its_field() -> None:
    values = {"visibility": "private", "protected": True, "min_disk": 1, "min_ram": 2, "tags": ("x",)}
    wanted = [replace(name, value) for name, value in values.items()]
    wanted += [replace("os_hidden", True), replace("owner", ""), replace("disk_format", "iso")]
    given(QUEUED).when(patch(*wanted)).then(e.ImageUpdated(**values, hidden=True, owner=None, disk_format="iso"))


@pytest.mark.parametrize("past", [STAGED, ACTIVE, importing("a")])
@pytest.mark.parametrize("name", ["disk_format", "container_format"])
def test_formats_change_only_while_nothing_depends_on_them(past: tuple[e.Event, ...], name: str) -> None:
    given(*past).when(patch(replace(name, "iso"))).refuses(Forbidden, "queued")
    given(*past).when(patch(replace("name", "m"))).then(e.ImageUpdated(name="m"))


def test_tags_are_a_set_and_have_a_quota() -> None:
    given(QUEUED).when(patch(replace("tags", ["x", "y", "x"]), tag_quota=2)).then(e.ImageUpdated(tags=("x", "y")))
    given(QUEUED).when(patch(replace("tags", ["x", "y", "z"]), tag_quota=2)).refuses(TooLarge, "2 tags")


def test_the_property_quota_is_asked_of_those_who_add() -> None:
    """A quota that was lowered breaks no image; the service's own properties do not count."""
    given(QUEUED).when(patch(add("c", "3"), property_quota=2)).refuses(TooLarge, "2 properties")
    given(QUEUED).when(patch(add("c", "3"), remove("a"), property_quota=2)).then(
        e.ImageUpdated(properties_set={"c": "3"}, properties_removed=("a",))
    )
    given(QUEUED).when(patch(add("a", "3"), property_quota=1)).then(e.ImageUpdated(properties_set={"a": "3"}))
    full = created(properties={"a": "1", "os_glance_x": "2"})
    given(full).when(patch(add("c", "3"), property_quota=2)).then(e.ImageUpdated(properties_set={"c": "3"}))


@pytest.mark.parametrize(
    ("rights", "operation", "error"),
    [
        ((), add("a", "x"), Forbidden),
        ((), replace("a", "x"), Conflict),
        ((), remove("a"), Conflict),
        (("create",), replace("a", "x"), Conflict),
        (("create", "update", "delete"), remove("a"), Conflict),
        (("read", "create", "delete"), add("a", "x"), Forbidden),
        (("read", "create", "delete"), replace("a", "x"), Forbidden),
        (("read", "create", "update"), remove("a"), Forbidden),
        (("read", "update", "delete"), add("c", "x"), Forbidden),
    ],
)
def test_protected_properties(rights: tuple[Right, ...], operation: Operation, error: type[Conflict]) -> None:
    """What the caller cannot read is as if it were absent."""
    limited = Operation(verb=operation.verb, name=operation.name, value=operation.value, rights=rights)
    given(QUEUED).when(patch(limited)).refuses(error)


def test_an_unreadable_property_can_be_created_again() -> None:
    """By those who may create it; others' patches leave it alone."""
    blind = ("create",)
    given(QUEUED).when(patch(add("a", "x", rights=blind), property_quota=2)).then(
        e.ImageUpdated(properties_set={"a": "x"})
    )
    given(QUEUED).when(patch(replace("name", "m"))).then(e.ImageUpdated(name="m"))


@pytest.mark.parametrize("past", [(), (created(), e.ImageDeleted())])
def test_there_must_be_an_image(past: tuple[e.Event, ...]) -> None:
    for command in (
        patch(replace("name", "m")),
        c.AddTag(tag="x"),
        c.RemoveTag(tag="x"),
        c.Deactivate(),
        c.Reactivate(),
        c.AddMember(member="pB"),
        c.SetMemberStatus(member="pB", status="accepted"),
        c.RemoveMember(member="pB"),
    ):
        given(*past).when(command).refuses(NotFound)


# --- tags, members, actions --------------------------------------------------------------


def test_tags_one_at_a_time() -> None:
    tagged = given(QUEUED).when(c.AddTag(tag="u", quota=2)).then(e.TagAdded(tag="u"))
    tagged.when(c.AddTag(tag="u", quota=2)).then()
    tagged.when(c.AddTag(tag="v", quota=2)).refuses(TooLarge, "2 tags")
    tagged.when(c.RemoveTag(tag="v")).refuses(NotFound)
    tagged.when(c.RemoveTag(tag="u")).then(e.TagRemoved(tag="u")).when(c.RemoveTag(tag="u")).refuses(NotFound)


def test_members_come_answer_and_go() -> None:
    shared = given(created()).when(c.AddMember(member="pB", quota=1)).then(e.MemberAdded(member="pB"))
    shared.when(c.AddMember(member="pB", quota=2)).refuses(Conflict)
    shared.when(c.AddMember(member="pB", quota=1)).refuses(TooLarge)
    shared.when(c.AddMember(member="pC", quota=1)).refuses(TooLarge)
    shared.when(c.SetMemberStatus(member="pC", status="accepted")).refuses(NotFound)
    answered = shared.when(c.SetMemberStatus(member="pB", status="accepted")).then(
        e.MemberStatusChanged(member="pB", status="accepted")
    )
    assert answered.state.members["pB"].status == "accepted"
    left = answered.when(c.RemoveMember(member="pB")).then(e.MemberRemoved(member="pB"))
    left.when(c.RemoveMember(member="pB")).refuses(NotFound)
    left.when(c.SetMemberStatus(member="pB", status="rejected")).refuses(NotFound)
    again = left.when(c.AddMember(member="pB", quota=1)).then(e.MemberAdded(member="pB"))
    assert again.state.members["pB"].status == "pending"
    assert again.state.members["pB"].created_at == shared.state.members["pB"].created_at


@pytest.mark.parametrize("visibility", ["private", "public", "community"])
def test_only_shared_images_have_members(visibility: str) -> None:
    past = (created(), e.MemberAdded(member="pB"), e.ImageUpdated(visibility=visibility))
    for command in (
        c.AddMember(member="pC"),
        c.RemoveMember(member="pB"),
        c.SetMemberStatus(member="pB", status="accepted"),
    ):
        given(*past).when(command).refuses(Forbidden, "shared")


def test_data_goes_out_of_reach_and_comes_back() -> None:
    away = given(*ACTIVE).when(c.Deactivate()).then(e.ImageDeactivated())
    away.when(c.Deactivate()).then()
    back = away.when(c.Reactivate()).then(e.ImageReactivated())
    back.when(c.Reactivate()).then()
    assert back.state.status == "active"


@pytest.mark.parametrize("past", [(created(),), STAGED, importing("a")])
def test_only_data_that_is_there_can_go_out_of_reach(past: tuple[e.Event, ...]) -> None:
    given(*past).when(c.Deactivate()).refuses(Forbidden)
    given(*past).when(c.Reactivate()).refuses(Forbidden)
