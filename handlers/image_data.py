"""Image data: upload, download, staging."""

from __future__ import annotations

from typing import Final

import structlog
from aiohttp import web

from handlers.call import Call, must_be
from handlers.imports import OFFERED
from handlers.ranges import Span, count, requested
from handlers.routing import Route
from handlers.sendfile import enlarge, send_file
from kernel.decide import check_unlocked, missing_formats
from kernel.errors import EntrepotError, Forbidden, Invalid, NotFound, StoreReadOnly, TooLarge
from kernel.events import ImageSent
from kernel.ids import stream_of
from kernel.image import Image
from kernel.log import Request
from kernel.reading import Copy, open_copy
from kernel.recorded import ACCESS, pending
from kernel.site import Backend

log = structlog.get_logger(__name__)

_OCTETS: Final = "application/octet-stream"


async def stage(call: Call) -> web.StreamResponse:
    """`PUT /v2/images/{image_id}/stage`"""
    image_id = call.parameters["image_id"]
    settings = call.service.settings.default
    if not any(method.needs == "uploading" for method in call.service.site.methods.values()):
        raise NotFound("'glance-direct' method is not available at this site")
    must_be(call.request, _OCTETS)
    declared = _declared(call)
    authorised = call.guard(image_id, "modify_image")

    def guard(image: Image) -> None:
        authorised(image)
        check_unlocked(image)
        if image.status == "queued":
            _check_cap(declared, settings.image_size_cap)

    await call.service.transfers.stage(
        image_id, call.chunks(), context=call.context, guard=guard, declared=declared, accepted=call.go_on
    )
    return call.empty()


async def upload(call: Call) -> web.StreamResponse:
    """`PUT /v2/images/{image_id}/file`"""
    image_id = call.parameters["image_id"]
    must_be(call.request, _OCTETS)
    declared = _declared(call)
    backend = _backend(call)
    authorised = call.guard(image_id, "upload_image")
    cap = call.service.settings.default.image_size_cap

    def guard(image: Image) -> None:
        authorised(image)
        if image.status == "queued" and not missing_formats(image):
            if backend.read_only:
                raise StoreReadOnly(backend.name)
            _check_cap(declared, cap)

    await call.service.transfers.upload(
        image_id,
        backend,
        call.chunks(),
        context=call.context,
        guard=guard,
        declared=declared,
        accepted=call.go_on,
    )
    return call.empty()


async def download(call: Call) -> web.StreamResponse:
    """`GET /v2/images/{image_id}/file`"""
    image = await call.image()
    if image.status == "deactivated" and not call.admin:
        raise Forbidden("The image is deactivated; its data cannot be downloaded")
    if not call.policy.allowed_image(call.actor, "download_image", image):
        raise Forbidden("You are not authorized to complete this action")
    prefer = _preferred(call, image)
    if image.status not in ("active", "deactivated") or not image.locations:
        return call.empty()
    copy = await open_copy(call.service.site, image, prefer)
    headers = call.request.headers
    span = requested(headers.get("Range"), headers.get("Content-Range"), copy.size)
    return await _send(call, image, copy, span)


# --- requests ----------------------------------------------------------------------------


def _declared(call: Call) -> int | None:
    """How many bytes the client says it will send: its own header wins, and 0 there means unknown."""
    text = call.request.headers.get("X-OpenStack-Image-Size")
    if text is None:
        return call.request.content_length
    if not text.isascii() or not text.isdigit():
        raise Invalid(f"x-openstack-image-size must be a number of bytes, not '{text}'")
    return count(text) or None


def _check_cap(declared: int | None, cap: int) -> None:
    """Refuse what is announced to be too large; judged last, when nothing else stands against the data."""
    if declared is not None and declared > cap:
        raise TooLarge(f"The image data announced exceeds the limit of {cap} bytes")


def _backend(call: Call) -> Backend:
    """The store that an upload goes to."""
    site = call.service.site
    name = call.request.headers.get("X-Image-Meta-Store") if site.multi else None
    if name is not None and name not in site.backends:
        raise Invalid(f"Store for identifier {name} not found")
    return site.backends[name or site.default]


def _preferred(call: Call, image: Image) -> list[str]:
    wanted = [value for name, value in call.query if name == "prefer"]
    if not wanted:
        return []
    site = call.service.site
    if not site.multi:
        raise Invalid("prefer is for sites with several stores")
    if not call.policy.allowed_image(call.actor, "download_from_store", image):
        raise Forbidden("You are not authorized to complete this action")
    names = [name.strip() for name in wanted[-1].split(",") if name.strip()]
    for name in names:
        if name not in site.backends:
            raise Invalid(f"Store for identifier {name} not found")
    return names


# --- answers -----------------------------------------------------------------------------


async def _send(call: Call, image: Image, copy: Copy, span: Span | None) -> web.StreamResponse:
    """Stream the data, then leave a note of how much went out."""
    whole = span or Span(0, copy.size - 1, copy.size)
    headers = {"Content-Type": _OCTETS, "Accept-Ranges": "bytes", "Content-Length": str(whole.length)}
    if span is not None:
        headers["Content-Range"] = span.header
    if image.checksum is not None:
        headers["Content-MD5"] = image.checksum
    response = web.StreamResponse(status=206 if span else 200, headers={**headers, **call.common_headers})
    sent = 0
    try:
        sent = await _body(call, copy, whole, response)
    finally:
        call.later(_note(call, image, sent, whole.length))
    return response


async def _body(call: Call, copy: Copy, span: Span, response: web.StreamResponse) -> int:
    request, path = call.request, copy.path
    if path is not None and request.transport is not None:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            enlarge(sock)
    await response.prepare(request)
    if span.length == 0:
        return 0
    if path is not None:
        sent = await send_file(request, response, path, span.first, span.length)
    else:
        sent = 0
        try:
            async for chunk in copy.read(span.first, span.length):
                await response.write(chunk)
                sent += len(chunk)
        except (EntrepotError, ConnectionError) as error:
            log.warning("download_broke_off", image_id=call.parameters["image_id"], sent=sent, reason=str(error))
    if sent != span.length:
        _break_off(request)
    return sent


def _break_off(request: web.BaseRequest) -> None:
    """The only way to tell a client in the middle of a body that the rest will not come."""
    if request.transport is not None:
        request.transport.abort()


async def _note(call: Call, image: Image, sent: int, asked: int) -> None:
    stream = stream_of(image.id)
    assert stream is not None
    event = ImageSent(
        image_id=image.id,
        owner=image.owner,
        sent=sent,
        asked=asked,
        receiver_project=call.actor.project_id,
        receiver_user=call.actor.user_id,
    )
    events = pending((event,), call.context, call.service.clock.now())
    try:
        await call.service.log.append(Request(category=ACCESS, stream=stream, expected=None, events=events))
    except EntrepotError as error:
        log.warning("download_not_noted", image_id=image.id, reason=str(error))


ROUTES: Final = (
    Route(
        method="PUT",
        path="/images/{image_id}/stage",
        handler=stage,
        body="data",
        success=(204,),
        errors=(400, 401, 403, 404, 409, 410, 413, 415, 503),
        summary="Stage data for a later import",
        **OFFERED,
    ),
    Route(
        method="PUT",
        path="/images/{image_id}/file",
        handler=upload,
        body="data",
        success=(204,),
        errors=(400, 401, 403, 404, 409, 410, 413, 415, 503),
        summary="Upload data",
    ),
    Route(
        method="GET",
        path="/images/{image_id}/file",
        handler=download,
        success=(200, 204, 206),
        errors=(400, 401, 403, 404, 416, 503),
        summary="Download data",
    ),
)
