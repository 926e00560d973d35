"""The log as pages and as a stream: `GET /ops/v1/events`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from handlers import events
from handlers.history import as_seen_by
from kernel import log_postgres
from kernel.ids import new_id
from kernel.recorded import Recorded
from tests.support.logs import created, request
from tests.support.postgres import Server
from tests.support.raw import Wire, ask, head
from tests.support.running import Site
from tests.support.sse import following
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def page(site: Site, query: str = "", who: str = "ADM") -> dict[str, Any]:
    answer = await site.call("GET", f"//ops/v1/events{query}", who)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def story(site: Site) -> str:
    """An image with six events: made, staged, imported into one store, deleted."""
    image = await site.image()
    await site.stage(image, b"x")
    assert await site.do_import(image) == 202
    await site.ended(image)
    await site.settled()
    return image


# --- pages -------------------------------------------------------------------------------


async def test_who_may_read_the_log(one: Site) -> None:
    for accept in ("application/json", "text/event-stream"):
        for who, status in (("A", 403), ("AR", 403), ("SVC", 403), ("NR", 403), (None, 401)):
            answer = await ask(one, head("GET", "/ops/v1/events", who, Accept=accept))
            assert answer.status == status
    for method in ("POST", "DELETE", "PUT"):
        answer = await one.call(method, "//ops/v1/events", "ADM")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    for path in ("//ops", "//ops/", "//ops/v1", "//ops/v1/", "//ops/v2/events", "//ops/v1/nope", "//ops/v1/events/"):
        assert (await one.call("GET", path, "ADM")).status == 404
        assert (await one.call("GET", path, None)).status == 401
    assert (await one.call("GET", "//ops/v1/events", "ADM", json={})).status == 400


async def test_pages_lead_through_the_whole_log_without_gap_or_repetition(one: Site) -> None:
    await story(one)
    head_ = await one.service.log.head()
    for limit in (1, 7, 1000):
        position, positions = 0, []
        while True:
            document = await page(one, f"?after={position}&limit={limit}")
            if not document["events"]:
                break
            assert len(document["events"]) <= limit
            positions += [event["position"] for event in document["events"]]
            position = document["position"]
        assert positions[:head_] == list(range(1, head_ + 1))
    assert (await page(one, "?limit=0"))["events"] == []


async def test_an_event_tells_all_there_is_to_know(one: Site) -> None:
    image = await one.image()
    (event,) = (await page(one, f"?image={image}"))["events"]
    assert (event["type"], event["image_id"], event["version"]) == ("ImageCreated", image, 1)
    assert event["data"]["image_id"] == image
    assert event["meta"]["by"] == {"user": "uA", "project": "pA", "roles": ["member", "reader"]}
    assert event["meta"]["request"].startswith("req-")
    UUID(event["event_id"])
    assert event["at"].endswith("Z")


async def test_filters_by_image_and_type(one: Site) -> None:
    image = await story(one)
    mine = (await page(one, f"?image={image}"))["events"]
    assert {event["image_id"] for event in mine} == {image}
    assert [event["version"] for event in mine] == list(range(1, len(mine) + 1))
    types = [event["type"] for event in mine]
    assert types[:3] == ["ImageCreated", "StagingStarted", "DataStaged"]
    assert "ImportCompleted" in types
    some = (await page(one, f"?image={image}&type=DataStaged,ImportCompleted"))["events"]
    assert [event["type"] for event in some] == ["DataStaged", "ImportCompleted"]
    assert (await page(one, f"?image={image}&type=Nonsense"))["events"] == []


async def test_pages_of_an_image_cost_what_the_image_has_seen(one: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the whole log has."""
    image = await story(one)
    everything = (await page(one, "?limit=1000"))["events"]
    read: list[Recorded] = []

    def counted(rows: Sequence[Any]) -> list[Recorded]:
        events = recorded(rows)
        read.extend(events)
        return events

    recorded = log_postgres.recorded
    monkeypatch.setattr(log_postgres, "recorded", counted)
    document = await page(one, f"?image={image}")
    assert len(read) == len(document["events"])
    assert document["events"] == [event for event in everything if event["image_id"] == image]
    assert document["position"] == await one.service.log.head()


@pytest.mark.parametrize("image", ["nonsense", "00000000-0000-4000-8000-000000000000", "%E2%98%83", "x" * 36])
async def test_an_image_that_is_none_has_no_events(one: Site, image: str) -> None:
    """Rather than everybody's."""
    await one.image()
    document = await page(one, f"?image={image}")
    assert document["events"] == []
    assert document["position"] == await one.service.log.head()


