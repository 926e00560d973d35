"""Policy rules that another server decides (images.md 16.2)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp.web import StreamResponse
from oslo_config import cfg
from oslo_policy import policy as oslo

from handlers.app import App
from handlers.call import Call
from handlers.policy import Policy
from handlers.policy_defaults import DEFAULTS
from handlers.routing import Route
from tests.support.policy_server import Asked, PolicyServer, by_path, policy_server
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import Config, one_store, passing
from tests.support.tls import self_signed

DEAD = "http://127.0.0.1:1"


@pytest_asyncio.fixture
async def judge() -> AsyncIterator[PolicyServer]:
    async with policy_server() as server:
        yield server


def deciding(rules: dict[str, Any], options: str = "", **sections: str) -> Config:
    def config(directory: Path) -> str:
        (directory / "policy.yaml").write_bytes(orjson.dumps(rules))
        return one_store(oslo_policy=options, **sections)(directory)

    return config


def now(site: Site, **rules: Any) -> None:
    """These rules from the next request on."""
    new = site.directory / "new"
    new.write_bytes(orjson.dumps(rules))
    new.rename(site.directory / "policy.yaml")


async def lists(site: Site, who: str = "A") -> int:
    return (await site.call("GET", "/images", who)).status


async def test_the_answer_true_permits(postgres: Server, judge: PolicyServer) -> None:
    url = judge.url
    cases = {
        f"{url}/True": 200,
        f'{url}/"True"': 200,
        f"{url}/False": 403,
        f"{url}/true": 403,
        f"{url}/": 403,
        f"{url}/True{'x' * 1000}": 403,
        f"not {url}/True": 403,
        f"not {url}/False": 200,
        f"role:member and {url}/True": 200,
        f"role:admin and {url}/True": 403,
        f"role:member and {url}/False": 403,
        f"role:admin or {url}/True": 200,
        f"{url}/False or {url}/True": 200,
        f"{url}/True and not ({url}/False or {url}/nor/this)": 200,
        "rule:elsewhere": 200,
        f"{DEAD}/True": 403,
        f"not {DEAD}/True": 403,
        f"not (not {DEAD}/True)": 403,
        f"not rule:dead and {url}/True": 403,
        f"{DEAD}/True or {url}/True": 200,
        f"{url}/%(nothing)s": 403,
        f"not {url}/%(nothing)s": 403,
        f"{url}/%(project_id": 403,
        "http:": 403,
        "http://[": 403,
        "http://user@": 403,
    }
    async with passing(postgres, deciding({})) as site:
        for rule, status in cases.items():
            now(site, get_images=rule, elsewhere=f"{url}/True", dead=DEAD)
            assert (rule, await lists(site)) == (rule, status)
        now(site, get_images=[[f"{url}/False"], ["role:member", f"{url}/True"]])
        assert await lists(site) == 200


async def test_a_server_in_trouble_permits_nothing(postgres: Server, judge: PolicyServer) -> None:
    judge.status = 503
    async with passing(postgres, deciding({"get_images": f"{judge.url}/True"})) as site:
        assert await lists(site) == 403
        now(site, get_images=f"not {judge.url}/False")
        assert await lists(site) == 403


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json"])
async def test_rule_target_and_credentials_are_sent(postgres: Server, judge: PolicyServer, content_type: str) -> None:
    rules = {"get_image": "rule:both", "both": f"role:reader and {judge.url}/True"}
    async with passing(postgres, deciding(rules, f"remote_content_type = {content_type}")) as site:
        image = await site.image(tags=["ä", "b"], custom="&=+")
        assert (await site.call("GET", f"/images/{image}")).status == 200
    asked = judge.asked[-1]
    assert (asked.content_type, asked.rule, asked.path) == (content_type, "get_image", "/True")
    assert asked.target.items() >= {"id": image, "project_id": "pA", "custom": "&=+", "size": None}.items()
    assert sorted(asked.target["tags"]) == ["b", "ä"]
    assert asked.credentials.items() >= {"user_id": "uA", "project_id": "pA", "roles": ["member", "reader"]}.items()
    await asyncio.to_thread(_asked_by_oslo, rules, asked)
    assert judge.asked[-2:] == [asked, asked]


def _asked_by_oslo(rules: dict[str, str], asked: Asked) -> None:
    """The same question as oslo.policy itself puts it."""
    conf = cfg.ConfigOpts()
    conf([])
    enforcer = oslo.Enforcer(conf, use_conf=False)
    conf.set_override("remote_content_type", asked.content_type, group="oslo_policy")
    enforcer.set_rules(oslo.Rules.from_dict(rules), use_conf=False)
    assert enforcer.enforce(asked.rule, asked.target, asked.credentials)


async def test_rules_may_change_while_a_server_is_asked(postgres: Server, judge: PolicyServer) -> None:
    """The request goes on by the new rules, and what is asked for once more was not done before."""
    came, may_go = asyncio.Event(), asyncio.Event()

    async def slow(asked: Asked) -> str:
        came.set()
        await may_go.wait()
        return await by_path(asked)

    judge.judge = slow
    async with passing(postgres, deciding({"add_image": f"{judge.url}/True"})) as site:
        waiting = asyncio.create_task(site.call("POST", "/images", "C", json={"name": "changing"}))
        await asyncio.wait_for(came.wait(), 10)
        now(site, add_image=f"{judge.url}/True and {judge.url}/False")
        assert await lists(site) == 200
        may_go.set()
        assert (await waiting).status == 403
        assert [asked.path for asked in judge.asked] == ["/True", "/False"]
        now(site)
        found = await (await site.call("GET", "/images?name=changing", "C")).json()
        assert found["images"] == []


async def test_what_users_write_leads_urls_nowhere_else(postgres: Server, judge: PolicyServer) -> None:
    async with passing(postgres, deciding({"get_image": f"{judge.url}/%(owner)s/%(name)s/%(size)s"})) as site:
        for name in ("../../True", "a?b#c", "ä"):
            image = await site.image(name=name)
            assert (await site.call("GET", f"/images/{image}")).status == 404
        assert [asked.path for asked in judge.asked] == [
            "/pA/..%2F..%2FTrue/None",
            "/pA/a%3Fb%23c/None",
            "/pA/%C3%A4/None",
        ]
        image = await site.image(name="..")
        assert (await site.call("GET", f"/images/{image}")).status == 404
        assert len(judge.asked) == 3


async def test_nothing_is_remembered_from_one_request_to_the_next(postgres: Server, judge: PolicyServer) -> None:
    verdict = "True"

    async def changeable(asked: Asked) -> str:
        return verdict

    judge.judge = changeable
    async with passing(postgres, deciding({"get_images": f"{judge.url} and {judge.url}"})) as site:
        assert await lists(site) == 200
        assert len(judge.asked) == 1
        verdict = "False"
        assert await lists(site) == 403
        assert len(judge.asked) == 2


async def test_nobody_else_waits_for_a_slow_server(postgres: Server, judge: PolicyServer) -> None:
    came, may_go = asyncio.Event(), asyncio.Event()

    async def slow(asked: Asked) -> str:
        came.set()
        await may_go.wait()
        return "True"

    judge.judge = slow
    async with passing(postgres, deciding({"get_images": judge.url})) as site:
        waiting = asyncio.create_task(lists(site))
        await asyncio.wait_for(came.wait(), 10)
        image = await site.image()
        assert (await site.call("GET", f"/images/{image}")).status == 200
        assert not waiting.done()
        may_go.set()
        assert await waiting == 200


async def test_a_server_that_takes_too_long_permits_nothing(postgres: Server, judge: PolicyServer) -> None:
    async def silent(asked: Asked) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    judge.judge = silent
    async with passing(postgres, deciding({"get_images": judge.url}, "remote_timeout = 0.05")) as site:
        assert await lists(site) == 403


async def test_the_decision_is_about_the_image_as_it_is_by_then(postgres: Server, judge: PolicyServer) -> None:
    """Somebody changes the image while the server is asked about it: it is asked again."""
    came, may_go = asyncio.Event(), asyncio.Event()

    async def by_name(asked: Asked) -> str:
        came.set()
        await may_go.wait()
        return str(asked.target["name"] == "open")

    judge.judge = by_name
    async with passing(postgres, deciding({"modify_image": f"role:admin or {judge.url}"})) as site:
        image = await site.image(name="open")
        patch = {"op": "add", "path": "/custom", "value": "x"}
        waiting = asyncio.create_task(site.patch(image, patch))
        await asyncio.wait_for(came.wait(), 10)
        closing = {"op": "replace", "path": "/name", "value": "closed"}
        assert (await site.patch(image, closing, who="ADM")).status == 200
        may_go.set()
        assert (await waiting).status == 403
        assert [asked.target["name"] for asked in judge.asked] == ["open", "closed"]
        assert "custom" not in await site.show(image)


async def test_lists_show_what_the_server_permits_and_ask_about_all_images_together(
    postgres: Server, judge: PolicyServer
) -> None:
    together = asyncio.Barrier(4)

    async def by_name(asked: Asked) -> str:
        await asyncio.wait_for(together.wait(), 10)
        return str(asked.target["name"] != "n1")

    async with passing(postgres, deciding({})) as site:
        for number in range(4):
            await site.image("C", name=f"n{number}")
        now(site, get_image=judge.url)
        judge.judge = by_name
        names = [image["name"] for image in (await (await site.call("GET", "/images?owner=pC", "C")).json())["images"]]
    assert names == ["n3", "n2", "n0"]
    assert len(judge.asked) == 4


async def test_a_list_waits_for_a_dead_server_once(postgres: Server, judge: PolicyServer) -> None:
    """There are more images than questions under way at once; those that are left are not even asked."""

    async def silent(asked: Asked) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    judge.judge = silent
    async with passing(postgres, deciding({}, "remote_timeout = 0.3")) as site:
        for _ in range(25):
            await site.image("C")
        now(site, get_image=judge.url)
        document = await (await site.call("GET", "/images?owner=pC", "C")).json()
    assert document["images"] == []
    assert len(judge.asked) == 20


async def test_everything_happens_once_however_much_is_asked(postgres: Server, judge: PolicyServer) -> None:
    """Every rule is the server's; properties are protected by such rules too."""

    def config(directory: Path) -> str:
        rights = "\n".join(f"{right} = judged" for right in ("create", "read", "update", "delete"))
        (directory / "protection.conf").write_text(f"[.*]\n{rights}\n")
        options = "property_protection_file = protection.conf\nproperty_protection_rule_format = policies"
        rules = dict.fromkeys([*DEFAULTS, "judged"], f"{judge.url}/True")
        return deciding(rules, DEFAULT=options)(directory)

    async with passing(postgres, config) as site:
        image = await site.image(custom="x", visibility="shared")
        assert await site.upload(image, b"data") == 204
        patched = await site.patch(image, {"op": "replace", "path": "/custom", "value": "y"})
        assert (await patched.json())["custom"] == "y"
        assert (await site.call("PUT", f"/images/{image}/tags/t")).status == 204
        assert (await site.call("POST", f"/images/{image}/members", json={"member": "pB"})).status == 200
        assert (await site.call("PUT", f"/images/{image}/members/pB", "B", json={"status": "accepted"})).status == 200
        assert (await site.call("POST", f"/images/{image}/actions/deactivate")).status == 204
        assert (await site.call("POST", f"/images/{image}/actions/reactivate")).status == 204
        response = await site.call("GET", f"/images/{image}/file")
        assert (response.status, await response.read()) == (200, b"data")
        staged = await site.image(name="staged")
        assert await site.stage(staged, b"more") == 204
        assert await site.do_import(staged) == 202
        assert (await site.ended(staged))["status"] == "active"
        assert (await site.call("DELETE", f"/images/{image}")).status == 204
        history = await (await site.call("GET", f"//ops/v1/images/{image}/history")).json()
        kinds = [event["type"] for event in history["events"]]
        asked_for = kinds[: kinds.index("ImageDeleted") + 1]  # its bytes may be gone by now, too
        assert (len(asked_for), len(set(asked_for))) == (10, 10)
        named = await (await site.call("GET", "/images?name=staged")).json()
        assert [found["id"] for found in named["images"]] == [staged]
    assert {asked.rule for asked in judge.asked} >= {"add_image", "context_is_admin", "judged", "modify_member"}


