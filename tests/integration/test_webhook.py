"""Webhooks: the event on the wire, and what each answer leads to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import ValidationError

from kernel.errors import Unavailable
from kernel.extend import Refused
from kernel.notifications import Notification
from plugins.sinks.webhook import WebhookConfig, WebhookSink
from tests.support.hook import Hook, hook

STREAM = UUID("6f1b4a3e-0c5d-4f6a-9d35-1f2c3b4a5d6e")


def message(stream: UUID = STREAM, **more: Any) -> Notification:
    given = {
        "id": uuid4(),
        "event_type": "image.update",
        "priority": "INFO",
        "payload": {"id": str(stream)},
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "position": 7,
        "stream": stream,
        "image_id": str(stream),
        "request_id": "req-1",
    }
    return Notification(**{**given, **more})


@pytest.fixture
async def there() -> AsyncIterator[Hook]:
    async with hook() as made:
        yield made


@pytest.fixture
async def sink(there: Hook) -> AsyncIterator[WebhookSink]:
    config = WebhookConfig.model_validate({"url": there.url, "authorization": "Bearer t", "publisher_id": "image.h"})
    made = await WebhookSink.open(config)
    yield made
    await made.close()


async def test_a_cloud_event(sink: WebhookSink, there: Hook) -> None:
    sent = message()
    await sink.deliver([sent])
    assert there.events == [
        {
            "specversion": "1.0",
            "id": str(sent.id),
            "source": "image.h",
            "type": "image.update",
            "subject": str(STREAM),
            "time": "2026-01-02T03:04:05+00:00",
            "datacontenttype": "application/json",
            "priority": "INFO",
            "position": "7",
            "requestid": "req-1",
            "data": {"id": str(STREAM)},
        }
    ]
    assert there.headers[0]["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert there.headers[0]["authorization"] == "Bearer t"


@pytest.mark.parametrize("status", [301, 307, 408, 429, 500, 502, 503])
async def test_what_may_pass_is_tried_again_without_repeating_what_was_taken(
    sink: WebhookSink, there: Hook, status: int
) -> None:
    first, second, other = message(), message(), message(uuid4())
    there.judge = lambda event: status if event["id"] == str(second.id) else 204
    there.answer_headers = {"Location": there.url, "Retry-After": "0"}
    with pytest.raises(Unavailable, match=str(status)):
        await sink.deliver([first, second, other])
    there.judge = lambda event: 200
    await sink.deliver([first, second, other])
    assert sorted(event["id"] for event in there.events) == sorted(str(item.id) for item in (first, second, other))
    assert [event["id"] for event in there.events if event["subject"] == str(STREAM)] == [str(first.id), str(second.id)]


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413, 415, 422])
async def test_what_will_never_be_taken_holds_back_its_own_image_only(
    sink: WebhookSink, there: Hook, status: int
) -> None:
    poison, later, other = message(), message(), message(uuid4())
    there.judge = lambda event: status if event["id"] == str(poison.id) else 204
    with pytest.raises(Refused, match=str(status)) as refused:
        await sink.deliver([poison, later, other])
    assert refused.value.message_id == poison.id
    assert [event["id"] for event in there.events] == [str(other.id)]
    await sink.deliver([other])
    assert len(there.events) == 1


def test_authorities_that_cannot_be_read_refuse_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("absent.pem", "empty.pem"):
        with pytest.raises(ValidationError, match=f"{name} holds no certificates"):
            WebhookConfig.model_validate({"url": "https://h/", "ca_file": tmp_path / name})