async def test_images_are_named_as_their_makers_wrote_them(one: Site) -> None:
    upper = str(uuid4()).upper()
    assert (await one.call("POST", "/images", json={"id": upper})).status == 201
    event = (await page(one, f"?after={await one.service.log.head() - 1}"))["events"][0]
    assert event["image_id"] == upper
    assert (await page(one, f"?image={upper}"))["events"]
    assert (await page(one, f"?image={upper.lower()}"))["events"] == []


@pytest.mark.parametrize(
    "query", ["?after=x", "?after=-1", "?limit=x", "?limit=-1", "?limit=", "?view=nope", "?after=" + "9" * 19, "?a=%FF"]
)
async def test_queries_that_make_no_sense(one: Site, query: str) -> None:
    for accept in ("application/json", "text/event-stream")[: 1 if "limit" in query else 2]:
        answer = await ask(one, head("GET", f"/ops/v1/events{query}", "ADM", Accept=accept))
        assert answer.status == 400


async def test_a_position_beyond_the_end_is_an_empty_page(one: Site) -> None:
    document = await page(one, f"?after={10**18 - 1}")
    assert document == {"events": [], "position": 10**18 - 1}


async def test_the_view_of_notifications(one: Site) -> None:
    """What sinks are given, and nothing else, in the same order."""
    image = await story(one)
    seen = (await page(one, f"?image={image}&view=notifications&limit=1000"))["events"]
    assert [event["event_type"] for event in seen] == [message.event_type for message in one.notes.of(image)]
    assert [event["message_id"] for event in seen] == [str(message.id) for message in one.notes.of(image)]
    assert {event["publisher_id"] for event in seen} == {"image.localhost"}
    only = (await page(one, f"?image={image}&view=notifications&type=task.success"))["events"]
    assert [event["event_type"] for event in only] == ["task.success"]


async def test_pages_never_cut_through_the_notifications_of_one_event(one: Site) -> None:
    """A position stands behind whole events, so a page may be a little longer than asked for."""
    image = await story(one)
    everything = [m.event_type for m in one.notes.of(image)]
    position, seen = 0, []
    while True:
        document = await page(one, f"?image={image}&view=notifications&limit=1&after={position}")
        if not document["events"]:
            break
        seen += [event["event_type"] for event in document["events"]]
        position = document["position"]
    assert seen == everything


# --- the stream --------------------------------------------------------------------------


async def test_a_subscriber_hears_what_happens_from_then_on(one: Site) -> None:
    await one.image()
    async with following(one) as follower:
        image = await one.image()
        message = await follower.next()
        assert (message.event, message.data["image_id"]) == ("ImageCreated", image)
        assert message.last_id == str(message.data["position"])
        await one.stage(image, b"x")
        assert [item.event for item in await follower.take(2)] == ["StagingStarted", "DataStaged"]


async def test_a_subscriber_may_begin_anywhere(one: Site) -> None:
    image = await story(one)
    async with following(one, "?after=0") as follower:
        messages = await follower.take(await one.service.log.head())
    positions = [message.data["position"] for message in messages]
    assert positions == list(range(1, len(positions) + 1))
    assert image in {message.data["image_id"] for message in messages}


async def test_filters_of_a_subscription(one: Site) -> None:
    image = await one.image()
    async with (
        following(one, f"?image={image}") as by_image,
        following(one, "?type=DataStaged") as by_type,
        following(one, f"?image={image}&view=notifications&type=image.update") as notified,
    ):
        other = await one.image()
        for target in (other, image):
            await one.stage(target, b"x")
        assert [item.data["image_id"] for item in await by_image.take(2)] == [image, image]
        assert [item.data["image_id"] for item in await by_type.take(2)] == [other, image]
        assert [item.data["payload"]["size"] for item in await notified.take(2)] == [None, 1]


@pytest.mark.parametrize("view", ["events", "notifications"])
async def test_resuming_loses_nothing_and_repeats_nothing(one: Site, view: str) -> None:
    """Wherever the line is cut: what an event means is told whole, or again from its beginning."""
    after = await one.service.log.head()
    image = await story(one)
    query = f"?after={after}&image={image}&view={view}"
    expected = (await page(one, f"{query}&limit=1000"))["events"]
    async with following(one, query) as follower:
        whole = await follower.take(len(expected))
    assert [message.data for message in whole] == expected
    for cut in range(len(expected)):
        async with following(one, query) as follower:
            seen = await follower.take(cut)
            last_id = follower.last_id
        resumed = [message.data for message in seen if message.data["position"] <= int(last_id or 0)]
        async with following(one, query, last_id=last_id or str(after)) as follower:
            resumed += [message.data for message in await follower.take(len(expected) - len(resumed))]
        assert resumed == expected
        complete = [message for message in seen if message.data["position"] < seen[-1].data["position"]]
        assert int(last_id or after) >= max((message.data["position"] for message in complete), default=after)


