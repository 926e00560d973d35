"""Uploading and downloading image data (images.md 10)."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from kernel.errors import StoreDenied, StoreFull, StoreUnavailable
from tests.support.notes import of_image, prepare, upload
from tests.support.postgres import Server
from tests.support.raw import Wire, ask, chunk, head
from tests.support.running import OCTETS, Site
from tests.support.standing import broken, hooks, objects, one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAW = bytes(range(256)) * 4
"""The 1024 bytes of the scenarios."""

QCOW = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 10 << 30) + bytes(1000)
"""The head of a qcow2 image of 10 GiB."""

OCTET = {"Content_Type": "application/octet-stream"}


async def active(site: Site, who: str = "A", **attributes: Any) -> str:
    image = await site.image(who, **attributes)
    assert await site.upload(image, RAW, who) == 204
    return image


async def is_clean(site: Site, image: str, *stores: str) -> bool:
    """Whether an image is queued as if nothing had ever been sent, now or as soon as the clean-up is done."""
    shown = await site.show(image)
    assert shown["status"] == "queued"
    for name in ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"):
        assert shown[name] is None
    assert "stores" not in shown
    await site.settled()
    return not any(objects(site, store, image) for store in stores)


# --- upload ------------------------------------------------------------------------------


async def test_F01_there_is_no_data_yet(one: Site) -> None:
    image = await one.image()
    answer = await one.call("GET", f"/images/{image}/file")
    assert (answer.status, await answer.read()) == (204, b"")


async def test_F02_an_upload(one: Site) -> None:
    image = await active(one)
    shown = await one.show(image)
    assert shown["status"] == "active"
    assert (shown["size"], shown["virtual_size"]) == (1024, 1024)
    assert shown["checksum"] == hashlib.md5(RAW).hexdigest()
    assert (shown["os_hash_algo"], shown["os_hash_value"]) == ("sha512", hashlib.sha512(RAW).hexdigest())
    assert "stores" not in shown
    answer = await ask(one, head("GET", f"/v2/images/{image}/file"))
    assert (answer.status, answer.body) == (200, RAW)
    assert answer.header("Content-Type") == "application/octet-stream"
    assert answer.header("Content-Length") == "1024"
    assert answer.header("Content-MD5") == shown["checksum"]
    assert answer.header("Accept-Ranges") == "bytes"
    assert answer.header("ETag") is None


@pytest.mark.parametrize("size", [1, 13, 1024, 65536])
async def test_F03_a_chunked_upload(one: Site, size: int) -> None:
    """Whatever the size of the chunks."""
    image = await one.image()
    data = RAW if size < 1024 else RAW * 256
    chunks = b"".join(chunk(data[at : at + size]) for at in range(0, len(data), size)) + chunk(b"")
    request = head("PUT", f"/v2/images/{image}/file", Transfer_Encoding="chunked", **OCTET)
    assert (await ask(one, request + chunks)).status == 204
    shown = await one.show(image)
    assert (shown["status"], shown["size"], shown["checksum"]) == ("active", len(data), hashlib.md5(data).hexdigest())


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/octet-streamx", 415),
        ("application/octet-stream; x=y", 204),
        ("Application/Octet-Stream", 204),
    ],
)
@pytest.mark.parametrize("kind", ["file", "stage"])
async def test_F04_IM14_content_types(one: Site, kind: str, content_type: str | None, status: int) -> None:
    image = await one.image()
    sent = {} if content_type is None else {"Content_Type": content_type}
    request = head("PUT", f"/v2/images/{image}/{kind}", Content_Length="3", **sent) + b"abc"
    assert (await ask(one, request)).status == status
    after = {"file": "active", "stage": "uploading"}[kind]
    assert (await one.show(image))["status"] == ("queued" if status == 415 else after)


async def test_F04_content_encodings_are_not_undone(one: Site) -> None:
    """What is sent is what is stored: its length, and its checksum, are those of the bytes on the wire."""
    image = await one.image()
    headers = {"Content_Encoding": "gzip", "Content_Length": str(len(RAW)), **OCTET}
    assert (await ask(one, head("PUT", f"/v2/images/{image}/file", **headers) + RAW)).status == 204
    assert (await ask(one, head("GET", f"/v2/images/{image}/file"))).body == RAW


async def test_F05_formats_are_needed(one: Site) -> None:
    for missing in ({"disk_format": None}, {"container_format": None}, {"disk_format": None, "container_format": None}):
        image = await one.image(**missing)
        answer = await one.call("PUT", f"/images/{image}/file", data=RAW, headers=OCTETS)
        assert answer.status == 400
        text = await answer.text()
        assert all(name in text for name in missing)
        assert await is_clean(one, image, "file")


async def test_F06_only_queued_images_take_data(one: Site) -> None:
    image = await active(one)
    before = await one.show(image)
    assert await one.upload(image, b"other") == 409
    assert await one.stage(image, b"other") == 409
    assert await one.show(image) == before
    staged = await one.image()
    await one.stage(staged, RAW)
    assert await one.upload(staged, RAW) == 409
    assert (await one.show(staged))["status"] == "uploading"


async def test_F07_nothing_is_something(one: Site) -> None:
    """Nova makes images of volumes active with zero bytes."""
    for body in (head("PUT", "{}", Content_Length="0", **OCTET), head("PUT", "{}", **OCTET)):
        image = await one.image()
        request = body.replace(b"{}", f"/v2/images/{image}/file".encode())
        assert (await ask(one, request)).status == 204
        shown = await one.show(image)
        assert (shown["status"], shown["size"], shown["virtual_size"]) == ("active", 0, None)
        assert shown["checksum"] == "d41d8cd98f00b204e9800998ecf8427e"
        answer = await ask(one, head("GET", f"/v2/images/{image}/file"))
        assert (answer.status, answer.header("Content-Length"), answer.body) == (200, "0", b"")


async def test_F08_announced_sizes(one: Site) -> None:
    """Of the same image, each refusal leaving it as it was; 0 means unknown."""
    image = await one.image()
    for size in ("500", "5000", "abc", "", "-1", "1e3", "+1000", "1_000", "\u0661", "9" * 5000):
        answer = await ask(
            one,
            head("PUT", f"/v2/images/{image}/file", X_OpenStack_Image_Size=size, Content_Length="1000", **OCTET)
            + bytes(1000),
        )
        assert answer.status == (413 if size.startswith("999") else 400), size
        assert await is_clean(one, image, "file")
    assert await one.upload(image, bytes(1000), **{"X-OpenStack-Image-Size": "0"}) == 204
    assert (await one.show(image))["size"] == 1000


async def test_F08_the_header_counts_for_chunked_data_too(one: Site) -> None:
    image = await one.image()
    for size, status in (("999", 400), ("1001", 400), ("1000", 204)):
        request = head(
            "PUT",
            f"/v2/images/{image}/file",
            X_OpenStack_Image_Size=size,
            Transfer_Encoding="chunked",
            **OCTET,
        )
        answer = await ask(one, request + chunk(bytes(600)) + chunk(bytes(400)) + chunk(b""))
        assert answer.status == status


async def test_F09_who_may_upload(one: Site) -> None:
    image, community = await one.image(), await one.image(visibility="community")
    for who, status in (("B", 404), ("C", 404), ("AR", 403), ("NR", 404)):
        assert await one.upload(image, RAW, who) == status
    assert (await one.call("PUT", f"/images/{image}/file", None, data=RAW, headers=OCTETS)).status == 401
    assert await one.upload(community, RAW, "C") == 403
    assert await is_clean(one, image, "file")
    assert await one.upload(image, RAW, "ADM") == 204


async def test_F10_stores_by_header(three: Site) -> None:
    image = await three.image()
    assert await three.upload(image, RAW, **{"X-Image-Meta-Store": "nope"}) == 400
    assert await three.upload(image, RAW, **{"X-Image-Meta-Store": ""}) == 400
    assert await three.upload(image, RAW, **{"X-Image-Meta-Store": "os_glance_staging_store"}) == 400
    assert await three.upload(image, RAW, **{"X-Image-Meta-Store": "web"}) == 410
    assert await is_clean(three, image, "fast", "cheap")
    assert await three.upload(image, RAW, **{"X-Image-Meta-Store": "cheap"}) == 204
    assert (await three.show(image))["stores"] == "cheap"
    assert (objects(three, "cheap", image), objects(three, "fast", image)) == ([RAW], [])


async def test_F10_the_default_store(three: Site) -> None:
    image = await active(three)
    assert (await three.show(image))["stores"] == "fast"


async def test_F11_a_single_store_site_ignores_the_header(one: Site) -> None:
    image = await one.image()
    assert await one.upload(image, RAW, **{"X-Image-Meta-Store": "cheap"}) == 204
    assert "stores" not in await one.show(image)


async def test_F12_the_size_cap(postgres: Server) -> None:
    """For announced sizes before a byte is read, for others as soon as it is passed."""
    async with passing(postgres, one_store(DEFAULT="image_size_cap = 500000")) as site:
        image = await site.image()
        assert await site.upload(image, bytes(600_000)) == 413
        request = head("PUT", f"/v2/images/{image}/file", Transfer_Encoding="chunked", **OCTET)
        assert (await ask(site, request + chunk(bytes(600_000)) + chunk(b""))).status == 413
        assert await site.upload(image, b"x", **{"X-OpenStack-Image-Size": "500001"}) == 413
        assert await is_clean(site, image, "file")
        assert await site.upload(image, bytes(500_000)) == 204


async def test_the_order_of_refusals(three: Site) -> None:
    """Content type, size header, store, image, policy, status, formats, and only then what the stream brings."""
    bad_size = {"X-OpenStack-Image-Size": "abc"}
    huge = {"X-OpenStack-Image-Size": str(2 << 40)}
    nope, web = {"X-Image-Meta-Store": "nope"}, {"X-Image-Meta-Store": "web"}
    done, bare, fine = await active(three), await three.image(disk_format=None), await three.image()
    other = await three.image("B", visibility="community")

    async def put(image: str, *headers: dict[str, str], who: str = "A", content: dict[str, str] = OCTETS) -> int:
        sent = {name: value for header in headers for name, value in header.items()}
        return (await three.call("PUT", f"/images/{image}/file", who, data=b"x", headers={**content, **sent})).status

    assert await put("unknown", bad_size, nope, content={"Content-Type": "text/plain"}) == 415
    assert await put("unknown", bad_size, nope) == 400
    assert await put("unknown", nope) == 400
    assert await put("unknown", huge, web) == 404
    assert await put(other, huge, web) == 403
    assert await put(done, huge, web) == 409
    assert await put(bare, huge, web) == 400
    assert await put(fine, huge) == 413
    assert await put(fine, web) == 410
    assert (await three.call("PUT", f"/images/{done}/file", None, data=b"x")).status == 401
    for image, status in ((done, "active"), (bare, "queued"), (fine, "queued")):
        assert (await three.show(image))["status"] == status


async def test_F14_other_containers_are_not_looked_into(one: Site) -> None:
    image = await one.image(disk_format="qcow2", container_format="ovf")
    assert await one.upload(image, bytes(2048)) == 204
    assert (await one.show(image))["virtual_size"] is None


async def test_F15_a_qcow2_tells_its_virtual_size(one: Site) -> None:
    image = await one.image(disk_format="qcow2")
    assert await one.upload(image, QCOW) == 204
    assert (await one.show(image))["virtual_size"] == 10737418240


@pytest.mark.parametrize("declared", ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso"])
async def test_data_that_is_not_what_it_is_declared_to_be(one: Site, declared: str) -> None:
    """415 naming both formats, and the image can be tried again."""
    image = await one.image(disk_format=declared)
    answer = await one.call("PUT", f"/images/{image}/file", data=RAW, headers=OCTETS)
    assert answer.status == 415
    assert declared in await answer.text()
    assert "raw" in await answer.text()
    assert await is_clean(one, image, "file")
    if declared == "qcow2":
        assert await one.upload(image, QCOW) == 204
        assert (await one.call("GET", f"/images/{image}/file")).status == 200


async def test_formats_without_an_inspector_take_what_is_not_recognised(one: Site) -> None:
    for declared, data, status in (("ami", RAW, 204), ("ploop", RAW, 204), ("aki", QCOW, 415), ("raw", QCOW, 204)):
        image = await one.image(disk_format=declared)
        assert await one.upload(image, data) == status
        if status == 204:
            assert (await one.show(image))["virtual_size"] == (len(data) if declared == "raw" else None)


async def test_unsafe_data_is_refused_whatever_it_is_called(one: Site) -> None:
    """A qcow2 with a backing file, declared as raw."""
    unsafe = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 104, 8, 16, 1 << 20) + bytes(72) + b"/etc/pas" + bytes(1000)
    for declared in ("qcow2", "raw", "ami"):
        image = await one.image(disk_format=declared)
        assert await one.upload(image, unsafe) == 415
        assert await is_clean(one, image, "file")


@pytest.mark.parametrize(
    ("error", "status"),
    [(StoreFull("fast"), 413), (StoreDenied("fast"), 503), (StoreUnavailable("fast"), 503), (OSError(5, "I/O"), 500)],
)
async def test_stores_that_fail(faulty: Site, error: Exception, status: int) -> None:
    """The caller is told why, the image can be tried again, its notifications say ERROR."""
    image = await faulty.image()
    with broken(faulty, "fast", error):
        assert await faulty.upload(image, RAW) == status
    assert await is_clean(faulty, image, "fast")
    assert await faulty.upload(image, RAW) == 204
    await faulty.settled()
    assert of_image(faulty.notes.of(image)) == [
        "image.create",
        prepare("saving", "fast", [], []),
        "ERR",
        prepare("saving", "fast", [], []),
        upload("active", "fast", [], []),
        "image.activate",
    ]


async def test_what_is_told_of_an_upload(one: Site) -> None:
    image = await active(one)
    await one.settled()
    assert [message.event_type for message in one.notes.of(image)] == [
        "image.create",
        "image.update",
        "image.prepare",
        "image.upload",
        "image.activate",
        "image.update",
    ]
    updates = [m.payload["status"] for m in one.notes.of(image) if m.event_type == "image.update"]  # type: ignore[index]
    assert updates == ["saving", "active"]
    assert of_image(one.notes.of(image))[1] == prepare("saving", None, [], [])


# --- download ----------------------------------------------------------------------------

RANGES = {
    "bytes=0-9": (0, 9),
    "bytes=10-": (10, 1023),
    "bytes=-10": (1014, 1023),
    "bytes=1020-2000": (1020, 1023),
    "bytes=0-1023": (0, 1023),
    "bytes=0-": (0, 1023),
    "bytes=-1024": (0, 1023),
    "bytes=-99999": (0, 1023),
    "bytes=1023-1023": (1023, 1023),
    " bytes=0-9 ": (0, 9),
    "bytes=0-99999999999999999999999": (0, 1023),
    "bytes=0-" + "9" * 5000: (0, 1023),
}


@pytest.mark.parametrize("wanted", RANGES, ids=range(len(RANGES)))
async def test_F16_ranges(one: Site, wanted: str) -> None:
    image = await active(one)
    first, last = RANGES[wanted]
    answer = await ask(one, head("GET", f"/v2/images/{image}/file", Range=wanted))
    assert answer.status == 206
    assert answer.header("Content-Range") == f"bytes {first}-{last}/1024"
    assert answer.header("Content-Length") == str(last - first + 1)
    assert answer.header("Content-Type") == "application/octet-stream"
    assert answer.body == RAW[first : last + 1]


UNSATISFIABLE = [
    *("bytes=1024-", "bytes=5-2", "chars=0-9", "bytes=", "garbage", "bytes=-", "bytes=-0", "bytes=a-b", "bytes=0x1-9"),
    *("bytes=1.5-9", "bytes 0-9", "bytes=0-9x", "", "bytes=1024-2000", "bytes=\u0661-\u0662", "bytes=" + "9" * 6000),
    "bytes=" + "9" * 6000 + "-",
]


@pytest.mark.parametrize("wanted", UNSATISFIABLE, ids=range(len(UNSATISFIABLE)))
async def test_F17_ranges_that_cannot_be_served(one: Site, wanted: str) -> None:
    image = await active(one)
    answer = await ask(one, head("GET", f"/v2/images/{image}/file", Range=wanted))
    assert answer.status == 416
    assert answer.header("Content-Range") == "bytes */1024"


async def test_F17_several_ranges_are_400(one: Site) -> None:
    image = await active(one)
    assert (await ask(one, head("GET", f"/v2/images/{image}/file", Range="bytes=0-1,4-5"))).status == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("bytes 0-9/1024", 206),
        ("bytes 0-9/*", 206),
        ("bytes 10-2000/1024", 206),
        ("bytes 10-2000/*", 416),
        ("bytes 1024-2000/1024", 416),
        ("bytes 9-5/1024", 416),
        ("x", 416),
        ("bytes */1024", 416),
        ("", 416),
        ("bytes " + "9" * 5000 + "-9/*", 416),
    ],
)
async def test_F18_what_old_clients_send_for_a_range(one: Site, sent: str, status: int) -> None:
    image = await active(one)
    answer = await ask(one, head("GET", f"/v2/images/{image}/file", Content_Range=sent))
    assert answer.status == status
    if status == 206:
        first = int(sent.split()[1].split("-")[0])
        assert answer.body == RAW[first : first + len(answer.body)]


async def test_F19_a_range_of_no_data(one: Site) -> None:
    queued, staged, empty = await one.image(), await one.image(), await one.image()
    await one.stage(staged, RAW)
    await one.upload(empty, b"")
    for image, status in ((queued, 204), (staged, 204), (empty, 416)):
        answer = await ask(one, head("GET", f"/v2/images/{image}/file", Range="bytes=0-9"))
        assert answer.status == status
        assert answer.header("Content-Range") == (None if status == 204 else "bytes */0")


async def test_F20_who_may_download(one: Site) -> None:
    image, community = await active(one), await active(one, visibility="community")
    for who, status in (("A", 200), ("ADM", 200), ("AR", 403), ("C", 404), ("NR", 404), (None, 401)):
        assert (await one.call("GET", f"/images/{image}/file", who)).status == status
    for who, status in (("C", 200), ("AR", 403), ("BR", 403), ("NR", 404)):
        assert (await one.call("GET", f"/images/{community}/file", who)).status == status


@pytest.mark.parametrize(
    ("prefer", "status"),
    [("fast", 200), ("cheap", 200), ("cheap,fast", 200), ("nope", 400), ("", 200), (",", 200), ("fast,nope", 400)],
)
async def test_F21_preferred_stores(three: Site, prefer: str, status: int) -> None:
    image = await active(three)
    assert (await three.call("GET", f"/images/{image}/file?prefer={prefer}")).status == status


async def test_F21_there_is_nothing_to_prefer_on_a_single_store_site(one: Site) -> None:
    image = await active(one)
    assert (await one.call("GET", f"/images/{image}/file?prefer=file")).status == 400


async def test_F21_a_preference_decides_which_copy_is_read(faulty: Site) -> None:
    """And is no more than that: other copies stand in."""
    image = await faulty.image()
    await faulty.stage(image, RAW)
    assert await faulty.do_import(image, stores=["fast", "cheap"]) == 202
    await faulty.ended(image)
    for store, other in (("fast", "cheap"), ("cheap", "fast")):
        kept = dict(hooks(faulty, other).blobs)
        hooks(faulty, other).blobs.clear()
        for prefer in ("", "fast", "cheap", "reliable"):
            answer = await faulty.call("GET", f"/images/{image}/file?prefer={prefer}")
            assert (answer.status, await answer.read()) == (200, RAW), (store, prefer)
        hooks(faulty, other).blobs.update(kept)


async def test_a_download_is_noted(one: Site) -> None:
    """How much went out, to whom; an ERROR when it was less than asked for."""
    image = await active(one, visibility="community")
    assert (await one.call("GET", f"/images/{image}/file", "B", headers={"Range": "bytes=0-9"})).status == 206
    await one.until(lambda: any(message.event_type == "image.send" for message in sent(one, image)))
    note = sent(one, image)[-1]
    assert note.priority == "INFO"
    assert note.payload == {
        "bytes_sent": 10,
        "image_id": image,
        "owner_id": "pA",
        "receiver_tenant_id": "pB",
        "receiver_user_id": "uB",
    }


def sent(site: Site, image: str) -> list[Any]:
    notes = [message for message in site.notes.messages if message.event_type == "image.send"]
    return [message for message in notes if message.payload["image_id"] == image]  # type: ignore[index]


async def test_data_that_got_lost_is_503(four: Site) -> None:
    """Nova tries again then; a 204 would tell it that there is no data."""
    image = await active(four)
    lost = next(path for path in four.files("fast") if path.name.startswith(image))
    lost.chmod(0o600)
    lost.write_bytes(b"short")
    assert (await four.call("GET", f"/images/{image}/file")).status == 503
    lost.unlink()
    answer = await four.call("GET", f"/images/{image}/file")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert str(four.directory) not in await answer.text()


async def test_a_store_that_breaks_in_the_middle_breaks_the_connection(faulty: Site) -> None:
    """No error is written into the data; the client sees that it is cut short, consumers hear of it."""
    image = await faulty.image()
    data = RAW * 3072
    request = head("PUT", f"/v2/images/{image}/file", Content_Length=str(len(data)), **OCTET)
    assert (await ask(faulty, request + data)).status == 204
    hooks(faulty, "fast").break_reads(StoreUnavailable("fast"), after=1_500_000)
    try:
        async with await Wire.to(faulty) as wire:
            await wire.send(head("GET", f"/v2/images/{image}/file"))
            got = await wire.ended()
    finally:
        hooks(faulty, "fast").break_reads(None)
    start = got.index(b"\r\n\r\n") + 4
    assert f"Content-Length: {len(data)}".encode() in got[:start]
    assert data.startswith(got[start:])
    assert len(got) - start < len(data)
    await faulty.until(lambda: sent(faulty, image))
    assert (sent(faulty, image)[-1].priority, sent(faulty, image)[-1].payload["bytes_sent"]) == ("ERROR", 1_500_000)
    answer = await faulty.call("GET", f"/images/{image}/file")
    assert await answer.read() == data


async def test_a_store_that_breaks_before_the_first_byte(faulty: Site) -> None:
    """Headers may be out by then: an error, or a connection that ends early, but never wrong data."""
    image = await active(faulty)
    hooks(faulty, "fast").break_reads(StoreUnavailable("fast"))
    try:
        async with await Wire.to(faulty) as wire:
            await wire.send(head("GET", f"/v2/images/{image}/file"))
            got = await wire.ended()
    finally:
        hooks(faulty, "fast").break_reads(None)
    assert got.startswith(b"HTTP/1.1 503") or got.endswith(b"\r\n\r\n")


async def test_a_client_that_leaves_in_the_middle_of_a_download(one: Site) -> None:
    """It is noted as an ERROR with what went out; nothing else is disturbed."""
    image = await one.image()
    data = bytes(64 << 20)
    assert await one.upload(image, b"", **{"X-OpenStack-Image-Size": "5"}) == 400
    request = head("PUT", f"/v2/images/{image}/file", Content_Length=str(len(data)), **OCTET)
    assert (await ask(one, request + data)).status == 204
    async with await Wire.to(one) as wire:
        await wire.send(head("GET", f"/v2/images/{image}/file"))
        await wire.reader.readexactly(100_000)
        wire.cut()
    await one.until(lambda: sent(one, image))
    note = sent(one, image)[-1]
    assert note.priority == "ERROR"
    assert 0 < note.payload["bytes_sent"] < len(data)
    answer = await ask(one, head("GET", f"/v2/images/{image}/file", Range="bytes=-5"))
    assert (answer.status, answer.body) == (206, bytes(5))


async def test_several_requests_on_one_connection_with_data_between(one: Site) -> None:
    """Answers come in order, downloads by sendfile among them."""
    image = await active(one)
    requests = [
        head("GET", f"/v2/images/{image}"),
        head("GET", f"/v2/images/{image}/file"),
        head("GET", f"/v2/images/{image}/file", Range="bytes=0-9"),
        head("GET", "/v2/images/none"),
        head("GET", f"/v2/images/{image}/file"),
    ]
    async with await Wire.to(one) as wire:
        await wire.send(b"".join(requests))
        answers = [await wire.answer() for _ in requests]
    assert [answer.status for answer in answers] == [200, 200, 206, 404, 200]
    assert [answer.body for answer in (answers[1], answers[2], answers[4])] == [RAW, RAW[:10], RAW]
