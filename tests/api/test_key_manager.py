"""Certificates from a key manager, through castellan: a driver of the tests' own stands for Barbican."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from castellan.common.objects.passphrase import Passphrase
from castellan.common.objects.x_509 import X509
from cryptography.hazmat.primitives.serialization import Encoding

from kernel.errors import ConfigError
from tests.support.formats import RAW1K
from tests.support.key_manager import KEYS, Wait, keep
from tests.support.plugging import imported
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.signing import Signer
from tests.support.standing import objects, one_store, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECTION = """backend = tests.support.key_manager.Keys
auth_type = keystone_password
auth_url = http://127.0.0.1:5000
username = glance
password = open sesame"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: Server) -> AsyncIterator[Site]:
    async with standing(postgres, one_store(key_manager=SECTION)) as running:
        yield running


async def test_it_has_the_certificates(site: Site) -> None:
    somebody = Signer()
    keep(somebody.id, somebody.certificate(Encoding.DER))
    assert (await imported(site, RAW1K, **somebody.signed(RAW1K)))["status"] == "active"
    assert (await imported(site, RAW1K + b"x", **somebody.signed(RAW1K)))["status"] == "queued"


TROUBLE = {
    "unknown": (None, "There is no certificate"),
    "broken": (RuntimeError("http://admin:secret@barbican broke"), "the key manager failed (RuntimeError)"),
    "no certificate": (Passphrase(b"sesame"), "There is no certificate"),
}


@pytest.mark.parametrize("name", TROUBLE)
async def test_what_it_cannot_give_fails_the_import(site: Site, name: str) -> None:
    found, words = TROUBLE[name]
    somebody = Signer()
    if found is not None:
        KEYS[somebody.id] = found
    shown = await imported(site, RAW1K, **somebody.signed(RAW1K))
    assert shown["status"] == "queued"
    message = (await site.tasks(shown["id"]))[-1]["message"]
    assert words in message
    assert "secret" not in message


@pytest.mark.parametrize("path", ["../../sys/seal", "a/b", "k?x=1", "..", "%2e%2e"])
async def test_only_ids_are_asked_for(site: Site, path: str) -> None:
    """Drivers make paths of them, for the service or, where the key manager knows no callers, with its rights."""
    somebody = Signer()
    KEYS[path] = X509(somebody.certificate(Encoding.DER))
    properties = {**somebody.signed(RAW1K), "img_signature_certificate_uuid": path}
    shown = await imported(site, RAW1K, **properties)
    assert shown["status"] == "queued"
    assert "There is no certificate" in (await site.tasks(shown["id"]))[-1]["message"]
    await deleted(site, **{**KEY, "cinder_encryption_key_id": path})
    assert KEYS.pop(path)


async def test_its_options_are_known(site: Site) -> None:
    from ops.config import unused

    assert unused(site.service.settings, site.service.registry) == []


@pytest.mark.parametrize(
    "text",
    [SECTION.replace("Keys", "Nobody"), SECTION.replace("keystone_password", "handshake")],
    ids=["driver", "type"],
)
async def test_options_that_cannot_be_right_refuse_the_start(postgres: Server, text: str) -> None:
    with pytest.raises(ConfigError, match="key_manager"):
        async with standing(postgres, one_store(key_manager=text)):
            pass


async def test_an_image_that_is_deleted_while_it_is_verified(site: Site) -> None:
    """Nobody waits for the key manager, neither the deletion nor other people's requests."""
    somebody, wait = Signer(), Wait()
    KEYS[somebody.id] = wait
    image = await site.image(**somebody.signed(RAW1K))
    assert await site.stage(image, RAW1K) == 204
    assert await site.do_import(image) == 202
    try:
        await site.until(wait.asked.is_set)
        assert (await site.show(image))["status"] == "importing"
        assert (await site.call("DELETE", f"/images/{image}")).status == 204
        await site.settled()
        assert not objects(site, "staging", image)
    finally:
        wait.may_go.set()


KEY = {"cinder_encryption_key_id": "k", "cinder_encryption_key_deletion_policy": "on_image_deletion"}


async def deleted(site: Site, token: str | None = "a token", **properties: str) -> None:
    """A deletion that succeeds, whatever becomes of the key."""
    image = await site.image(**properties)
    headers = {"X-Auth-Token": token} if token else {}
    assert (await site.call("DELETE", f"/images/{image}", headers=headers)).status == 204


async def test_a_key_that_goes_with_its_image_is_forgotten(site: Site) -> None:
    KEYS["k"] = Passphrase(b"sesame")
    await deleted(site, **KEY)
    assert "k" not in KEYS


async def test_a_key_is_forgotten_for_those_who_may_have_it_forgotten_only(site: Site) -> None:
    """Properties are anybody's to write: the service lends nobody its own rights."""
    KEYS["k"] = Passphrase(b"sesame")
    await deleted(site, "another token", **KEY)
    await deleted(site, None, **KEY)
    await deleted(site, **{**KEY, "cinder_encryption_key_deletion_policy": "do_not_delete"})
    await deleted(site, cinder_encryption_key_id="k")
    assert "k" in KEYS


async def test_a_key_manager_that_fails_keeps_no_image(site: Site) -> None:
    KEYS["k"] = RuntimeError("it broke")
    await deleted(site, **KEY)
    del KEYS["k"]
    await deleted(site, **KEY)
