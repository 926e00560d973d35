"""Notifications as CloudEvents 1.0, posted to a URL: one request a message, in order for each image.

An answer of 2xx takes the message.  408, 429, 5xx, no answer and redirects have it tried
again; any other 4xx refuses it for good, which parks its image and nothing else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator

from kernel.codec import encode
from kernel.errors import Unavailable
from kernel.extend import NotificationSink, Refused
from kernel.notifications import Notification

_LONGEST_WAIT: Final = 60
_LATER: Final = frozenset({408, 429})


class WebhookConfig(BaseModel):
    """[sink_webhook]"""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: HttpUrl = Field(description="Where events are posted to.")
    authorization: SecretStr | None = Field(None, description="Value of the Authorization header, if one is wanted.")
    ca_file: Path | None = Field(None, description="Authorities to trust for https; unset: those of the system.")
    timeout: float = Field(10.0, gt=0, description="Seconds that one request may take.")
    concurrency: int = Field(8, ge=1, description="Images whose events are posted side by side.")
    publisher_id: str = "image.localhost"

    @field_validator("ca_file")
    @classmethod
    def _trusted(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=str(value))
            except OSError as error:
                raise ValueError(f"{value} holds no certificates: {error.strerror or error}") from None
        return value


class WebhookSink:
    """Posts; remembers what was taken of a batch that is tried again."""

    def __init__(self, config: WebhookConfig, session: aiohttp.ClientSession) -> None:
        self._config = config
        self._session = session
        self._taken: set[UUID] = set()

    @classmethod
    async def open(cls, config: WebhookConfig) -> WebhookSink:
        trust: ssl.SSLContext | bool = True
        if config.ca_file is not None:
            trust = await asyncio.to_thread(ssl.create_default_context, cafile=str(config.ca_file))
        headers = {"Content-Type": "application/cloudevents+json; charset=utf-8", "User-Agent": "entrepot"}
        if config.authorization is not None:
            headers["Authorization"] = config.authorization.get_secret_value()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.concurrency, ssl=trust),
            timeout=aiohttp.ClientTimeout(total=config.timeout),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return cls(config, session)

    async def close(self) -> None:
        await self._session.close()

    async def deliver(self, batch: Sequence[Notification]) -> None:
        """A message that is refused holds back its own image only; all others are out when `Refused` is raised."""
        streams: dict[UUID, list[Notification]] = {}
        for message in batch:
            if message.id not in self._taken:
                streams.setdefault(message.stream, []).append(message)
        room = asyncio.Semaphore(self._config.concurrency)
        ends = await asyncio.gather(
            *(self._post_in_order(messages, room) for messages in streams.values()), return_exceptions=True
        )
        refusals: dict[UUID, Refused] = {}
        for end in ends:
            if isinstance(end, Refused):
                refusals[end.message_id] = end
            elif isinstance(end, BaseException):
                raise end
        for message in batch:
            if message.id in refusals:
                raise refusals[message.id]
        self._taken.clear()

    async def _post_in_order(self, messages: Sequence[Notification], room: asyncio.Semaphore) -> None:
        async with room:
            for message in messages:
                await self._post(message)
                self._taken.add(message.id)

    async def _post(self, message: Notification) -> None:
        url = str(self._config.url)
        body = encode(cloud_event(message, self._config.publisher_id))
        try:
            async with self._session.post(url, data=body, allow_redirects=False) as answer:
                status, after = answer.status, answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"the webhook does not answer: {error or repr(error)}") from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in _LATER:
            raise Refused(message.id, f"the webhook answered {status}")
        if after.isascii() and after.isdigit():
            await asyncio.sleep(min(int(after), _LONGEST_WAIT))
        raise Unavailable(f"the webhook answered {status}")


def cloud_event(message: Notification, source: str) -> dict[str, Any]:
    """The message in CloudEvents' JSON format; what is ours goes into extension attributes."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(message.id),
        "source": source,
        "type": message.event_type,
        "time": message.at.isoformat(),
        "datacontenttype": "application/json",
        "priority": message.priority,
        "position": str(message.position),
        "data": message.payload,
    }
    if message.image_id is not None:
        event["subject"] = message.image_id
    if message.request_id is not None:
        event["requestid"] = message.request_id
    return event


EXTENSION = NotificationSink(name="webhook", config=WebhookConfig, connect=WebhookSink.open, section="sink_webhook")