@pytest.mark.parametrize("followed", [False, True])
async def test_others_get_their_turn_while_much_is_told(
    one: Site, monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    """Of the long way from the log to a client, no turn of the loop takes more than a small part."""
    await asyncio.gather(*(one.image() for _ in range(100)))
    turn, told = 0, Counter[int]()

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def noting(item: Recorded, project: str | None) -> dict[str, Any]:
        told[turn] += 1
        return as_seen_by(item, project)

    monkeypatch.setattr(events, "as_seen_by", noting)
    counting = asyncio.create_task(count())
    if followed:
        async with following(one, "?after=0") as follower:
            await follower.take(100)
    else:
        assert len((await page(one, "?limit=100"))["events"]) == 100
    counting.cancel()
    assert told.total() >= 100
    assert max(told.values()) <= 20


async def test_many_subscribers_hear_the_same(one: Site) -> None:
    """However appends fall together."""
    async with following(one) as first, following(one) as second:
        await asyncio.gather(*(one.image() for _ in range(30)))
        heard = [[message.data for message in await follower.take(30)] for follower in (first, second)]
    assert heard[0] == heard[1]
    positions = [event["position"] for event in heard[0]]
    assert positions == list(range(positions[0], positions[0] + 30))


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "", "\u00b2", "9" * 30, "\udcff"])
async def test_ids_that_are_none(one: Site, last_id: str) -> None:
    request = head("GET", "/ops/v1/events", "ADM", Accept="text/event-stream", Last_Event_ID=last_id)
    assert (await ask(one, request)).status == 400


async def test_too_many_subscribers(postgres: Server) -> None:
    """503 for the one too many; a place is free again when somebody leaves."""
    async with passing(postgres, one_store(entrepot="most_followers = 2")) as site:
        request = head("GET", "/ops/v1/events", "ADM", Accept="text/event-stream")
        async with following(site), following(site):
            answer = await ask(site, request)
            assert answer.status == 503
            assert int(answer.header("Retry-After") or 0) > 0
        await site.until(lambda: _accepted(site, request))


async def _accepted(site: Site, request: bytes) -> bool:
    async with await Wire.to(site) as wire:
        await wire.send(request)
        return (await wire.answer(body=False)).status == 200


async def test_who_comes_back_late_is_told_everything_in_one_go(postgres: Server) -> None:
    """The log is read faster than any line carries it: that is no reason to close it."""
    async with passing(postgres, one_store()) as site:
        for stream in [new_id() for _ in range(5)]:
            event = created(stream, properties={"k": "x" * 9_000})
            await site.service.log.append(request(stream, *[event] * 1_000))
        async with following(site, "?after=0") as follower:
            messages = await follower.take(1)
            follower.wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await site.service.database.fetch("SELECT pg_sleep(1)")  # a line that is slow
            follower.wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            messages += await follower.take(4_999)
        assert [message.data["position"] for message in messages] == list(range(1, 5_001))


async def test_a_subscriber_that_does_not_read_is_closed(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up nobody, keeps no place, and can come back by its last id."""
    monkeypatch.setattr("handlers.events._MOST_WAITING", 20)
    monkeypatch.setattr("handlers.events._STANDSTILL", 0.5)
    async with passing(postgres, one_store(entrepot="most_followers = 1")) as site:
        request = head("GET", "/ops/v1/events?after=0", "ADM", Accept="text/event-stream")
        for _ in range(12):
            await site.image("ADM", **{f"k{number}": "x" * 9_000 for number in range(100)})
        async with await Wire.to(site) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(request)
            await asyncio.gather(*(site.image() for _ in range(50)))
            await site.until(lambda: _accepted(site, request))


async def test_a_stop_of_the_server_lets_subscribers_go(postgres: Server) -> None:
    """Rather than waiting for them: their connections end, and they come back elsewhere."""
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(AsyncExitStack())
        site = await serving.enter_async_context(passing(postgres, one_store()))
        follower = await stack.enter_async_context(following(site))
        async with asyncio.timeout(10):
            await serving.aclose()
            assert b"event:" not in await follower.wire.ended()
