"""Operators' files mean here what oslo.config reads in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernel.errors import ConfigError
from kernel.registry import Registry, discover
from kernel.settings import Settings
from ops.commands.faults import doubts, faults
from ops.config import IMPORT, MAIN, OURS, load, unused
from ops.former import FORMER
from ops.reference import chapters
from ops.server import chosen_sinks, options_of
from plugins.auth.keystone import KeystoneConfig
from plugins.sinks.amqp import AmqpConfig


def loaded(directory: Path, *texts: str) -> Settings:
    """Settings from files, the first the main one, the others its drop-ins."""
    main, *more = texts
    (directory / MAIN).write_text(main)
    (directory / f"{MAIN}.d").mkdir()
    for number, text in enumerate(more):
        (directory / f"{MAIN}.d" / f"{number}.conf").write_text(text)
    return load([directory / MAIN], registry=Registry(), state=directory, environment={})


# --- which files ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["--config-file", "OS_GLANCE_CONFIG_DIR"])
def test_files_and_their_drop_ins_later_over_earlier(tmp_path: Path, by: str) -> None:
    """Whether the directory is named or the file in it."""
    order = [IMPORT, f"{IMPORT}.d/1.conf", MAIN, f"{MAIN}.d/1.conf", f"{MAIN}.d/2.conf", OURS, f"{OURS}.d/1.conf"]
    for number, name in enumerate(order):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        own = "\n".join(f"own_{later} = {number}" for later in range(number, len(order)))
        (tmp_path / name).write_text(f"[DEFAULT]\nlast = {number}\n{own}\n")
    files = [tmp_path / MAIN] if by == "--config-file" else []
    environment = {} if files else {by: str(tmp_path)}
    raw = load(files, registry=Registry(), state=tmp_path, environment=environment).raw["DEFAULT"]
    assert [raw[f"own_{number}"] for number in range(len(order))] == [str(number) for number in range(len(order))]


# --- options that may be repeated ----------------------------------------------------------


def test_drivers_add_up_within_a_file_and_over_files(tmp_path: Path) -> None:
    section = "[oslo_messaging_notifications]\n"
    settings = loaded(tmp_path, f"{section}driver = messagingv2\ndriver = log\n", f"{section}driver = ['noop', test]\n")
    assert settings.oslo_messaging_notifications.driver == ("messagingv2", "log", "noop", "test")


def test_policy_directories_add_up(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[oslo_policy]\npolicy_dirs = a\npolicy_dirs = b,\n  c\n")
    assert settings.oslo_policy.policy_dirs == ("a", "b", "c")


def test_of_any_other_option_the_last_one_counts(tmp_path: Path) -> None:
    section = "[oslo_messaging_notifications]\n"
    settings = loaded(tmp_path, f"{section}topics = a\ntopics = b, c\n", f"{section}topics = d\n")
    assert settings.oslo_messaging_notifications.topics == ("d",)


# --- former names --------------------------------------------------------------------------


def test_options_under_former_names_count(tmp_path: Path) -> None:
    registry = Registry()
    settings = loaded(
        tmp_path,
        "[DEFAULT]\ndisk_formats = raw\ntask_time_to_live = 7\npolicy_file = ours.yaml\n"
        "notification_driver = messagingv2\nnotification_driver = log\n"
        "[oslo_messaging_rabbit]\nrabbit_use_ssl = true\n",
    )
    assert settings.image_format.disk_formats == ("raw",)
    assert settings.task.task_time_to_live == 7
    assert settings.oslo_policy.policy_file == "ours.yaml"
    assert settings.oslo_messaging_notifications.driver == ("messagingv2", "log")
    assert settings.section("oslo_messaging_rabbit") == {"ssl": "true"}
    assert settings.origin["image_format", "disk_formats"] == f"{tmp_path / MAIN} ([DEFAULT] disk_formats)"
    assert not [item for item in unused(settings, registry) if "DEFAULT" in item]


def test_todays_name_wins_within_a_file_and_the_later_file_whatever_it_calls_the_option(tmp_path: Path) -> None:
    both = "[DEFAULT]\ndisk_formats = raw\n[image_format]\ndisk_formats = qcow2\n"
    assert loaded(tmp_path, both).image_format.disk_formats == ("qcow2",)
    (tmp_path / f"{MAIN}.d" / "later.conf").write_text("[DEFAULT]\ndisk_formats = iso\n")
    settings = load([tmp_path / MAIN], registry=Registry(), state=tmp_path, environment={})
    assert settings.image_format.disk_formats == ("iso",)


def test_what_is_wrong_under_a_former_name_is_told_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(\[DEFAULT\] task_time_to_live\): \[task\] task_time_to_live: "):
        loaded(tmp_path, "[DEFAULT]\ntask_time_to_live = soon\n")


def test_every_former_name_leads_to_an_option_there_is() -> None:
    known = {(chapter.section, option.name) for chapter in chapters(discover()) for option in chapter.options}
    assert set(FORMER.values()) <= known
    assert not set(FORMER) & known


# --- references ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("$base/x", "/srv/x"),
        ("${base}x", "/srvx"),
        ("$deep/x", "/srv/glance/x"),
        ("$glance_store.default_store", "file"),
        ("${glance_store.filesystem_store_datadir}/x", "/srv/images/x"),
        ("$control_exchange.x", "$control_exchange.x"),
        ("${control_exchange}.x", "glance.x"),
        ("x${public_endpoint}", "x"),
        ("$$base", "$base"),
        (r"\$base", "$base"),
        ("$5 $nothing", "$5 $nothing"),
    ],
)
def test_references_to_other_options(tmp_path: Path, written: str, meant: str) -> None:
    """Of the same section, of [DEFAULT], of a section that is named; as they are set, or by default."""
    text = "[DEFAULT]\ndeep = $base/glance\nbase = /srv\n[glance_store]\nfilesystem_store_datadir = $base/images\n"
    settings = loaded(tmp_path, f"{text}[DEFAULT]\ndefault_publisher_id = {written}\n")
    assert settings.default.default_publisher_id == meant


def test_an_option_of_the_own_section_comes_first(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[DEFAULT]\nplace = /a\n[store]\nplace = /b\ndatadir = $place/c\n")
    assert settings.section("store")["datadir"] == "/b/c"


def test_a_circle_of_references_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path / MAIN}: \[DEFAULT\] a: refers back to itself"):
        loaded(tmp_path, "[DEFAULT]\na = $b\nb = x$a\n")


# --- options that are left empty -------------------------------------------------------------


EMPTY = """
[DEFAULT]
enable_image_import =
api_version_profile =
hashing_algorithm =
node_staging_uri =
image_size_cap =
disabled_notifications =
[glance_store]
filesystem_store_datadir =
filesystem_store_chunk_size =
filesystem_thin_provisioning =
weight =
[image_format]
disk_formats =
[paste_deploy]
flavor = keystone
[keystone_authtoken]
auth_url = http://keystone
username = glance
password = secret
project_name = service
cafile =
insecure =
token_cache_time =
[oslo_messaging_notifications]
driver = messagingv2
[oslo_messaging_rabbit]
ssl =
ssl_ca_file =
heartbeat_timeout_threshold =
"""


def test_an_option_that_is_left_empty_is_not_set_unless_it_is_a_list(tmp_path: Path) -> None:
    """As generated files have them, for what the site does not need."""
    registry = discover()
    settings = loaded(tmp_path, EMPTY)
    assert settings.default.enable_image_import
    assert settings.default.hashing_algorithm == "sha512"
    assert settings.default.node_staging_uri == "file:///tmp/staging/"
    assert settings.section("glance_store")["filesystem_store_datadir"] == f"{tmp_path}/images"
    assert settings.image_format.disk_formats == ()
    assert faults(settings, registry) == []
    account = options_of(KeystoneConfig, "keystone_authtoken", settings)
    assert isinstance(account, KeystoneConfig)
    assert account.cafile is None
    ((_, broker),) = chosen_sinks(settings, registry)
    assert isinstance(broker, AmqpConfig)
    assert broker.ssl_ca_file is None


def test_an_empty_option_leaves_the_default_of_its_profile(tmp_path: Path) -> None:
    text = "[DEFAULT]\napi_version_profile = pike\nenable_image_import =\n"
    assert not loaded(tmp_path, text).default.enable_image_import


# --- where it is wrong -----------------------------------------------------------------------


WRONG = """
[DEFAULT]
transport_url = fake://
[glance_store]
default_store = tape
[oslo_messaging_notifications]
driver = messagingv2
[entrepot]
auth = psychic
sinks = webhook, pigeon
[oslo_messaging_rabbit]
heartbeat_timeout_threshold = now and then
"""


def test_every_fault_is_told_with_the_file_and_the_option_that_it_was_written_in(tmp_path: Path) -> None:
    registry = discover()
    found = faults(loaded(tmp_path, WRONG), registry)
    main = str(tmp_path / MAIN)
    assert [fault.partition("'")[0].removeprefix(f"{main}: ") for fault in found if fault.startswith(main)] == [
        "[glance_store] default_store: unknown driver ",
        "[DEFAULT] transport_url: transport_url must look like rabbit://user:password@host:port/vhost",
        "[oslo_messaging_rabbit] heartbeat_timeout_threshold: Input should be a valid integer, "
        "unable to parse string as an integer",
        "[entrepot] sinks: unknown sink ",
        "[entrepot] auth: unknown backend ",
    ]
    assert [fault for fault in found if not fault.startswith(main)] == ["[sink_webhook] url: Field required"]


def test_what_an_extension_lacks_is_told_of_the_option_that_asks_for_it(tmp_path: Path) -> None:
    found = discover()
    registry = replace(
        found,
        sinks={name: replace(sink, unavailable="it is not installed") for name, sink in found.sinks.items()},
        auth={name: replace(backend, unavailable="it is not installed") for name, backend in found.auth.items()},
        stores={name: replace(driver, unavailable="it is not installed") for name, driver in found.stores.items()},
    )
    text = "[oslo_messaging_notifications]\ndriver = messagingv2\n[paste_deploy]\nflavor = keystone\n"
    told = faults(
        loaded(tmp_path, f"{text}[DEFAULT]\nenabled_backends = a:s3\n[glance_store]\ndefault_backend=a\n"), registry
    )
    assert (
        f"{tmp_path / MAIN}: [oslo_messaging_notifications] driver: 'amqp' cannot be used: it is not installed" in told
    )
    assert f"{tmp_path / MAIN}: [paste_deploy] flavor: 'keystone' cannot be used: it is not installed" in told
    reason = "the driver s3 of store a cannot be used: it is not installed"
    assert f"{tmp_path / MAIN}: [DEFAULT] enabled_backends: {reason}" in told


def test_a_driver_of_notifications_that_nobody_knows_is_doubtful(tmp_path: Path) -> None:
    section = "[oslo_messaging_notifications]\ndriver = mesagingv2\ndriver = noop\n"
    told = doubts(loaded(tmp_path, section), discover())
    assert [doubt for doubt in told if "driver" in doubt] == [
        "[oslo_messaging_notifications] driver: 'mesagingv2' is none of log, messaging, messagingv2, noop, routing, "
        "test, and sends nothing"
    ]


# --- files that are none -----------------------------------------------------------------------


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert not loaded(tmp_path, "\ufeff[DEFAULT]\r\nenable_image_import = no\r\n").default.enable_image_import


def test_a_nul_refuses_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path / MAIN} is no configuration file: it holds a NUL"):
        loaded(tmp_path, "[DEFAULT]\nnode_staging_uri = file:///a\0b\n")


def test_a_directory_that_is_named_and_holds_no_files_is_no_wish_for_defaults(tmp_path: Path) -> None:
    environment = {"OS_GLANCE_CONFIG_DIR": str(tmp_path / "etc"), "HOME": "/nowhere"}
    with pytest.raises(
        ConfigError, match=rf"OS_GLANCE_CONFIG_DIR is {tmp_path}/etc, where there is no glance-api\.conf"
    ):
        load(registry=Registry(), environment=environment)


# --- numbers that nothing can be made of -------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "option"),
    [
        ("DEFAULT", "scrub_time = 9999999999999"),
        ("DEFAULT", "api_limit_max = 99999999999999999999"),
        ("DEFAULT", "user_storage_quota = 99999999999 TB"),
        ("DEFAULT", "image_size_cap = 99999999999999999999"),
        ("import_worker", "lease_seconds = inf"),
        ("import_worker", "store_stall_timeout = nan"),
        ("entrepot", "body_timeout = inf"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(tmp_path: Path, section: str, option: str) -> None:
    """They would fail requests later."""
    with pytest.raises(ConfigError, match=rf"\[{section}\] {option.split()[0]}: "):
        loaded(tmp_path, f"[{section}]\n{option}\n")


def test_sizes_are_exact(tmp_path: Path) -> None:
    text = "[DEFAULT]\nuser_storage_quota = 9007199254740993\nimage_size_cap = 9223372036854775808\n"
    assert loaded(tmp_path, text).default.user_storage_quota == 9007199254740993
