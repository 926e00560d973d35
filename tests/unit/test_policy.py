"""The policy language, its files and their faults (images.md 16)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from oslo_policy import _checks

from handlers.policy import Policy
from handlers.policy_defaults import DEFAULTS
from kernel.context import Actor
from kernel.errors import ConfigError
from kernel.settings import OsloPolicy, Settings

ALICE = Actor(user_id="alice", project_id="pA", roles=frozenset({"member", "reader"}))
NOVA = Actor(
    user_id="alice",
    project_id="pA",
    roles=frozenset({"member"}),
    service_user_id="nova",
    service_roles=frozenset({"service", "admin"}),
)
IMAGE = {"project_id": "pA", "owner": "pA", "visibility": "shared", "size": 20, "cls": "secret", "nothing": None}


def judged(expression: Any, actor: Actor = ALICE, target: Any = None, **more: str) -> bool:
    return Policy({"x": expression, **more}).allowed(actor, "x", IMAGE if target is None else target)


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("", True),
        ("@", True),
        ([], True),
        ("!", False),
        ("role:member", True),
        ("role:MEMBER", True),
        ("role:admin", False),
        ("role:%(visibility)s", False),
        ("project_id:%(project_id)s", True),
        ("user_id:alice", True),
        ("'shared':%(visibility)s", True),
        ("'public':%(visibility)s", False),
        ("20:%(size)s", True),
        ("None:%(nothing)s", True),
        ("domain_id:%(nothing)s", True),
        ("project_id:%(missing)s", False),
        ("missing:%(project_id)s", False),
        ("role:member and not 'secret':%(cls)s", False),
        ("role:member and not 'secret':%(missing)s", True),
        ("role:admin or role:member and role:reader", True),
        ("(role:admin or role:member) AND NOT role:reader", False),
        ("role:member\n  and\n  role:reader", True),
        ([["role:admin"], ["role:member", "role:reader"]], True),
        ([["role:admin"], ["role:member", "role:other"]], False),
        ("rule:context_is_admin", False),
        ("rule:get_images", True),
        ("user_id.deeper:x", False),
        ("user_id:%(size)d", False),
        ("user_id:%(", False),
        ("a(b:c", False),
    ],
)
def test_the_language(expression: Any, passes: bool) -> None:
    assert judged(expression) is passes


def test_an_unknown_rule_is_the_default_rule() -> None:
    assert judged("rule:nowhere") is True
    assert judged("rule:nowhere", default="role:admin") is False
    assert Policy({"x": "rule:nowhere"}, default_rule="gone").allowed(ALICE, "x", IMAGE) is False


def test_rules_in_a_circle_are_false() -> None:
    policy = Policy({"x": "rule:y", "y": "role:member and not rule:x", "z": "rule:z"})
    assert not any(policy.allowed(ALICE, name, IMAGE) for name in "xyz")


def test_service_tokens_can_be_asked_for() -> None:
    rule = "role:admin or (service_user_id:nova)"
    assert not judged(rule)
    assert judged(rule, NOVA)
    assert judged("service_roles:admin", NOVA)
    assert not judged("role:admin", NOVA)


@pytest.mark.parametrize("rule", ["project_id:%(owner)s", "project_id:%(member_id)s"])
def test_what_neither_has_is_not_what_both_have(rule: str) -> None:
    """A caller without a project is not the owner of what nobody owns."""
    nobodys = {"owner": None, "member_id": None, "visibility": "private"}
    assert not judged(rule, Actor(roles=frozenset({"member", "reader"})), nobodys)
    assert not judged(rule, ALICE, nobodys)


@pytest.mark.parametrize(
    "scope",
    [{"system_scope": "all"}, {"domain_id": "d", "project_id": None}, {"project_id": None, "system_scope": "all"}],
)
def test_other_scopes_than_projects_may_nothing(scope: dict[str, Any]) -> None:
    actor = Actor(**{"project_id": "pA", "roles": frozenset({"admin", "member", "reader"}), **scope})
    policy = Policy()
    assert not any(policy.allowed(actor, rule, IMAGE) for rule in DEFAULTS)
    assert not policy.admin(actor)


@pytest.mark.parametrize("expression", ["role:a or", "or", "(role:a", "nonsense", "role:a and nonsense", [["x"]]])
def test_what_cannot_be_judged_is_refused(expression: Any) -> None:
    with pytest.raises(ConfigError, match="get_images"):
        Policy({"get_images": expression})


@pytest.mark.parametrize("rule", ["http://x/y", "not http://x/y", [["https://x/y"]], "role:admin or not rule:y"])
def test_what_another_server_decides_is_denied_where_it_cannot_be_asked(rule: Any) -> None:
    policy = Policy({"x": rule, "y": "http://x/y"})
    assert policy.remote
    assert not policy.allowed(ALICE, "x", IMAGE)


def test_doubts_are_told_of_servers_that_anybody_may_play() -> None:
    trusting = Policy({"x": "https://x/y"})
    assert any("remote_ssl_verify_server_crt" in doubt for doubt in trusting.doubts())
    verifying = Policy({"x": "https://x/y"}, options=OsloPolicy(remote_ssl_verify_server_crt=True))
    assert Policy({"x": "http://x/y"}).doubts() == verifying.doubts() == Policy().doubts() == []


@pytest.mark.parametrize("option", ["remote_ssl_ca_crt_file", "remote_ssl_client_crt_file"])
def test_certificates_that_cannot_be_used_refuse_the_rules(tmp_path: Path, option: str) -> None:
    for path in (tmp_path / "nowhere", Path(__file__)):
        options = OsloPolicy.model_validate({option: path})
        assert Policy({"x": "http://x/y"}, options=options).remote
        with pytest.raises(ConfigError, match="certificate"):
            Policy({"x": "https://x/y"}, options=options)


def test_all_of_glances_rules_are_there() -> None:
    assert len([name for name in DEFAULTS if "metadef" in name]) == 28
    assert {"get_image", "download_from_store", "cache_prune", "stores_info_detail", "fetch_image_location"} <= set(
        DEFAULTS
    )


# --- files -------------------------------------------------------------------------------


def settings(directory: Path, **options: Any) -> Settings:
    return Settings(config_dirs=(directory,), oslo_policy=OsloPolicy(**options))


def write(path: Path, text: str) -> None:
    """Write so that the change shows, however coarse the clock of the file system."""
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_without_files_the_defaults_hold(tmp_path: Path) -> None:
    assert Policy.of(settings(tmp_path)).allowed(ALICE, "get_images")


def test_yaml_json_and_directories_later_over_earlier(tmp_path: Path) -> None:
    write(
        tmp_path / "policy.yaml",
        "# ours\nget_images: '!'\nadd_member: '!'\ncopy_image: >\n  role:admin or\n  role:member\n",
    )
    write(tmp_path / "policy.d" / "20.yaml", "get_images: ''\n")
    write(tmp_path / "policy.d" / "10.json", '{"get_images": "!", "delete_image": "!"}')
    write(tmp_path / "policy.d" / ".hidden.yaml", "this: is: no: yaml")
    policy = Policy.of(settings(tmp_path))
    asked = ("get_images", "add_member", "copy_image", "delete_image", "upload_image")
    assert [policy.allowed(ALICE, rule, IMAGE) for rule in asked] == [True, False, True, False, True]


def test_another_name_and_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path / "rules.json", "")
    assert Policy.of(settings(tmp_path, policy_file="rules.json")).allowed(ALICE, "get_images")
    assert Policy.of(settings(tmp_path, policy_file=str(tmp_path / "rules.json"))).allowed(ALICE, "get_images")


def test_a_file_under_its_former_name_is_not_read_and_that_is_told(tmp_path: Path) -> None:
    write(tmp_path / "policy.json", '{"get_images": "!"}')
    policy = Policy.of(settings(tmp_path))
    assert policy.allowed(ALICE, "get_images")
    (doubt,) = policy.doubts()
    assert f"{tmp_path}/policy.json is not read" in doubt
    assert not Policy.of(settings(tmp_path, policy_file="policy.json")).doubts()
    write(tmp_path / "policy.yaml", "")
    assert not Policy.of(settings(tmp_path)).doubts()


def test_a_directory_that_cannot_be_looked_into_any_more_leaves_the_rules_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "policy.d" / "10.yaml", "get_images: '!'")
    policy = Policy.of(settings(tmp_path), every=0)

    def closed(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    policy.refresh()
    assert not policy.allowed(ALICE, "get_images")


@pytest.mark.parametrize(
    "text",
    ["a: b: c", "- a\n- b", "get_images: true", "get_images:", "1: ''", "get_images: 'role:a or'", "\x00", "x: {}"],
)
def test_a_faulty_file_refuses_the_start(tmp_path: Path, text: str) -> None:
    write(tmp_path / "policy.yaml", text)
    with pytest.raises(ConfigError, match="policy"):
        Policy.of(settings(tmp_path))


def test_bytes_that_are_no_text_refuse_the_start(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes(b"get_images: '\xff'")
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        Policy.of(settings(tmp_path))


def test_a_change_is_taken_over_whole_and_a_faulty_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write(path, "get_images: '!'\n")
    policy = Policy.of(settings(tmp_path), every=0)
    assert not policy.allowed(ALICE, "get_images")
    write(path, "add_member: '!'\n")  # the rule that is gone has its default again
    policy.refresh()
    assert policy.allowed(ALICE, "get_images")
    assert not policy.allowed(ALICE, "add_member", IMAGE)
    write(path, "add_member: [")
    policy.refresh()
    assert not policy.allowed(ALICE, "add_member", IMAGE)
    write(path, "add_member: 'role:x or'")
    policy.refresh()
    assert not policy.allowed(ALICE, "add_member", IMAGE)
    write(tmp_path / "policy.d" / "more.yaml", "get_images: '!'")
    write(path, "{}")
    policy.refresh()
    assert policy.allowed(ALICE, "add_member", IMAGE)
    assert not policy.allowed(ALICE, "get_images")
    path.unlink()
    (tmp_path / "policy.d" / "more.yaml").unlink()
    policy.refresh()
    assert policy.allowed(ALICE, "get_images")


def test_answers_are_remembered_for_what_a_rule_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy({"x": "rule:y or role:admin", "y": "project_id:%(owner)s and not 'secret':%(cls)s"})
    judging, asked = policy._judged, 0

    def counted(*question: Any) -> bool:
        nonlocal asked
        asked += 1
        return judging(*question)

    monkeypatch.setattr(policy, "_judged", counted)
    plain = {"owner": "pA", "cls": "open", "size": 1}
    assert [policy.allowed(ALICE, "x", {**plain, "size": size, "tags": ["t"]}) for size in range(5)] == [True] * 5
    assert asked == 1
    assert not policy.allowed(ALICE, "x", {**plain, "owner": "pB"})
    assert not policy.allowed(ALICE, "x", {**plain, "cls": "secret"})
    assert not policy.allowed(ALICE, "x", {"cls": "open"})  # absent is something else than nothing
    assert not policy.allowed(NOVA, "x", {**plain, "cls": ["secret"], "owner": "pB"})
    assert policy.allowed(ALICE, "x", plain)
    assert asked == 5
    policy.replace({"x": "!"})
    assert not policy.allowed(ALICE, "x", plain)


def test_checks_that_others_have_added_are_asked_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may look at anything, directly or through another rule."""

    class Small(_checks.Check):
        def __call__(self, target: Any, creds: Any, enforcer: Any, current_rule: str | None = None) -> bool:
            return bool(target["size"] < int(self.match))

    monkeypatch.setitem(_checks.registered_checks, "small", Small)
    policy = Policy({"x": "rule:y and role:member", "y": "small:10"})
    assert [policy.allowed(ALICE, "x", {"size": size}) for size in (1, 20, 2)] == [True, False, True]


def test_rules_that_are_missing_look_at_what_the_default_rule_does() -> None:
    policy = Policy({"x": "rule:absent", "fallback": "project_id:%(owner)s"}, "fallback")
    assert [policy.allowed(ALICE, "x", {"owner": owner}) for owner in ("pA", "pB", "pA")] == [True, False, True]
