"""What consumers get on a real message broker (import.md 16.4, 16.5), and of a whole life (16.2, 16.3)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from tests.support.amqp import Exchange, exchange, opened
from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.formats import RAW1K
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import broken, four_stores, memory_stores, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

IMAGE_KEYS = {
    *("id", "status", "visibility", "name", "checksum", "owner", "disk_format", "container_format"),
    *("created_at", "updated_at", "min_disk", "min_ram", "size", "virtual_size"),
    *("protected", "is_public", "deleted", "properties", "tags", "deleted_at"),
}
STORE_KEYS = {"backend", "os_glance_importing_to_stores", "os_glance_failed_import"}
TASK_KEYS = {
    *("id", "type", "status", "owner", "result", "message", "expires_at"),
    *("created_at", "updated_at", "deleted", "deleted_at"),
}
MEMBER_KEYS = {"image_id", "member_id", "status", "created_at", "updated_at", "deleted", "deleted_at"}
INNER_KEYS = {"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp", "_unique_id"}

DURABLE = "amqp_durable_queues = true"


def messaging(
    base: Callable[..., Callable[[Path], str]], made: Exchange, driver: str, default: str = "", rabbit: str = ""
) -> Callable[[Path], str]:
    """A site whose configuration is an operator's own."""
    return base(
        DEFAULT=f"transport_url = {made.url}\ncontrol_exchange = {made.exchange}\n{default}",
        oslo_messaging_notifications=f"driver = {driver}\ntopics = {made.topic}",
        oslo_messaging_rabbit=rabbit,
    )


async def staged(site: Site, **attributes: Any) -> str:
    image = await site.image(**attributes)
    assert await site.stage(image, RAW1K) == 204
    return image


def check_inner(document: dict[str, Any], priority: str) -> None:
    assert set(document) == INNER_KEYS
    assert str(UUID(document["message_id"])) == document["message_id"]
    assert document["publisher_id"] == "image.localhost"
    assert document["priority"] == priority
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", document["timestamp"])
    assert isinstance(document["payload"], dict if priority == "INFO" else str)


@pytest.mark.amqp
@pytest.mark.requirement("REQ-067", "REQ-070", "REQ-071", "REQ-072", "REQ-073", "REQ-074")
@pytest.mark.parametrize("rabbit", ["", DURABLE], ids=["transient", "durable"])
async def test_IM95_notifications_on_the_wire(postgres: Server, rabbit: str) -> None:
    async with exchange() as made:
        config = messaging(memory_stores, made, "messagingv2", rabbit=rabbit)
        async with passing(postgres, config, also=(FAULTY,)) as site:
            image = await staged(site)
            with broken(site, "cheap"):
                assert await site.do_import(image, stores=["fast", "cheap"], all_stores_must_succeed=False) == 202
                await site.ended(image)
            await site.settled()
            ours = site.notes.of(image)
        raw = {priority: await made.rest(priority) for priority in ("info", "error")}
    for priority, messages in raw.items():
        for message in messages:
            assert message.exchange == made.exchange
            assert message.routing_key == f"{made.topic}.{priority}"
            assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
            assert message.delivery_mode == 2
            assert set(orjson.loads(message.body)) == {"oslo.version", "oslo.message"}
            check_inner(opened(message), priority.upper())
    info = [opened(message) for message in raw["info"]]
    # The log may begin with the stories of other tests, which a new sink is told too.
    (error,) = (text for message in raw["error"] if image in (text := opened(message)["payload"]))
    assert "cheap" in error
    told = [item for item in info if item["message_id"] in {str(note.id) for note in ours}]
    assert [item["event_type"] for item in told] == [note.event_type for note in ours if note.priority == "INFO"]
    uploads = [item["payload"] for item in told if item["event_type"] in ("image.prepare", "image.upload")]
    shown = [
        (item["status"], item["backend"], item["os_glance_importing_to_stores"], item["os_glance_failed_import"])
        for item in uploads
    ]
    assert shown == [
        ("importing", "fast", ["cheap", "fast"], []),
        ("active", "fast", ["cheap"], []),
        ("active", "cheap", ["cheap"], []),
    ]


@pytest.mark.amqp
async def test_IM96_what_is_switched_off_is_not_sent(postgres: Server) -> None:
    async with exchange() as made:
        config = messaging(four_stores, made, "messaging", "disabled_notifications = image.prepare, task")
        async with passing(postgres, config) as site:
            image = await staged(site)
            assert await site.do_import(image) == 202
            await site.ended(image)
            await site.settled()
        flat = [orjson.loads(message.body) for message in await made.rest()]
    for document in flat:
        check_inner(document, document["priority"])
    types = [item["event_type"] for item in flat if isinstance(item["payload"], dict)]
    assert "image.upload" in types
    assert "image.activate" in types
    assert not [name for name in types if name == "image.prepare" or name.startswith("task.")]


