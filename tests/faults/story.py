"""Clients that do not give up: each story looks at its image and does what comes next.

A node may die under any request, so nothing here believes an answer; only the image's
state counts, as a real client's retry would have it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
from aiohttp import web

OCTETS = {"Content-Type": "application/octet-stream"}


def content_of(image_id: str, size: int) -> bytes:
    """The bytes of an image, by its id: whoever knows it can make and check them."""
    return hashlib.shake_128(image_id.encode()).digest(size)


class Origin:
    """A web server that images are imported from: `/<image id>/<size>`, by halves, with ranges and a strong ETag."""

    def __init__(self) -> None:
        self.url = ""
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        _, image_id, size = request.path.split("/")
        if not size.isdigit():
            return web.Response(status=404)
        content, tag = content_of(image_id, int(size)), f'"{image_id}"'
        begin = 0
        if request.headers.get("If-Range") == tag and "Range" in request.headers:
            begin = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        response = web.StreamResponse(status=206 if begin else 200, headers={"ETag": tag, "Accept-Ranges": "bytes"})
        response.content_length = len(content) - begin
        if begin:
            response.headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        half = (len(content) - begin) // 2
        for part in (content[begin : begin + half], content[begin + half :]):
            await response.write(part)
        return response


class Client:
    """HTTP to several nodes in turn; what breaks is tried again elsewhere until the deadline."""

    def __init__(self, urls: list[str], seconds: float = 45) -> None:
        self.urls = urls
        self._seconds = seconds
        self._preferred = 0
        self._session: aiohttp.ClientSession | None = None
        self.origin = Origin()

    async def __aenter__(self) -> Client:
        timeout = aiohttp.ClientTimeout(total=4, connect=2)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True))
        await self.origin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()
        await self.origin.stop()

    async def once(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None, node: int | None = None
    ) -> tuple[int, bytes]:
        """One attempt, at the node that answered last; status 0 when it broke off."""
        assert self._session is not None
        url = self.urls[self._preferred if node is None else node]
        try:
            async with self._session.request(
                method,
                f"{url}{path}",
                data=io.BytesIO(data) if data else None,
                headers={"Accept": "application/json", **(headers or {})},
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            if node is None:
                self._preferred = (self._preferred + 1) % len(self.urls)
            return 0, b""

    async def image(self, image_id: str) -> dict[str, Any] | None:
        """The image as whichever node answers sees it; None when it is deleted."""
        deadline = time.monotonic() + self._seconds
        node = len(self.urls) - 1
        while time.monotonic() < deadline:
            status, body = await self.once("GET", f"/v2/images/{image_id}", node=node)
            if status == 200:
                document: dict[str, Any] = orjson.loads(body)
                return document
            if status == 404:
                return None
            node = (node + 1) % len(self.urls)
            await asyncio.sleep(0.05)
        raise AssertionError(f"nobody says what {image_id} is")

    async def data(self, image_id: str) -> bytes:
        for attempt in range(60):
            status, body = await self.once("GET", f"/v2/images/{image_id}/file", node=attempt % len(self.urls))
            if status == 200:
                return body
            await asyncio.sleep(0.1)
        raise AssertionError(f"the data of {image_id} cannot be had")


class Story:
    """One image's life, told until its end."""

    def __init__(self, client: Client, size: int = 200_000) -> None:
        self.client = client
        self.id = str(uuid4())
        self.content = content_of(self.id, size)
        self.sent = self.content
        self.ended = False

    async def create(self, **attributes: Any) -> None:
        document = {"id": self.id, "disk_format": "raw", "container_format": "bare", **attributes}
        while await self.client.image(self.id) is None:
            await self.client.once("POST", "/v2/images", orjson.dumps(document))

    async def go(
        self,
        step: Callable[[dict[str, Any]], Awaitable[bool]],
        seconds: float = 45,
    ) -> None:
        """Look and act until the step says that the goal is reached."""
        deadline = time.monotonic() + seconds
        seen: dict[str, Any] | None = None
        while time.monotonic() < deadline:
            seen = await self.client.image(self.id)
            assert seen is not None, f"{self.id} vanished"
            if await step(seen):
                return
            await asyncio.sleep(0.03)
        raise AssertionError(f"{self.id} never got there: {seen}")

    async def stage(self) -> None:
        await self.client.once("PUT", f"/v2/images/{self.id}/stage", self.sent, OCTETS)

    async def ask_import(self, **body: Any) -> None:
        document = {"method": {"name": "glance-direct"}, **body}
        await self.client.once("POST", f"/v2/images/{self.id}/import", orjson.dumps(document))

    async def import_to(self, stores: list[str], **body: Any) -> None:
        """Stage and import until the image is active in all stores."""

        async def step(image: dict[str, Any]) -> bool:
            if image["status"] == "active":
                return bool(image.get("os_glance_importing_to_stores") == "" and "os_glance_import_task" not in image)
            if image["status"] == "queued":
                await self.stage()
            elif image["status"] == "uploading" and image["size"] is not None:
                await self.ask_import(stores=stores, **body)
            return False

        await self.go(step)

    async def download_to(self, stores: list[str]) -> None:
        """Have the service fetch the data itself, until the image is active in all stores."""
        method = {"name": "web-download", "uri": f"{self.client.origin.url}/{self.id}/{len(self.content)}"}

        async def step(image: dict[str, Any]) -> bool:
            if image["status"] == "queued":
                await self.ask_import(method=method, stores=stores)
            return bool(image["status"] == "active" and "os_glance_import_task" not in image)

        await self.go(step)

    async def made_by_import(self, stores: list[str]) -> None:
        """Have the service make an image of what it fetches; the story goes on with that one."""
        location = f"{self.client.origin.url}/{self.id}/{len(self.content)}"
        body = {"location": location, "image_properties": {"name": self.id}, "stores": stores}
        record = await self._recorded("image-imports", body, location)
        assert record["status"] == "success", record
        self.id = record["image_ref"].rpartition("/")[2]

    async def made_in_vain(self) -> None:
        """Ask for an image of what cannot be fetched."""
        location = f"{self.client.origin.url}/{self.id}/nothing"
        given = {"import_from": location, "import_from_format": "raw", "image_properties": {"name": self.id}}
        record = await self._recorded("tasks", {"type": "import", "input": given}, location)
        assert record["status"] == "failure", record
        self.ended = True

    async def _recorded(self, resource: str, body: dict[str, Any], location: str) -> dict[str, Any]:
        """Ask until there is a record of it; returns the record once it is final."""
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline:
            for record in await self._records(resource):
                if location not in (record.get("location"), record.get("input", {}).get("import_from")):
                    continue
                if record["status"] in ("success", "failure"):
                    return record
                break
            else:
                await self.client.once("POST", f"/v2/{resource}", orjson.dumps(body))
            await asyncio.sleep(0.03)
        raise AssertionError(f"nothing came of {location}")

    async def _records(self, resource: str) -> list[dict[str, Any]]:
        """The newest records, in full; none while nobody answers."""
        status, raw = await self.client.once("GET", f"/v2/{resource}?limit=20")
        listed: list[dict[str, Any]] = orjson.loads(raw)[resource] if status == 200 else []
        if status != 200:
            await asyncio.sleep(0.05)
            return await self._records(resource)
        if resource == "image-imports":
            return listed
        full = [await self.client.once("GET", f"/v2/{resource}/{record['id']}") for record in listed]
        return [orjson.loads(raw) for status, raw in full if status == 200]

    async def copy_to(self, stores: list[str]) -> None:
        """Copy an active image until it is in all stores."""

        async def step(image: dict[str, Any]) -> bool:
            if set(stores) <= set(image["stores"].split(",")):
                return "os_glance_import_task" not in image
            if "os_glance_import_task" not in image:
                await self.ask_import(method={"name": "copy-image"}, stores=stores)
            return False

        await self.go(step)

    async def delete(self) -> None:
        deadline = time.monotonic() + 45
        while await self.client.image(self.id) is not None:
            await self.client.once("DELETE", f"/v2/images/{self.id}")
            assert time.monotonic() < deadline
        self.ended = True

    async def verify(self) -> None:
        """The data is what was sent, and the record says so."""
        image = await self.client.image(self.id)
        assert image is not None
        assert image["status"] == "active"
        assert image["size"] == len(self.content)
        assert image["checksum"] == hashlib.md5(self.content).hexdigest()
        assert image["os_hash_value"] == hashlib.sha512(self.content).hexdigest()
        assert await self.client.data(self.id) == self.content

    async def register(self, **said: Any) -> None:
        """Have the service take over what lies at the origin, until it is hashed."""
        url = f"{self.client.origin.url}/{self.id}/{len(self.content)}"
        document = orjson.dumps({"url": url, **said})

        async def step(image: dict[str, Any]) -> bool:
            if image["status"] == "queued" and "os_glance_import_task" not in image:
                await self.client.once("POST", f"/v2/images/{self.id}/locations", document)
            return bool(image["status"] == "active" and "os_glance_import_task" not in image)

        await self.go(step)