async def test_what_is_asked_too_late_repeats_nothing(
    postgres: Server, judge: PolicyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def careless(self: App, route: Route, call: Call) -> StreamResponse:
        return await route.handler(call)

    monkeypatch.setattr(App, "_attempt", careless)
    async with passing(postgres, deciding({"context_is_admin": f"{judge.url}/True"})) as site:
        image = await site.image("C", name="late")
        named = await (await site.call("GET", "/images?name=late", "C")).json()
    assert [found["id"] for found in named["images"]] == [image]


async def test_servers_behind_tls(postgres: Server, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    trust.load_cert_chain(certificate, key)
    verified = "remote_ssl_verify_server_crt = true\n"
    async with policy_server(trust) as judge:
        rules = {"get_images": f"{judge.url}/True"}
        async with passing(postgres, deciding(rules)) as site:
            assert await lists(site) == 200
        async with passing(postgres, deciding(rules, verified)) as site:
            assert await lists(site) == 403
        known = f"{verified}remote_ssl_ca_crt_file = {certificate}\n"
        async with passing(postgres, deciding(rules, known)) as site:
            assert await lists(site) == 200
        trust.verify_mode = ssl.CERT_REQUIRED
        async with passing(postgres, deciding(rules, known)) as site:
            assert await lists(site) == 403
        own = f"{known}remote_ssl_client_crt_file = {certificate}\nremote_ssl_client_key_file = {key}\n"
        async with passing(postgres, deciding(rules, own)) as site:
            assert await lists(site) == 200


async def test_other_rules_are_judged_on_the_spot(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(*_: object) -> None:
        raise AssertionError("nobody is to be asked")

    monkeypatch.setattr(Policy, "asking", asking)
    async with passing(postgres, deciding({"get_images": "role:member"})) as site:
        assert await lists(site) == 200
