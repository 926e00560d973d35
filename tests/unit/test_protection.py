"""Files of property protection: what they permit to whom, and what makes one faulty."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.policy import Policy
from handlers.protection import Protection
from kernel.context import Actor
from kernel.errors import ConfigError
from kernel.registry import discover
from kernel.settings import Default, Settings
from ops.commands.faults import faults
from ops.config import load

OPEN = "create = @\nread = @\nupdate = @\ndelete = @\n"


def of(directory: Path, text: str, kind: str = "roles", policy: Policy | None = None) -> Protection:
    (directory / "protection.conf").write_text(text)
    default = Default.model_validate(
        {"property_protection_file": "protection.conf", "property_protection_rule_format": kind}
    )
    return Protection.of(Settings(default=default, config_dirs=(directory,)), policy or Policy())


def somebody(*roles: str, service: tuple[str, ...] = ()) -> Actor:
    return Actor(project_id="pA", roles=frozenset(roles), service_roles=frozenset(service))


def test_without_a_file_everything_is_open() -> None:
    protection = Protection.of(Settings(), Policy())
    assert not protection.active
    assert protection.rights(somebody(), "x") == ("create", "read", "update", "delete")


def test_roles(tmp_path: Path) -> None:
    rules = "[^x_]\ncreate = Admin, member\nread = @\nupdate = admin\ndelete = !\n"
    protection = of(tmp_path, rules)
    assert protection.active
    assert protection.rights(somebody("member"), "x_a") == ("create", "read")
    assert protection.rights(somebody("admin"), "x_a") == ("create", "read", "update")
    assert protection.rights(somebody(), "x_a") == ("read",)
    assert protection.rights(somebody(service=("admin",)), "x_a") == ("create", "read", "update")


def test_what_no_section_matches_is_nobodys(tmp_path: Path) -> None:
    protection = of(tmp_path, f"[^x_]\n{OPEN}")
    assert protection.rights(somebody("admin", "member"), "y") == ()
    assert protection.rights(somebody(), "os_glance_importing_to_stores") == ("create", "read", "update", "delete")


def test_the_first_match_decides_and_is_searched_for(tmp_path: Path) -> None:
    closed = OPEN.replace("@", "!")
    protection = of(tmp_path, f"[secret]\n{closed}[.*]\n{OPEN}")
    assert protection.rights(somebody(), "my_secret_x") == ()
    assert len(protection.rights(somebody(), "other")) == 4


def test_an_empty_list_is_nobody(tmp_path: Path) -> None:
    protection = of(tmp_path, "[.*]\ncreate =\nread = ,\nupdate = @\ndelete = @\n")
    assert protection.rights(somebody("admin"), "x") == ("update", "delete")


def test_policies(tmp_path: Path) -> None:
    """Asked on an empty target, as they are at the time; a rule that is gone is nobody's, whatever the default is."""
    policy = Policy({"editors": "role:editor", "own": "project_id:%(project_id)s"})
    text = "[.*]\ncreate = editors\nread = @\nupdate = own\ndelete = !\n"
    protection = of(tmp_path, text, "policies", policy)
    assert protection.rights(somebody("editor"), "x") == ("create", "read")
    assert protection.rights(somebody("member"), "x") == ("read",)
    policy.replace({"editors": "role:member"})
    assert protection.rights(somebody("member"), "x") == ("create", "read")
    policy.replace({})
    assert protection.rights(somebody("editor", "admin"), "x") == ("read",)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("create = @", "roles", "no section headers"),
        (f"[(]\n{OPEN}", "roles", "[(] is no regular expression"),
        ("[x]\ncreate = @\nread = @\n", "roles", "[x] lacks update, delete"),
        (f"[x]\n{OPEN}[x]\n{OPEN}", "roles", "already exists"),
        (f"[x]\n{OPEN.replace('update = @', 'update = @, !')}", "roles", "[x] update: @ and !"),
        (f"[x]\n{OPEN.replace('update = @', 'update = a, b')}", "policies", "[x] update: must name exactly one"),
        (f"[x]\n{OPEN.replace('update = @', 'update =')}", "policies", "[x] update: must name exactly one"),
        (
            f"[x]\n{OPEN.replace('update = @', 'update = nope')}",
            "policies",
            "[x] update: there is no policy rule 'nope'",
        ),
    ],
)
def test_what_is_faulty_refuses_the_start(tmp_path: Path, text: str, kind: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, text, kind)
    assert f"property_protection_file {tmp_path / 'protection.conf'}" in str(caught.value)
    assert reason in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    default = Default(property_protection_file=tmp_path / "nope.conf")
    with pytest.raises(ConfigError, match="No such file"):
        Protection.of(Settings(default=default), Policy())


def test_whoever_checks_the_configuration_is_told(tmp_path: Path) -> None:
    """Of all files at once, without starting anything."""
    (tmp_path / "glance-api.conf").write_text("[DEFAULT]\nproperty_protection_file = protection.conf\n")
    (tmp_path / "protection.conf").write_text("[x]\n")
    (tmp_path / "schema-image.json").write_text("[]")
    registry = discover()
    settings = load([tmp_path / "glance-api.conf"], registry=registry, state=tmp_path, environment={})
    told = faults(settings, registry)
    assert [word for word in ("protection.conf", "schema-image.json") for fault in told if word in fault] == [
        "protection.conf",
        "schema-image.json",
    ]