# --- the stories -------------------------------------------------------------------------


async def three_stores(story: Story) -> None:
    """Staged, imported to three stores, and kept."""
    await story.create()
    await story.import_to(["fast", "cheap", "reliable"])
    await story.verify()


async def imported_and_deleted(story: Story) -> None:
    """Staged, imported, and deleted again."""
    await story.create()
    await story.import_to(["fast", "cheap"])
    await story.delete()


async def uploaded(story: Story) -> None:
    """Sent straight into a store."""
    await story.create()

    async def step(image: dict[str, Any]) -> bool:
        if image["status"] == "queued":
            await story.client.once("PUT", f"/v2/images/{story.id}/file", story.content, OCTETS)
        return bool(image["status"] == "active")

    await story.go(step)
    await story.verify()


async def refused_transfers(story: Story) -> None:
    """A stage and an upload of the wrong length leave the image as it was; then it is imported after all."""
    await story.create()
    wrong = {**OCTETS, "X-OpenStack-Image-Size": str(len(story.content) + 1)}
    for what in ("stage", "file"):
        while True:
            status, _ = await story.client.once("PUT", f"/v2/images/{story.id}/{what}", story.content, wrong)
            if status == 400:
                break

        async def queued(image: dict[str, Any]) -> bool:
            return bool(image["status"] == "queued")

        await story.go(queued)
    await story.import_to(["fast"])
    await story.verify()


