"""The Image API as a client uses it: create, stage, import, look, download."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import orjson
from msgspec import Struct

from kernel.errors import EntrepotError, Unavailable
from ops.commands.units import short

_PIECE: Final = 1 << 20
_OPS: Final = "/ops/v1"
_OFFERS: Final = ("OpenStack-image-import-methods", "OpenStack-image-store-ids")
_TAG: Final = re.compile(r"<(?:head|script|style).*?</(?:head|script|style)>|<[^>]*>", re.DOTALL)


class Refused(EntrepotError):
    """The service said no."""

    def __init__(self, what: str, status: int, reason: str) -> None:
        super().__init__(f"{what} was refused: {reason} (HTTP {status})")
        self.status = status


class Offer(Struct, frozen=True):
    """What a service says it can do; None where it says nothing."""

    methods: tuple[str, ...] | None
    stores: tuple[str, ...] | None


class ImageApi:
    """One service."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v2")
        self._headers = {"Accept": "application/json", **({"X-Auth-Token": token} if token else {})}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, read_bufsize=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    # --- images --------------------------------------------------------------------------

    async def create(self, attributes: Mapping[str, Any]) -> tuple[str, Offer]:
        """Make an image record; returns its id, and what imports the service offers."""
        async with self._request("POST", "/images", "The image", json=attributes) as response:
            document = self._document(await response.read())
            methods, stores = (response.headers.get(name) for name in _OFFERS)
        return str(document["id"]), Offer(_names(methods), _names(stores))

    async def show(self, image_id: str) -> dict[str, Any]:
        """An image as it is now."""
        return await self._json("GET", f"/images/{image_id}", f"Image {image_id}")

    async def delete(self, image_id: str) -> None:
        """Remove an image."""
        async with self._request("DELETE", f"/images/{image_id}", "Deleting the image"):
            pass

    async def tasks(self, image_id: str) -> list[dict[str, Any]]:
        """Tasks of an image, oldest first."""
        document = await self._json("GET", f"/images/{image_id}/tasks", f"A look at the tasks of image {image_id}")
        tasks: list[dict[str, Any]] = document.get("tasks", [])
        return sorted(tasks, key=lambda task: str(task.get("created_at")))

    # --- imports, as operators handle them -----------------------------------------------

    async def explain(self, task: str) -> dict[str, Any]:
        """What became of an import."""
        return await self._json("GET", f"/imports/{task}/explain", "The explanation", below=_OPS)

    async def cancel(self, task: str, reason: str) -> dict[str, Any]:
        """Call an import off."""
        body = {"reason": reason} if reason else {}
        return await self._json("POST", f"/imports/{task}/cancel", "Cancelling", below=_OPS, json=body)

    async def retry(self, task: str) -> dict[str, Any]:
        """Have the stores filled that an import was to fill and that lack the image."""
        return await self._json("POST", f"/imports/{task}/retry", "The retry", below=_OPS)

    # --- bytes -----------------------------------------------------------------------------

    async def stage(self, image_id: str, file: Path, progress: Callable[[int, int], None]) -> None:
        """Send a file for an import."""
        size = (await asyncio.to_thread(file.stat)).st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        data = _pieces(file, size, progress)
        async with self._request("PUT", f"/images/{image_id}/stage", "The data", data=data, headers=headers):
            pass

    async def import_image(self, image_id: str, body: Mapping[str, Any]) -> None:
        """Ask for an import."""
        async with self._request("POST", f"/images/{image_id}/import", "The import", json=body):
            pass

    async def download(self, image_id: str) -> AsyncIterator[bytes]:
        """The bytes of an image."""
        async with self._request("GET", f"/images/{image_id}/file", "The download") as response:
            async for chunk in response.content.iter_chunked(_PIECE):
                yield chunk

    # --- requests --------------------------------------------------------------------------

    async def _json(self, method: str, path: str, what: str, **more: Any) -> dict[str, Any]:
        async with self._request(method, path, what, **more) as response:
            return self._document(await response.read())

    def _document(self, body: bytes) -> dict[str, Any]:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise Unavailable(f"What answers at {self.url} is no image service")
        return document

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, what: str, below: str = "/v2", **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is no refusal; `Refused`, or `Unavailable` when nobody answers."""
        assert self._session is not None
        try:
            async with self._session.request(
                method, f"{self.url}{below}{path}", allow_redirects=False, **more
            ) as response:
                if response.status >= 300:
                    await self._refuse(what, response)
                yield response
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise Unavailable(f"'{self.url}' is no address of a service") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"The service at {self.url} does not answer: {_reason(error)}") from error

    async def _refuse(self, what: str, response: aiohttp.ClientResponse) -> None:
        body = (await response.read()).decode(errors="replace")
        try:
            reason = str(orjson.loads(body)["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            reason = " ".join(_TAG.sub(" ", body).split()) or str(response.reason)
        reason = short(reason, 500)
        if response.status == 503:
            raise Unavailable(f"The service at {self.url} cannot do this now: {reason}")
        raise Refused(what, response.status, reason)


async def _pieces(file: Path, size: int, progress: Callable[[int, int], None]) -> AsyncIterator[bytes]:
    """A file as it is read; one that shrinks meanwhile breaks the upload off."""
    sent = 0
    with file.open("rb") as source:
        while sent < size:
            piece = await asyncio.to_thread(source.read, min(_PIECE, size - sent))
            if not piece:
                raise OSError(f"{file} became shorter while it was read")
            yield piece
            sent += len(piece)
            progress(sent, size)


def _reason(error: BaseException) -> str:
    match error:
        case aiohttp.ClientConnectorError():
            return os.strerror(error.os_error.errno) if error.os_error.errno else str(error.os_error)
        case TimeoutError():
            return "it took too long"
        case _:
            return str(error) or type(error).__name__


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
