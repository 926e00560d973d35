"""Whom an image is shared with."""

from __future__ import annotations

from collections.abc import Sequence

from kernel import commands as c
from kernel import events as e
from kernel.decide.guards import must_exist
from kernel.decide.table import Table
from kernel.errors import Conflict, Forbidden, NotFound
from kernel.image import Image
from kernel.patch import within

RULES = Table()
on = RULES.on


@on(c.AddMember)
def _add_member(command: c.AddMember, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    present = [name for name, member in image.members.items() if not member.removed]
    within("members", len(present) + 1, command.quota)
    if command.member in present:
        raise Conflict(f"Image {image.id} is shared with {command.member} already")
    return (e.MemberAdded(member=command.member),)


@on(c.SetMemberStatus)
def _set_member_status(command: c.SetMemberStatus, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    _must_be_member(image, command.member)
    return (e.MemberStatusChanged(member=command.member, status=command.status),)


@on(c.RemoveMember)
def _remove_member(command: c.RemoveMember, image: Image) -> Sequence[e.Event]:
    _must_be_shared(image)
    _must_be_member(image, command.member)
    return (e.MemberRemoved(member=command.member),)


def _must_be_shared(image: Image) -> None:
    must_exist(image)
    if image.visibility != "shared":
        raise Forbidden("Only shared images have members")


def _must_be_member(image: Image, name: str) -> None:
    member = image.members.get(name)
    if member is None or member.removed:
        raise NotFound(f"Image {image.id} is not shared with {name}")
