"""What the command line says of settings, schema, extensions and the machine itself."""

from __future__ import annotations

import os
import re
from asyncio import CancelledError
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kernel.registry import discover
from ops import cli
from ops.cli import COMMANDS, app
from ops.commands import checks
from ops.config import load
from tests.support.cli import INTERRUPTED, OK, TROUBLE, USAGE, entrepot, here, logging_of_its_own
from tests.support.disks import another_disk
from tests.support.installation import configured, run

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def place(directory: Path) -> Path:
    """A directory with a configuration in it."""
    configured(directory)
    return directory


# --- help, usage, versions of trouble ------------------------------------------------------


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What every command says of itself."""
    runner = CliRunner(env={"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"})
    with logging_of_its_own():
        return {name: runner.invoke(app, prog_name="entrepot", args=[name, "--help"]).stdout for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_exit_codes(helps: dict[str, str], name: str) -> None:
    text = " ".join(helps[name].split())
    assert f"Usage: entrepot {name}" in text
    assert "Exit codes: 0 all is well; 1 trouble" in text
    if name not in ("serve", "config"):
        assert "--json" in text


def test_all_commands_are_listed_and_a_typing_error_is_understood() -> None:
    ran = entrepot("--help").ended(OK)
    assert re.findall(r"^│ (\w+) ", ran.out, re.MULTILINE) == list(COMMANDS)
    assert "No such command 'imprt', did you mean import?" in entrepot("imprt").refused(USAGE)


def test_trouble_with_the_database_is_one_line(tmp_path: Path) -> None:
    said = here("events", "--database", UNREACHABLE).refused()
    assert said == "The database cannot be reached (ConnectionRefusedError)"
    said = here("events", "--state", tmp_path).refused()
    assert said == f"There is no database under {tmp_path}: name one with --state or --database"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "dsn",
    ["nonsense", "mysql://h/x", "postgresql://h:abc/x", "postgresql://u:p#w@h/x", "postgresql://127.0.0.1:99999/x"],
)
def test_a_dsn_that_makes_no_sense_is_said_to_be_one_and_never_shown(dsn: str) -> None:
    for verb in ("events", "migrate"):
        assert here(verb, "--database", dsn).refused().startswith("The DSN of the database cannot be understood; ")


def test_directories_that_cannot_be_and_addresses_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = here("demo", "--state", tmp_path / "file" / "x").refused()
    assert said == f"{tmp_path}/file/x cannot be made: Not a directory"
    assert here("import", tmp_path / "file", "--url", "ftp://x").refused() == "'ftp://x' is no address of a service"


def test_a_full_disk_is_no_bug_of_ours() -> None:
    with open("/dev/full", "w") as full:
        ran = entrepot("config", "reference", stdout=full.fileno())
    assert (ran.code, ran.err) == (TROUBLE, "entrepot: No space left on device (ENTREPOT_DEBUG=1 shows where)\n")


def test_an_interruption_that_asyncio_takes_for_a_cancellation_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(**_: Any) -> None:
        raise CancelledError

    monkeypatch.setattr(cli, "app", cancelled)
    assert here("events").refused(INTERRUPTED) == "interrupted"


def test_the_version_is_told() -> None:
    assert entrepot("--version").ended(OK).out == f"entrepot {version('entrepot')}\n"


# --- schema --------------------------------------------------------------------------------


def test_migrating(empty_dsn: str) -> None:
    assert "run `entrepot migrate`" in here("events", "--database", empty_dsn).refused()
    would = here("migrate", "--dry-run", "--database", empty_dsn, "--json").ended(OK).json["pending"]
    assert would[0] == "0001_log.sql"
    assert "would apply 0001_log.sql" in entrepot("migrate", "--dry-run", "--database", empty_dsn).ended(OK).out
    assert entrepot("migrate", "--database", empty_dsn, "--json").ended(OK).json["applied"] == would
    assert "up to date" in here("migrate", "--database", empty_dsn).ended(OK).out
    run(empty_dsn, "INSERT INTO schema_migrations (number, name, checksum) VALUES (9999, 'later', 'x')")
    assert "migrated by a newer entrepot" in here("migrate", "--database", empty_dsn).refused()


def test_looking_makes_no_database(tmp_path: Path) -> None:
    assert "would apply" in here("migrate", "--dry-run", "--state", tmp_path).ended(OK).out
    assert not list(tmp_path.iterdir())


# --- configuration -------------------------------------------------------------------------


def test_sound_settings_pass_and_what_has_no_effect_is_named(place: Path) -> None:
    config = place / "glance-api.conf"
    config.write_text(config.read_text().replace("[DEFAULT]", "[DEFAULT]\nworkers = 4"))
    ran = entrepot("config", "check", config).ended(OK)
    doubt, unused, verdict = ran.out.splitlines()
    assert doubt.startswith("warn  [import_filtering_opts] allowed_hosts is empty")
    assert (unused, verdict) == ("warn  [DEFAULT] workers has no effect here", "the settings are valid")
    assert not (place / "fast").exists()


def test_faults_in_files_and_sections_beside_the_main_ones_are_found_too(place: Path) -> None:
    config = place / "glance-api.conf"
    whole = config.read_text()
    config.write_text(
        whole.replace("[DEFAULT]", "[DEFAULT]\nuse_keystone_limits = true") + "\n[oslo_limit]\nauth_url = x\n"
    )
    (place / "policy.yaml").write_text("get_images: 'role:a or'\n")
    found = here("config", "check", config, "--json").ended(TROUBLE).json["faults"]
    assert len(found) == 2, found
    assert "get_images" in found[0]
    assert "[oslo_limit] endpoint_id" in found[1]
    (place / "policy.yaml").unlink()
    config.write_text(f"{whole}\n[paste_deploy]\nflavor = keystone\n".replace("auth = headers", ""))
    (fault,) = here("config", "check", config, "--json").ended(TROUBLE).json["faults"]
    assert "[keystone_authtoken]" in fault
    assert "auth_url" in fault


def test_all_faults_are_listed_at_once(place: Path) -> None:
    config = place / "glance-api.conf"
    text = config.read_text().replace("fast:file, cheap:file", "fast:file, cheap:fyle")
    text = text.replace("[DEFAULT]", "[DEFAULT]\nenabled_import_methods = glance-direct, teleport")
    config.write_text(f"{text}\n[image_import_opts]\nimage_import_plugins = nonsense\n[entrepot]\nauth = psychic\n")
    found = here("config", "check", config, "--json").ended(TROUBLE).json["faults"]
    for what in ("fyle", "teleport", "nonsense", "psychic"):
        assert sum(what in fault for fault in found) == 1, found
    config.write_text(text.replace("cheap:fyle", "cheap:file").replace(f"{place}/cheap", f"{place}/fast"))
    assert "is the directory of fast already" in here("config", "check", config).ended(TROUBLE).out
    config.write_text("[DEFAULT]\nimage_size_cap = much\nlimit_param_default = 0\n")
    ran = here("config", "check", config).ended(TROUBLE)
    assert [line.split()[0] for line in ran.out.splitlines()] == ["fail", "fail"]
    assert f"{config}: [DEFAULT] image_size_cap" in ran.out
    said = here("config", "show", "--config-file", config).ended(TROUBLE).err.splitlines()
    assert said[0] == "entrepot: The configuration is wrong:"
    assert len(said) == 3


def test_settings_are_shown_with_their_origin_and_without_secrets(place: Path) -> None:
    config = place / "glance-api.conf"
    config.write_text(
        f"{config.read_text()}\n[oslo_messaging_notifications]\ntransport_url = rabbit://u:hidden@host:5672/\n"
        "[sink_webhook]\nurl = https://host/\nauthorization = Bearer hidden\n"
    )
    environment = {"ENTREPOT_DEFAULT__IMAGE_TAG_QUOTA": "7"}
    asked = ("config", "show", "--config-file", config, "--state", place / "state")
    shown = entrepot(*asked, "--json", **environment).ended(OK).json
    assert shown["DEFAULT"]["image_tag_quota"] == {"value": 7, "origin": "the environment"}
    assert shown["DEFAULT"]["enabled_backends"]["origin"] == str(config)
    assert shown["DEFAULT"]["image_size_cap"] == {"value": 1099511627776, "origin": None}
    assert shown["fast"]["filesystem_store_datadir"]["value"] == str(place / "fast")
    assert shown["oslo_messaging_notifications"]["transport_url"]["value"] == "rabbit://***@host:5672/"
    assert shown["sink_webhook"]["authorization"] == {"value": "***", "origin": str(config)}
    assert "publisher_id" not in shown["sink_webhook"]  # handed over by the service
    ran = here(*asked, "--changed", **environment).ended(OK)
    assert "hidden" not in ran.out
    assert re.search(r"image_tag_quota +the environment +7", ran.out)
    assert "image_size_cap" not in ran.out


def test_extensions_are_listed_by_kind() -> None:
    rows = entrepot("extensions", "--json").ended(OK).json
    found = {(row["kind"], row["name"]): row for row in rows}
    assert found["store", "file"]["origin"] == "stores.file"
    assert found["method", "glance-direct"]["unavailable"] is None
    assert {kind for kind, _ in found} >= {"store", "method", "sink", "auth"}


# --- doctor ----------------------------------------------------------------------------------


def examined(place: Path, dsn: str, code: int) -> dict[str, Any]:
    asked = ("--config-file", place / "glance-api.conf", "--state", place / "state", "--database", dsn)
    rows = here("doctor", *asked, "--json").ended(code).json
    return {row["check"]: row for row in rows if row["status"] != "ok" or row["check"] != "settings"}


def test_a_healthy_installation(place: Path, dsn: str) -> None:
    found = examined(place, dsn, OK)
    healthy = ("python", "staging", "store fast", "adoption cheap", "postgres", "clock", "schema", "work")
    healthy += ("clean-up", "leases", "read models")
    assert {name: found[name]["status"] for name in healthy} == dict.fromkeys(healthy, "ok")
    assert found["qemu-img"]["status"] in ("ok", "warn")


def test_what_is_left_undone_is_noticed(place: Path, dsn: str) -> None:
    run(
        dsn,
        "INSERT INTO leases (stream, owner, node, epoch, until) VALUES"
        " (gen_random_uuid(), gen_random_uuid(), 'n', 1, clock_timestamp() - interval '1 hour'),"
        " (gen_random_uuid(), NULL, 'n', 1, '-infinity')",
        "INSERT INTO images (id, image_id, version, status, visibility, hidden, protected, min_disk,"
        " min_ram, tags, properties, created_at, updated_at, work, due_at) VALUES (gen_random_uuid(), 'x', 1,"
        " 'importing', 'private', false, false,"
        " 0, 0, '{}', '{}', now(), now(), 'store', clock_timestamp() - interval '1 day')",
        "INSERT INTO images (id, image_id, version, status, visibility, hidden, protected, min_disk,"
        " min_ram, tags, properties, created_at, updated_at, work, due_at) SELECT gen_random_uuid(), 'y', 1,"
        " 'deleted', 'private', false, false,"
        " 0, 0, '{}', '{}', now(), now(), 'purge', '-infinity'",
        "INSERT INTO states SELECT id, version, 1, json_build_object('at', clock_timestamp()"
        " - CASE image_id WHEN 'x' THEN interval '10 minutes' ELSE interval '2 days' END) FROM images",
        "INSERT INTO leases (stream, owner, node, epoch, until)"
        " SELECT id, NULL, 'n', 1, clock_timestamp() + interval '30 minutes' FROM images WHERE image_id = 'y'",
        "INSERT INTO consumers (name, position) VALUES ('sink ahead', 5)",
    )
    found = examined(place, dsn, TROUBLE)
    assert found["leases"]["status"] == "warn"
    assert found["leases"]["found"].startswith("0 alive, 1 expired, the oldest 60 min")
    assert found["work"]["status"] == "warn"
    assert found["work"]["found"].startswith("1 image waiting (store), the oldest for 10 min")
    assert found["read models"]["status"] == "warn"
    assert found["read models"]["found"].startswith("2 images folded by another version")
    assert "rebuild inline" in found["read models"]["advice"]
    assert found["clean-up"]["status"] == "warn"
    assert found["clean-up"]["found"].startswith("1 image with bytes that could not be removed, the oldest for 2 d")
    assert "`store_gone`" in found["clean-up"]["advice"]
    assert found["consumer sink ahead"]["status"] == "fail"
    assert "--against" in found["consumer sink ahead"]["advice"]


def test_what_is_wrong_comes_with_advice(place: Path) -> None:
    config = place / "glance-api.conf"
    (place / "fast").write_text("a file where a directory should be")
    config.write_text(config.read_text().replace("[DEFAULT]", "[DEFAULT]\nworkers = 4\nenabled_import_methods = odd"))
    asked = ("--config-file", config, "--state", place / "state", "--database", UNREACHABLE)
    ran = here("doctor", *asked).ended(TROUBLE)
    assert f"fail  settings: {config}: [DEFAULT] enabled_import_methods: unknown method 'odd'" in ran.out
    assert "warn  settings: [DEFAULT] workers has no effect" in ran.out
    assert f"fail  store fast: {place}/fast: Not a directory" in ran.out
    assert "fail  postgres: The database cannot be reached" in ran.out
    assert all("→" in line for line in ran.out.splitlines() if not line.startswith("ok"))


def test_a_store_on_another_disk_is_pointed_out(place: Path) -> None:
    with another_disk(place) as elsewhere:
        config = place / "glance-api.conf"
        config.write_text(config.read_text().replace(f"{place}/cheap", f"{elsewhere}/cheap"))
        registry = discover()
        settings = load([config], registry=registry, state=place, environment={})
        found = {finding.check: finding for finding in checks.stores(settings, registry)}
    assert found["adoption fast"].status == "ok"
    assert found["adoption cheap"].status == "warn"
    assert found["store cheap"].status in ("ok", "warn")


def test_a_resting_installation_without_a_database_is_fine(place: Path) -> None:
    state = place / "state"
    ran = here("doctor", "--config-file", place / "glance-api.conf", "--state", state, ENTREPOT_LOOP="asyncio")
    assert f"none yet under {state}" in ran.ended(OK).out
    assert not os.path.exists(state)