async def a_store_that_fails(story: Story) -> None:
    """All must succeed and one cannot: everything is taken back, and the next attempt works."""
    await story.create()

    async def fails(image: dict[str, Any]) -> bool:
        if image["status"] == "queued":
            if image.get("os_glance_failed_import") == "web":
                return True
            await story.stage()
        elif image["status"] == "uploading" and image["size"] is not None:
            await story.ask_import(stores=["fast", "web"])
        return False

    await story.go(fails)
    await story.import_to(["cheap"])
    await story.verify()


async def data_that_is_refused(story: Story) -> None:
    """Data that is not what it is declared to be never reaches a store."""
    await story.create(disk_format="vmdk")

    async def fails(image: dict[str, Any]) -> bool:
        if image["status"] == "queued":
            if image.get("os_glance_failed_import") == "fast":
                return True
            await story.stage()
        elif image["status"] == "uploading" and image["size"] is not None:
            await story.ask_import(stores=["fast"])
        return False

    await story.go(fails)
    await story.delete()


async def unpacked_on_the_way(story: Story) -> None:
    """What is staged is an archive; what is stored is what was in it."""
    story.sent = gzip.compress(story.content)
    await story.create()
    await story.import_to(["fast", "cheap"])
    await story.verify()


async def downloaded_and_copied(story: Story) -> None:
    """Fetched from the web into one store, then copied to the others."""
    await story.create()
    await story.download_to(["fast"])
    await story.copy_to(["cheap", "reliable"])
    await story.verify()


async def registered(story: Story) -> None:
    """Taken over from where it lies, and compared with the hash that the client knows."""
    await story.create()
    await story.register(
        validation_data={"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(story.content).hexdigest()}
    )
    await story.verify()
    await story.delete()


async def made_of_what_is_elsewhere(story: Story) -> None:
    """An image import, whose image is there once it is whole."""
    await story.made_by_import(["fast", "cheap"])
    await story.verify()


async def made_in_vain(story: Story) -> None:
    """A task whose image goes with its failure."""
    await story.made_in_vain()


STORIES: dict[str, Callable[[Story], Awaitable[None]]] = {
    "three stores": three_stores,
    "imported and deleted": imported_and_deleted,
    "uploaded": uploaded,
    "refused transfers": refused_transfers,
    "a store that fails": a_store_that_fails,
    "data that is refused": data_that_is_refused,
    "unpacked on the way": unpacked_on_the_way,
    "downloaded and copied": downloaded_and_copied,
    "registered": registered,
    "made of what is elsewhere": made_of_what_is_elsewhere,
    "made in vain": made_in_vain,
}
