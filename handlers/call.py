"""One request with everything a handler needs to answer it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from handlers import cors
from handlers.errors import HttpError
from handlers.views import Viewer
from kernel.context import Actor, Context
from kernel.errors import Forbidden, Invalid, NotFound, TooLarge
from kernel.handle import Guard
from kernel.image import Image
from kernel.service import Service
from kernel.streams import share
from kernel.visibility import visible

if TYPE_CHECKING:
    from handlers.app import App
    from handlers.policy import Policy

_MOST_JSON: Final = 8 << 20
"""Bytes of a JSON body; more is refused."""

_MOST_VALUES: Final = 1 << 16
"""Values in a JSON body; millions of them fit into the bytes, but to make each takes seconds in all."""

_MOST_PARAMETERS: Final = 1000
"""Parameters of a query."""

_MOST_LEVELS: Final = 64
"""Levels of a JSON body; what is recorded of it is read, folded and shown by recursion."""


@dataclass(slots=True)
class Call:
    """A request on its way through the edge."""

    app: App
    request: web.BaseRequest
    actor: Actor
    context: Context
    parameters: Mapping[str, str]
    _read: bytes | None = None
    """The body, once it has been read as a whole: the request may have to begin anew."""

    @property
    def service(self) -> Service:
        return self.app.service

    @property
    def policy(self) -> Policy:
        return self.app.policy

    # --- who ---------------------------------------------------------------------------

    @property
    def admin(self) -> bool:
        return self.policy.admin(self.actor)

    def may(self, rule: str, target: Mapping[str, Any] | None = None) -> bool:
        """Whether policy lets the caller do what `rule` names; the target defaults to his own project."""
        return self.policy.allowed(self.actor, rule, target)

    def must(self, rule: str, target: Mapping[str, Any] | None = None) -> None:
        """`Forbidden` unless `may`."""
        if not self.may(rule, target):
            raise Forbidden("You are not authorized to complete this action")

    def reads(self, name: str) -> bool:
        """Whether the caller may read a custom property of this name."""
        return self.app.protection.allows(self.actor, "read", name)

    @property
    def viewer(self) -> Viewer:
        """The caller, as representations are made for him."""
        app = self.app
        return Viewer(
            site=app.service.site,
            admin=self.admin,
            nullable=app.image_schema.described,
            reads=self.reads if app.protection.active else None,
        )

    def sees(self, image: Image) -> bool:
        """Whether the image is there for the caller at all."""
        return visible(image, self.actor.project_id, self.admin) and self.policy.allowed_image(
            self.actor, "get_image", image
        )

    def guard(self, image_id: str, *rules: str) -> Guard:
        """A check for the write path: not visible is 404, visible but not permitted is 403."""

        def check(image: Image) -> None:
            if not self.sees(image):
                raise not_found(image_id)
            for rule in rules:
                if not self.policy.allowed_image(self.actor, rule, image):
                    raise Forbidden("You are not authorized to complete this action")

        return check

    async def image(self, *rules: str) -> Image:
        """The image that the path names, if the caller sees it and passes `rules`."""
        image_id = self.parameters["image_id"]
        image = await self.service.queries.image(image_id)
        self.guard(image_id, *rules)(image)
        return image

    # --- what --------------------------------------------------------------------------

    @property
    def query(self) -> list[tuple[str, str]]:
        """Query parameters in order, decoded."""
        raw = self.request.rel_url.raw_query_string
        try:
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
        except UnicodeDecodeError:
            raise Invalid("The query string is not valid UTF-8") from None
        except ValueError:
            raise Invalid(f"The query string has more than {_MOST_PARAMETERS} parameters") from None
        if any("\0" in name or "\0" in value for name, value in pairs):
            raise Invalid("The query string holds a NUL character")
        return pairs

    def number(self, name: str, default: int) -> int:
        """A query parameter that counts something."""
        text = dict(self.query).get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise Invalid(f"{name} must be a number, not '{text}'")
        return int(text)

    async def json(self, *kinds: type, most: int = _MOST_JSON, absent: Any = None) -> Any:
        """The JSON body, which must be of one of the given types and have at most so many bytes.

        absent: what an empty one stands for, where there need not be any.
        """
        raw = await self._body(most)
        if absent is not None and not raw:
            return absent
        if _too_many(raw):
            raise TooLarge(f"The body holds more than {_MOST_VALUES} values")
        try:
            document = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise Invalid(f"The body is not valid JSON: {error}") from None
        if not isinstance(document, kinds or (dict,)):
            raise Invalid(f"The body must be a JSON {' or '.join(_WORDS[kind] for kind in kinds or (dict,))}")
        if _too_deep(document):
            raise Invalid(f"The body is nested more than {_MOST_LEVELS} levels deep")
        if b"\\u0000" in raw and _holds_nul(document):
            raise Invalid("The body holds a NUL character")
        return document

    async def has_body(self) -> bool:
        """Whether a body came that is not empty; of a chunked one only its first piece tells."""
        if not self.request.body_exists:
            return False
        if self.request.content_length is not None:
            return self.request.content_length > 0
        return await anext(self.chunks(), b"") != b""

    async def _body(self, most: int) -> bytes:
        if self._read is not None:
            return self._read
        await self.go_on()
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > most:
                raise TooLarge(f"The body exceeds {most} bytes")
            parts.append(chunk)
        self._read = b"".join(parts)
        return self._read

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives; a sender that falls silent, or breaks off, is a 400."""
        content = self.request.content
        content.set_read_chunk_size(share())
        patience = self.service.settings.entrepot.body_timeout
        while True:
            try:
                async with asyncio.timeout(patience):
                    chunk = await content.read(share())
            except TimeoutError:
                raise Invalid(f"No data arrived for {patience:g} seconds") from None
            except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
                raise Invalid("The request broke off before its end") from None
            if not chunk:
                return
            yield chunk

    async def go_on(self) -> None:
        """Tell a client that waits for it (Expect: 100-continue) to send its data."""
        expects = self.request.headers.get("Expect", "").lower() == "100-continue"
        if expects and self.request.version >= HttpVersion11:
            transport = self.request.transport
            if transport is not None:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def client_left(self) -> None:
        """Wait until the client is gone."""
        await self.request.protocol.gone.wait()  # type: ignore[attr-defined]  # handlers/wire.py has it

    # --- answers -----------------------------------------------------------------------

    def reply(self, document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
        """A JSON answer."""
        return web.Response(
            body=orjson.dumps(document), status=status, headers=headers, content_type="application/json"
        )

    async def reply_in_pieces(self, pieces: Sequence[bytes]) -> web.StreamResponse:
        """A JSON answer that is too long to be put together first."""
        headers = {"Content-Type": "application/json", "Content-Length": str(sum(map(len, pieces)))}
        response = web.StreamResponse(headers={**headers, **self.common_headers})
        await response.prepare(self.request)
        for piece in pieces:
            await response.write(piece)
        return response

    def empty(self, status: int = 204) -> web.Response:
        """An answer without a body, and without the content type that glanceclient takes for image data."""
        return web.Response(status=status, headers={"Content-Type": "text/html; charset=UTF-8"})

    @property
    def common_headers(self) -> dict[str, str]:
        """For answers that a handler begins to send itself."""
        allowed = cors.actual(self.app.origins, self.request.headers)
        return {"x-openstack-request-id": self.context.request_id or "", **allowed}

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that the client need not wait for."""
        self.app.later(work)

    @property
    def base_url(self) -> str:
        """Scheme and authority that the client used, or is told to use."""
        return base_url(self.request, self.service)


def base_url(request: web.BaseRequest, service: Service) -> str:
    """Scheme and authority of links; those of a proxy only if the operator trusts one."""
    scheme, host = request.scheme, request.headers.get("Host") or str(request.url.authority)
    prefix = ""
    if service.settings.oslo_middleware.enable_proxy_headers_parsing:
        scheme, host, prefix = _forwarded(request.headers, scheme, host)
    return f"{scheme}://{host}{prefix}"


def _forwarded(headers: Mapping[str, str], scheme: str, host: str) -> tuple[str, str, str]:
    """What the proxy nearest to the client saw; nonsense is as good as nothing."""
    forwarded = headers.get("Forwarded")
    if forwarded:
        fields = {name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(_FIRST.match(forwarded)[0])}  # type: ignore[index]
        proto, seen = fields.get("proto", ""), fields.get("host", "")
    else:
        proto = headers.get("X-Forwarded-Proto", "").partition(",")[0]
        seen = headers.get("X-Forwarded-Host", "").partition(",")[0]
    proto, seen = proto.strip().lower(), seen.strip()
    prefix = headers.get("X-Forwarded-Prefix", "").partition(",")[0].strip().strip("/")
    return (
        proto if proto in ("http", "https") else scheme,
        seen if _AUTHORITY.fullmatch(seen) else host,
        f"/{prefix}" if prefix and _PREFIX.fullmatch(prefix) else "",
    )


_FIRST: Final = re.compile(r'(?:"[^"]*"|[^",])*')
_PAIR: Final = re.compile(r'(?<![A-Za-z])([A-Za-z]++)\s*+=\s*(?:"([^"]*)"|([^";,\s]*))')
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._~/%-]+")


def not_found(image_id: str) -> NotFound:
    return NotFound(f"No image found with ID {image_id}")


def must_be(request: web.BaseRequest, media_type: str) -> None:
    """415 unless the request's content type is this one; parameters do not matter."""
    sent = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if sent != media_type:
        raise HttpError(415, f"The content type must be {media_type}, not {sent or 'unspecified'}")


_WORDS: Final[dict[type, str]] = {dict: "object", list: "array"}


_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string of a JSON text; also one that is not closed, so that nothing is looked at twice."""


def _too_many(raw: bytes) -> bool:
    """Whether a JSON text would have too many values, counted by what separates them before any is made."""
    if len(raw) <= _MOST_VALUES or _separators(raw) < _MOST_VALUES:
        return False
    count = end = 0
    for number, string in enumerate(_STRING.finditer(raw)):  # what stands in strings separates nothing
        count += _separators(raw[end : string.start()])
        end = string.end()
        if count >= _MOST_VALUES or number > 2 * _MOST_VALUES:
            return True
    return count + _separators(raw[end:]) >= _MOST_VALUES


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _too_deep(document: Any) -> bool:
    """Whether a JSON document has too many levels; looks at one after the other, never recursing."""
    level = [document]
    for _ in range(_MOST_LEVELS):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [item for values in inner for item in values if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _holds_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
        case list():
            return any(map(_holds_nul, value))
        case _:
            return False
