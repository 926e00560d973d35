"""Whom an image is shared with."""

from __future__ import annotations

from msgspec.structs import replace

from kernel import events as e
from kernel.evolve.table import Table
from kernel.image import Image, Member
from kernel.recorded import Meta

RULES = Table()
on = RULES.on


@on(e.MemberAdded)
def _member_added(image: Image, event: e.MemberAdded, meta: Meta) -> Image:
    former = image.members.get(event.member)
    since = former.created_at if former else meta.at
    member = Member(status="pending", created_at=since, updated_at=meta.at)
    return replace(image, members={**image.members, event.member: member})


@on(e.MemberStatusChanged)
def _member_status(image: Image, event: e.MemberStatusChanged, meta: Meta) -> Image:
    member = image.members.get(event.member)
    if member is None:
        return image
    member = replace(member, status=event.status, updated_at=meta.at)
    return replace(image, members={**image.members, event.member: member})


@on(e.MemberRemoved)
def _member_removed(image: Image, event: e.MemberRemoved, meta: Meta) -> Image:
    member = image.members.get(event.member)
    if member is None:
        return image
    member = replace(member, removed=True, updated_at=meta.at)
    return replace(image, members=_remembered({**image.members, event.member: member}))


_MOST_FORMER = 128
"""Former members that are remembered, so that one who comes back is as old as before."""


def _remembered(members: dict[str, Member]) -> dict[str, Member]:
    """All members, and of the former ones those that left last: a state does not grow for ever."""
    former = sorted((member.updated_at, name) for name, member in members.items() if member.removed)
    forgotten = {name for _, name in former[:-_MOST_FORMER]}
    return {name: member for name, member in members.items() if name not in forgotten} if forgotten else members
