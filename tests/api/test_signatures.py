"""Signed images: what import.md 12.5 and images.md 10.4 say of imports and uploads."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kernel.errors import ConfigError
from stores.file import FileStore
from tests.support.formats import RAW1K
from tests.support.plugging import NOTHING, content, imported
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.signing import HASHES, KINDS, Signer
from tests.support.standing import four_stores, objects, one_store, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG = bytes(range(256)) * (3 << 12)
"""Three chunks of data."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: Server) -> AsyncIterator[Site]:
    """M4 with certificates in a directory, which unpacks what comes packed."""

    def config(directory: Path) -> str:
        (directory / "certificates").mkdir()
        plugins = "image_import_plugins = [image_decompression]"
        text = four_stores(image_import_opts=plugins)(directory)
        return text.replace("[entrepot]", f"[entrepot]\ncertificate_dir = {directory}/certificates")

    async with standing(postgres, config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyless(postgres: Server) -> AsyncIterator[Site]:
    """A site that has no key manager."""
    async with standing(postgres, one_store()) as running:
        yield running


def signer(site: Site, kind: str = "ECC_SECP384R1", ending: str = ".pem") -> Signer:
    found = Signer(kind)
    found.publish(site.directory / "certificates", ending)
    return found


async def uploaded(site: Site, image: str, data: bytes) -> int:
    headers = {"Content-Type": "application/octet-stream"}
    return (await site.call("PUT", f"/images/{image}/file", data=io.BytesIO(data), headers=headers)).status


async def refused(site: Site, shown: dict[str, Any], words: str) -> None:
    """Row I: as if never staged, nothing written, one alarm and no `image.prepare`."""
    assert shown["status"] == "queued"
    assert {name: shown[name] for name in NOTHING} == dict.fromkeys(NOTHING)
    assert "stores" not in shown
    await site.settled()
    for store in site.service.site.stores:
        assert not objects(site, store, shown["id"])
    assert not objects(site, "staging", shown["id"])
    task = (await site.tasks(shown["id"]))[-1]
    assert task["status"] == "failure"
    assert words in task["message"]
    told = [(note.event_type, note.priority) for note in site.notes.of(shown["id"])]
    assert told.count(("image.upload", "ERROR")) == 1
    assert "image.prepare" not in dict(told)


@pytest.mark.parametrize("hash_method", HASHES)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_signed_is_imported_and_uploaded(site: Site, kind: str, hash_method: str) -> None:
    properties = signer(site, kind).signed(BIG, hash_method)
    shown = await imported(site, BIG, **properties)
    assert (shown["status"], shown["size"]) == ("active", len(BIG))
    image = await site.image(**properties)
    assert await uploaded(site, image, BIG) == 204
    assert (await site.show(image))["status"] == "active"


@pytest.mark.parametrize("ending", [".crt", ".der"])
async def test_certificates_come_in_files_of_either_kind(site: Site, ending: str) -> None:
    shown = await imported(site, RAW1K, **signer(site, ending=ending).signed(RAW1K))
    assert shown["status"] == "active"


async def test_other_bytes_than_those_signed_fail_the_import(site: Site) -> None:
    properties = signer(site).signed(BIG)
    shown = await imported(site, BIG[:-1] + b"x", **properties)
    await refused(site, shown, "The signature does not match the data")
    assert shown["os_glance_failed_import"] == "fast"


async def test_a_disk_that_stands_still_fails_the_import(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read for the signature is waited for no longer than any other bytes."""

    async def hangs(store: FileStore, url: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    monkeypatch.setattr(FileStore, "read", hangs)
    monkeypatch.setattr(type(site.service.site), "patience", 0.1)
    shown = await imported(site, RAW1K, **signer(site).signed(RAW1K))
    assert shown["status"] == "queued"
    assert "there was no answer for 0.1 s" in (await site.tasks(shown["id"]))[-1]["message"]


async def test_the_bytes_after_the_plugins_are_those_that_count(site: Site) -> None:
    properties = signer(site).signed(RAW1K)
    shown = await imported(site, gzip.compress(RAW1K), **properties)
    assert shown["status"] == "active"
    await site.settled()
    assert content(site, shown, "fast") == RAW1K
    packed = gzip.compress(RAW1K)
    shown = await imported(site, packed, **signer(site).signed(packed))
    await refused(site, shown, "The signature does not match the data")


async def test_several_stores_are_one_verification(site: Site) -> None:
    image = await site.image(**signer(site).signed(RAW1K))
    assert await site.stage(image, RAW1K) == 204
    assert await site.do_import(image, all_stores=True) == 202
    shown = await site.ended(image)
    assert (shown["status"], shown["stores"]) == ("active", "cheap,fast,reliable")


WRONG = {
    "another key": ({"img_signature_key_type": "RSA-PSS"}, "holds no key of the type RSA-PSS"),
    "no such kind of key": ({"img_signature_key_type": "ROT-13"}, "Invalid signature key type"),
    "no such hash": ({"img_signature_hash_method": "MD5"}, "Invalid signature hash method"),
    "another hash": ({"img_signature_hash_method": "SHA-512"}, "does not match"),
    "no base64": ({"img_signature": "a"}, "base64"),
    "no ASCII": ({"img_signature": "ünïcode"}, "base64"),
    "an empty signature": ({"img_signature": ""}, "empty"),
    "no such certificate": (
        {"img_signature_certificate_uuid": "00000000-0000-0000-0000-000000000000"},
        "There is no certificate",
    ),
    "a path": ({"img_signature_certificate_uuid": "../../etc/ssl/cert"}, "There is no certificate"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_signatures_that_cannot_be_verified(site: Site, name: str) -> None:
    changed, words = WRONG[name]
    properties = {**signer(site).signed(RAW1K), **changed}
    await refused(site, await imported(site, RAW1K, **properties), words)
    image = await site.image(**properties)
    response = await site.call(
        "PUT", f"/images/{image}/file", data=RAW1K, headers={"Content-Type": "application/octet-stream"}
    )
    assert response.status == 400
    assert words in (await response.json())["message"]
    assert (await site.show(image))["status"] == "queued"


async def test_a_file_that_is_no_certificate(site: Site) -> None:
    somebody = Signer()
    (site.directory / "certificates" / f"{somebody.id}.pem").write_text("-----BEGIN nothing")
    await refused(site, await imported(site, RAW1K, **somebody.signed(RAW1K)), "not an X.509 certificate")


async def test_an_upload_that_is_refused_may_be_repeated(site: Site) -> None:
    image = await site.image(**signer(site).signed(BIG))
    assert await uploaded(site, image, BIG[:-1] + b"x") == 400
    shown = await site.show(image)
    assert (shown["status"], shown["checksum"], shown["size"]) == ("queued", None, None)
    await site.settled()
    assert not objects(site, "fast", image)
    assert await uploaded(site, image, BIG) == 204


@pytest.mark.parametrize("missing", sorted(Signer().signed(b"")))
async def test_incomplete_sets_mean_nothing(site: Site, missing: str) -> None:
    properties = Signer().signed(b"something else")
    del properties[missing]
    assert (await imported(site, RAW1K, **properties))["status"] == "active"
    image = await site.image(**properties)
    assert await site.upload(image, RAW1K) == 204


async def test_a_site_without_a_key_manager_refuses_what_is_signed(keyless: Site) -> None:
    properties = Signer().signed(RAW1K)
    await refused(keyless, await imported(keyless, RAW1K, **properties), "no key manager")
    assert await keyless.upload(await keyless.image(**properties), RAW1K) == 400
    assert (await imported(keyless, RAW1K))["status"] == "active"


async def test_copies_are_not_verified_again(site: Site) -> None:
    """A certificate may be gone by then; the hash is what counts."""
    somebody = signer(site)
    shown = await imported(site, RAW1K, **somebody.signed(RAW1K))
    (site.directory / "certificates" / f"{somebody.id}.pem").unlink()
    copy = {"method": {"name": "copy-image"}, "stores": ["cheap"]}
    assert await site.do_import(shown["id"], "ADM", **copy) == 202
    assert (await site.ended(shown["id"]))["stores"] == "cheap,fast"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("certificate_dir = /nowhere/at/all", r"\[entrepot\] certificate_dir: /nowhere/at/all is no directory"),
        ("key_source = files", r"\[entrepot\] certificate_dir: Field required"),
        ("key_source = a_hat", r"\[entrepot\] key_source: unknown source 'a_hat' \(known: castellan, files\)"),
    ],
)
async def test_a_wrong_key_source_refuses_the_start(postgres: Server, line: str, words: str) -> None:
    def config(directory: Path) -> str:
        return one_store()(directory).replace("[entrepot]", f"[entrepot]\n{line}")

    with pytest.raises(ConfigError, match=words):
        async with standing(postgres, config):
            pass
