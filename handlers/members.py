"""With whom an image is shared."""

from __future__ import annotations

from typing import Any, Final

from aiohttp.web import StreamResponse

from handlers import views
from handlers.call import Call
from handlers.policy import image_target
from handlers.routing import Route
from kernel import commands as c
from kernel.errors import Forbidden, Invalid, NotFound
from kernel.handle import Guard
from kernel.image import Image

_STATUSES: Final = ("pending", "accepted", "rejected")


async def index(call: Call) -> StreamResponse:
    """`GET /v2/images/{image_id}/members`: everybody for the owner, oneself for a member."""
    image = await call.image()
    _shared(image)
    _may(call, image, "get_members")
    members = [
        views.member(image, name)
        for name, member in image.members.items()
        if not member.removed and _concerns(call, image, name)
    ]
    return call.reply({"members": members, "schema": "/v2/schemas/members"})


async def show(call: Call) -> StreamResponse:
    """`GET /v2/images/{image_id}/members/{member}`"""
    image = await call.image()
    name = call.parameters["member"]
    if image.visibility != "shared" or not call.policy.allowed_image(call.actor, "get_member", image):
        raise _no_member(image, name)
    _must_know(call, image, name)
    return call.reply(views.member(image, name))


async def create(call: Call) -> StreamResponse:
    """`POST /v2/images/{image_id}/members`"""
    name = _member_in(await call.json(dict))
    image_id = call.parameters["image_id"]
    command = c.AddMember(member=name, quota=call.service.settings.default.image_member_quota)
    handled = await call.service.commands.handle(
        image_id, command, context=call.context, guard=_owners(call, image_id, "add_member")
    )
    return call.reply(views.member(handled.after, name))


async def update(call: Call) -> StreamResponse:
    """`PUT /v2/images/{image_id}/members/{member}`: the member says whether the image is welcome."""
    document = await call.json(dict)
    status = document.get("status")
    if status not in _STATUSES:
        raise Invalid(f"status must be one of {', '.join(_STATUSES)}")
    name = call.parameters["member"]
    image_id = call.parameters["image_id"]

    def guard(image: Image) -> None:
        call.guard(image_id)(image)
        _shared(image)
        _must_know(call, image, name)
        target = {**image_target(call.actor, image), "member_id": name, "member": name}
        if not call.policy.allowed(call.actor, "modify_member", target):
            raise Forbidden("Only the member itself may change its status")

    command = c.SetMemberStatus(member=name, status=status)
    handled = await call.service.commands.handle(image_id, command, context=call.context, guard=guard)
    return call.reply(views.member(handled.after, name))


async def delete(call: Call) -> StreamResponse:
    """`DELETE /v2/images/{image_id}/members/{member}`"""
    image_id = call.parameters["image_id"]
    command = c.RemoveMember(member=call.parameters["member"])
    await call.service.commands.handle(
        image_id, command, context=call.context, guard=_owners(call, image_id, "delete_member")
    )
    return call.empty()


# --- pieces ------------------------------------------------------------------------------


def _owners(call: Call, image_id: str, rule: str) -> Guard:
    """For what only the owning side may do, on an image that is shared."""
    seen = call.guard(image_id)

    def check(image: Image) -> None:
        seen(image)
        _shared(image)
        _may(call, image, rule)

    return check


def _shared(image: Image) -> None:
    if image.visibility != "shared":
        raise Forbidden("Only shared images have members")


def _may(call: Call, image: Image, rule: str) -> None:
    if not call.policy.allowed_image(call.actor, rule, image):
        raise Forbidden("You are not authorized to complete this action")


def _concerns(call: Call, image: Image, name: str) -> bool:
    """Whether the caller may know of a member: owners of all, members of themselves."""
    project = call.actor.project_id
    return call.admin or (project is not None and project in (image.owner, name))


def _must_know(call: Call, image: Image, name: str) -> None:
    member = image.members.get(name)
    if member is None or member.removed or not _concerns(call, image, name):
        raise _no_member(image, name)


def _no_member(image: Image, name: str) -> NotFound:
    return NotFound(f"Image {image.id} is not shared with {name[:255]}")


def _member_in(document: dict[str, Any]) -> str:
    name = document.get("member")
    if not isinstance(name, str) or not 1 <= len(name) <= 255:
        raise Invalid("member must be a string of 1 to 255 characters")
    return name


_ERRORS: Final = (400, 401, 403, 404, 409, 413)

ROUTES: Final = (
    Route(method="GET", path="/images/{image_id}/members", handler=index, summary="Members of an image"),
    Route(
        method="POST",
        path="/images/{image_id}/members",
        handler=create,
        body="json",
        errors=_ERRORS,
        summary="Share an image with a project",
    ),
    Route(method="GET", path="/images/{image_id}/members/{member}", handler=show, summary="One member"),
    Route(
        method="PUT",
        path="/images/{image_id}/members/{member}",
        handler=update,
        body="json",
        summary="Accept or reject an image",
    ),
    Route(
        method="DELETE",
        path="/images/{image_id}/members/{member}",
        handler=delete,
        success=(204,),
        summary="Stop sharing an image with a project",
    ),
)