@pytest.mark.amqp
async def test_a_broker_that_is_away_delays_nothing_but_the_messages(postgres: Server) -> None:
    """They come later: all of them, in order, under the ids that they have in the log."""
    async with exchange() as made:
        made.line.cut()
        async with passing(postgres, messaging(four_stores, made, "messagingv2")) as site:
            image = await staged(site)
            assert await site.do_import(image) == 202
            assert (await site.ended(image))["status"] == "active"
            await made.line.mend()
            await site.settled(60)
            ours = [str(note.id) for note in site.notes.of(image)]
        arrived = [opened(message)["message_id"] for message in await made.rest()]
    assert list(dict.fromkeys(item for item in arrived if item in set(ours))) == ours


@pytest.mark.amqp
async def test_both_forms_at_once(postgres: Server) -> None:
    async with exchange() as made:
        async with passing(postgres, messaging(four_stores, made, "messaging, messagingv2")) as site:
            image = await site.image()
            await site.settled()
        documents = [orjson.loads(message.body) for message in await made.rest()]
    mine = [item for item in documents if image in orjson.dumps(item).decode()]
    assert [set(item) == {"oslo.version", "oslo.message"} for item in mine] == [False, True]


async def test_IM97_a_whole_life_is_told_with_exactly_the_keys_of_the_contract(four: Site) -> None:
    image = await four.image("A")
    assert (await four.call("POST", f"/images/{image}/members", json={"member": "pB"})).status == 200
    answer = await four.call("PUT", f"/images/{image}/members/pB", "B", json={"status": "accepted"})
    assert answer.status == 200
    assert await four.stage(image, RAW1K) == 204
    assert await four.do_import(image, stores=["fast"]) == 202
    await four.ended(image)
    change = {"op": "replace", "path": "/name", "value": "changed"}
    assert (await four.patch(image, change)).status == 200
    assert (await four.call("POST", f"/images/{image}/actions/deactivate", "ADM")).status == 204
    assert (await four.call("DELETE", f"/images/{image}", "ADM")).status == 204
    await four.settled()
    messages = four.notes.of(image)
    types = [message.event_type for message in messages]
    assert [name for name in types if name != "image.update"] == [
        "image.create",
        "image.member.create",
        "image.member.update",
        "task.create",
        "task.processing",
        "task.run",
        "image.prepare",
        "image.upload",
        "image.activate",
        "task.success",
        "image.delete",
    ]
    for message in messages:
        assert isinstance(message.payload, dict)
        assert message.priority == "INFO"
        kind = message.event_type
        if kind.startswith("image.member."):
            assert set(message.payload) == MEMBER_KEYS
        elif kind.startswith("task."):
            assert set(message.payload) == TASK_KEYS
        elif kind in ("image.prepare", "image.upload"):
            assert set(message.payload) == IMAGE_KEYS | STORE_KEYS
        else:
            assert set(message.payload) == IMAGE_KEYS
    last = messages[-1].payload
    assert isinstance(last, dict)
    assert last["deleted"] is True
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last["deleted_at"])


async def test_a_download_is_told_with_exactly_the_keys_of_the_contract(four: Site) -> None:
    image = await four.image()
    assert await four.upload(image, RAW1K) == 204
    assert (await four.call("GET", f"/images/{image}/file")).status == 200
    await four.until(lambda: any(note.event_type == "image.send" for note in four.notes.of(image)))
    (sent,) = (note for note in four.notes.of(image) if note.event_type == "image.send")
    assert isinstance(sent.payload, dict)
    assert set(sent.payload) == {"bytes_sent", "image_id", "owner_id", "receiver_tenant_id", "receiver_user_id"}
    assert (sent.payload["bytes_sent"], sent.priority) == (1024, "INFO")


@pytest.mark.parametrize(
    ("disabled", "missing", "there"),
    [
        ("image", {"image.create", "image.member.create", "image.update"}, {"task.create"}),
        ("image.member", {"image.member.create"}, {"image.create", "task.create"}),
        ("task.create", {"task.create"}, {"task.processing", "image.create"}),
        ("image_import, metadef_tag, nonsense", set(), {"image.create", "image.member.create", "task.create"}),
    ],
)
async def test_groups_and_types_are_switched_off(
    postgres: Server, disabled: str, missing: set[str], there: set[str]
) -> None:
    async with passing(postgres, four_stores(DEFAULT=f"disabled_notifications = {disabled}")) as site:
        image = await site.image()
        assert (await site.call("POST", f"/images/{image}/members", json={"member": "pB"})).status == 200
        assert await site.stage(image, RAW1K) == 204
        assert await site.do_import(image) == 202
        await site.ended(image)
        await site.settled()
        types = {note.event_type for note in site.notes.of(image)}
    assert not types & missing
    assert there <= types


async def test_a_wrong_transport_url_is_refused_at_start(postgres: Server) -> None:
    from kernel.errors import ConfigError

    config = four_stores(
        DEFAULT="transport_url = http://u:hidden@host/", oslo_messaging_notifications="driver = messaging"
    )
    with pytest.raises(ConfigError, match="transport_url") as refused:
        async with passing(postgres, config):
            pass
    assert "hidden" not in str(refused.value)
    await asyncio.sleep(0)
