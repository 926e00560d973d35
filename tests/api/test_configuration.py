"""Operators' files: what is understood, what refuses the start, what is warned of (import.md 18; IM100, IM101)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from handlers.policy import Policy
from kernel.errors import ConfigError
from kernel.registry import discover
from ops import reference
from ops.commands.faults import faults
from ops.config import IMPORT, MAIN, load, unused
from ops.server import Options, serving
from tests.support.formats import RAW1K
from tests.support.operators import glance_api_conf, glance_image_import_conf
from tests.support.plugging import imported
from tests.support.postgres import Server
from tests.support.running import several, single, site
from tests.support.standing import four_stores, one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

# --- IM100: how lists are written ----------------------------------------------------------

FORMS = {
    "bare": ", ".join,
    "tight": ",".join,
    "brackets": lambda items: f"[{', '.join(items)}]",
    "single quotes": lambda items: "[" + ",".join(f"'{item}'" for item in items) + "]",
    "double quotes": lambda items: "[" + ", ".join(f'"{item}"' for item in items) + "]",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.requirement("REQ-021", "REQ-035", "REQ-037", "REQ-087")
async def test_IM100_lists_in_every_form(postgres: Server, form: str) -> None:
    write: Any = FORMS[form]
    config = one_store(
        DEFAULT=f"enabled_import_methods = {write(['web-download', 'glance-direct'])}",
        image_import_opts=f"image_import_plugins = {write(['inject_image_metadata', 'no_op'])}",
        import_filtering_opts=f"allowed_hosts = {write(['mirror.example', '10.0.0.1'])}",
        inject_metadata_properties=f"ignore_user_roles = {write(['admin', 'Ops'])}",
        image_format=f"disk_formats = {write(['raw', 'qcow2'])}",
    )
    async with passing(postgres, config) as running:
        found = running.service.site
        assert list(found.methods) == ["web-download", "glance-direct"]
        assert list(found.steps) == ["inject_image_metadata", "no_op"]
        assert found.configs["method:web-download"].allowed_hosts == ("mirror.example", "10.0.0.1")  # type: ignore[attr-defined]
        assert found.configs["step:inject_image_metadata"].ignore_user_roles == ("admin", "Ops")  # type: ignore[attr-defined]
        assert found.settings.image_format.disk_formats == ("raw", "qcow2")


@pytest.mark.parametrize("text", ["", "[]", "[ ]"])
async def test_IM100_lists_that_are_empty(postgres: Server, text: str) -> None:
    filters = f"allowed_ports = {text}"
    config = one_store(DEFAULT=f"enabled_import_methods = {text}", import_filtering_opts=filters)
    async with passing(postgres, config) as running:
        assert running.service.site.methods == {}
        response = await running.call("GET", "/info/import")
        assert (await response.json())["import-methods"]["value"] == []


# --- IM101: what refuses the start -------------------------------------------------------------


multi = four_stores
INJECT = "image_import_plugins = inject_image_metadata"


WRONG: dict[str, tuple[Any, str]] = {
    "a reserved name": (
        lambda d: several(d).replace("fast:file,", "fast:file, os_glance_x:file,"),
        r"\[DEFAULT\] enabled_backends: 'os_glance_x' is reserved",
    ),
    "an unknown driver": (
        lambda d: several(d).replace("cheap:file", "cheap:tape"),
        r"\[DEFAULT\] enabled_backends: unknown driver 'tape' of store cheap",
    ),
    "an unknown default": (
        lambda d: several(d).replace("default_backend = fast", "default_backend = slow"),
        r"\[glance_store\] default_backend: 'slow' is not one of enabled_backends",
    ),
    "no default": (
        lambda d: several(d).replace("default_backend = fast", ""),
        r"\[glance_store\] default_backend: must be set",
    ),
    "a read-only default": (
        lambda d: several(d).replace("default_backend = fast", "default_backend = web"),
        r"\[glance_store\] default_backend: 'web' is read-only",
    ),
    "port 0": (
        multi(import_filtering_opts="allowed_ports = [0]"),
        r"\[import_filtering_opts\] allowed_ports.*: 0 is no",
    ),
    "a port that is a word": (
        multi(import_filtering_opts="disallowed_ports = [http]"),
        r"\[import_filtering_opts\] disallowed_ports.*'http' is no port",
    ),
    "a network for a host": (
        multi(import_filtering_opts="allowed_hosts = [10.0.0.0/8]"),
        r"\[import_filtering_opts\] allowed_hosts.*neither a host name nor an address",
    ),
    "a host with a star": (
        multi(import_filtering_opts="disallowed_hosts = [*.example]"),
        r"\[import_filtering_opts\] disallowed_hosts.*neither a host name nor an address",
    ),
    "no network": (
        multi(import_filtering_opts="disallowed_networks = everything"),
        r"\[import_filtering_opts\] disallowed_networks",
    ),
    "a key that comes twice": (
        multi(
            image_import_opts="image_import_plugins = inject_image_metadata",
            inject_metadata_properties="inject = a:1,a:2",
        ),
        r"\[inject_metadata_properties\] inject: the key 'a' appears twice",
    ),
    "no pair": (
        multi(
            image_import_opts="image_import_plugins = inject_image_metadata", inject_metadata_properties="inject = a"
        ),
        r"\[inject_metadata_properties\] inject: 'a' is no key:value pair",
    ),
    "an open quote": (multi(DEFAULT="disabled_notifications = 'a"), r"\[DEFAULT\] disabled_notifications: a quote"),
    "an open bracket": (multi(DEFAULT="disabled_notifications = [a"), r"\[DEFAULT\] disabled_notifications: a bracket"),
    "another executor": (multi(task="task_executor = eventlet"), r"\[task\] task_executor"),
    "an unknown method": (
        multi(DEFAULT="enabled_import_methods = [nope]"),
        r"\[DEFAULT\] enabled_import_methods: unknown method 'nope'",
    ),
    "a target nobody converts to": (
        multi(image_import_opts="image_import_plugins = image_conversion", image_conversion="output_format = vhd"),
        r"\[image_conversion\] output_format",
    ),
    "no boolean": (multi(DEFAULT="enable_image_import = perhaps"), r"\[DEFAULT\] enable_image_import: 'perhaps' is no"),
    "no size": (
        multi(DEFAULT="user_storage_quota = 5 barrels"),
        r"\[DEFAULT\] user_storage_quota: '5 barrels' is no",
    ),
    "no number": (multi(image_import_opts="max_parallel_stores = 0"), r"\[image_import_opts\] max_parallel_stores"),
    "no hash": (multi(DEFAULT="hashing_algorithm = rot13"), r"\[DEFAULT\] hashing_algorithm: 'rot13'"),
    "no driver of staging": (
        lambda d: several(d).replace("node_staging_uri = file:", "node_staging_uri = tape:"),
        r"\[DEFAULT\] node_staging_uri: no driver for 'tape:",
    ),
    "a profile nobody knows": (multi(DEFAULT="api_version_profile = grizzly"), r"\[DEFAULT\] api_version_profile"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unused_database(postgres: Server) -> AsyncIterator[str]:
    """For services that never start."""
    found = await postgres.fresh()
    yield found
    await postgres.drop(found)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.requirement("REQ-007")
async def test_IM101_wrong_options_refuse_the_start(unused_database: str, directory: Path, name: str) -> None:
    """With the file, the section, the option and the reason."""
    config, words = WRONG[name]
    with pytest.raises(ConfigError, match=words) as caught:
        async with site(unused_database, directory, config(directory)):
            pass
    if name != "no default":
        assert f"{directory}/glance-api.conf: [" in str(caught.value)


@pytest.mark.requirement("REQ-009")
async def test_IM101_staging_that_cannot_be_written_refuses_the_start(unused_database: str, directory: Path) -> None:
    (directory / "file").touch()
    config = single(directory).replace(f"file://{directory}/staging", f"file://{directory}/file/staging")
    words = rf"{directory}/glance-api.conf: \[DEFAULT\] node_staging_uri: {directory}/file/staging: "
    with pytest.raises(ConfigError, match=words):
        async with site(unused_database, directory, config):
            pass


async def test_all_faults_are_told_at_once(unused_database: str, directory: Path) -> None:
    config = several(directory, DEFAULT="enabled_import_methods = [nope]", image_import_opts="image_import_plugins = x")
    with pytest.raises(ConfigError) as caught:
        async with site(unused_database, directory, config.replace("default_backend = fast", "default_backend = slow")):
            pass
    for words in ("nope", "unknown plugin 'x'", "slow"):
        assert words in str(caught.value)


# --- 18.7: what is warned of -------------------------------------------------------------------


async def test_what_is_probably_not_meant_is_told(postgres: Server) -> None:
    config = one_store(import_filtering_opts="allowed_hosts = [a.example]\ndisallowed_hosts = [b.example]")
    async with passing(postgres, config) as running:
        warnings = "\n".join(running.service.site.warnings)
        assert "disallowed_hosts is ignored, because allowed_hosts is set" in warnings
        assert "allowed_hosts is empty" not in warnings
    config = one_store(import_filtering_opts="disallowed_ports = [22]")
    with capture_logs() as logs:
        async with passing(postgres, config):
            pass
    told = "\n".join(entry["option"] for entry in logs if entry["event"] == "probably_not_meant")
    assert "disallowed_ports is ignored, because allowed_ports is set" in told
    assert "allowed_hosts is empty: web-download fetches from every host" in told


async def test_an_open_tasks_api_is_told() -> None:
    assert Policy().doubts() == []
    assert "tasks_api_access is open" in Policy({"tasks_api_access": ""}).doubts()[0]


# --- what has no effect --------------------------------------------------------------------------


async def test_a_token_cache_of_its_own_is_named_among_what_has_no_effect(directory: Path) -> None:
    section = "auth_url = http://x\nmemcached_servers = 10.0.0.1:11211\nmemcache_secret_key = x\ntoken_cache_time = 9"
    (directory / MAIN).write_text(single(directory, keystone_authtoken=section))
    registry = discover()
    assert unused(load([directory / MAIN], registry=registry, environment={}), registry) == [
        "[keystone_authtoken] memcached_servers",
        "[keystone_authtoken] memcache_secret_key",
    ]


async def test_origins_of_further_sections_are_checked_like_the_first(directory: Path) -> None:
    sections = {"cors.a": "allowed_origin = http://a\nmax_ages = 1", "cors.b": "max_age = 1"}
    (directory / MAIN).write_text(single(directory, **sections))
    registry = discover()
    settings = load([directory / MAIN], registry=registry, environment={})
    assert unused(settings, registry) == ["[cors.a] max_ages", "[cors.b] max_age"]
    sections = {"cors": "max_age = never", "cors.a": "allowed_origin = http://a\nallow_credentials = perhaps"}
    (directory / MAIN).write_text(single(directory, **sections))
    with pytest.raises(ConfigError) as refused:
        load([directory / MAIN], registry=registry, environment={})
    _, *told = str(refused.value).splitlines()
    assert len(told) == 2, told
    assert "[cors] max_age" in told[0]
    assert "[cors.a] allow_credentials" in told[1]


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-016", "REQ-034")
async def test_the_import_file_beside_the_main_one_is_read_first(dsn: str, directory: Path) -> None:
    (directory / IMPORT).write_text(
        "[image_import_opts]\nimage_import_plugins = ['inject_image_metadata']\nmax_parallel_stores = 2\n"
        '[inject_metadata_properties]\nignore_user_roles = nobody\ninject = "a":"1"\n'
    )
    config = single(directory, image_import_opts="max_parallel_stores = 3")
    async with site(dsn, directory, config) as running:
        options = running.service.settings.image_import_opts
        assert (options.image_import_plugins, options.max_parallel_stores) == (("inject_image_metadata",), 3)
        assert (await imported(running, RAW1K))["a"] == "1"


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "all features"])
@pytest.mark.requirement("REQ-007", "REQ-008")
async def test_an_operators_own_files_start_it_as_they_are(dsn: str, directory: Path, plain: bool) -> None:
    """With whatever else Glance was told in them, which is named once."""
    (directory / IMPORT).write_text(glance_image_import_conf(plain))
    async with site(dsn, directory, glance_api_conf(directory, plain)) as running:
        assert list(running.service.site.backends) == ["store1", "store2", "store3", "web"]
        left_over = unused(running.service.settings, running.service.registry)
        assert "[database] connection" in left_over
        assert not [item for item in left_over if "import" in item or "store" in item.replace("lock_store", "")]
        shown = await imported(running, RAW1K, who="ADM")
        assert (shown["status"], shown["stores"]) == ("active", "store1")


@pytest.mark.requirement("REQ-010")
async def test_nodes_share_the_staging_area(dsn: str, directory: Path) -> None:
    """What one node staged another imports."""
    config = single(directory)
    async with site(dsn, directory, config, role="api") as receiving, site(dsn, directory, config, role="worker"):
        image = await receiving.image()
        assert await receiving.stage(image, RAW1K) == 204
        assert await receiving.do_import(image) == 202
        assert (await receiving.ended(image))["status"] == "active"


RECOMMENDED = '{"get_task": "", "get_tasks": "", "add_task": "", "modify_task": "", "tasks_api_access": "role:admin"}'


@pytest.mark.requirement("REQ-006", "REQ-011", "REQ-012", "REQ-013")
async def test_users_import_without_the_tasks_api(dsn: str, directory: Path) -> None:
    """The rules that the guides recommend, in a file of JSON."""
    (directory / "policy.json").write_text(RECOMMENDED)
    async with site(dsn, directory, single(directory, oslo_policy="policy_file = policy.json")) as running:
        image = (await imported(running, RAW1K))["id"]
        (task,) = await running.tasks(image, "A")
        assert (task["type"], task["status"]) == ("api_image_import", "success")
        assert (await running.call("GET", "/tasks", "A")).status == 403
        assert (await running.call("POST", "/tasks", "A", json={})).status == 403
        assert (await running.call("GET", f"/tasks/{task['id']}", "A")).status == 403
        listed = await (await running.call("GET", "/tasks", "ADM")).json()
        assert [item["id"] for item in listed["tasks"]] == [task["id"]]


async def test_the_directory_may_come_from_the_environment(directory: Path) -> None:
    (directory / MAIN).write_text(single(directory))
    (directory / IMPORT).write_text("[image_import_opts]\nimage_import_plugins = [no_op]\n")
    settings = load(registry=discover(), environment={"OS_GLANCE_CONFIG_DIR": str(directory), "HOME": "/nowhere"})
    assert settings.image_import_opts.image_import_plugins == ("no_op",)


# --- samples and the reference -------------------------------------------------------------------


@pytest.mark.requirement("REQ-008", "REQ-034")
async def test_samples_are_what_is_so_without_them(directory: Path) -> None:
    registry = discover()
    for name in reference.SAMPLES:
        (directory / name).write_text(reference.sample(name, registry))
    bare = load([], registry=registry, state=directory, environment={})
    sampled = load([directory / MAIN], registry=registry, state=directory, environment={})
    assert sampled.model_dump(exclude={"raw", "origin", "config_dirs", "default", "glance_store"}) == bare.model_dump(
        exclude={"raw", "origin", "config_dirs", "default", "glance_store"}
    )
    assert Policy.of(sampled).doubts() == []


@pytest.mark.parametrize("name", [MAIN, IMPORT])
async def test_samples_mean_the_same_without_their_comment_signs(directory: Path, name: str) -> None:
    """Every default that is written down can be read back."""
    registry = discover()
    lines = [line[1:] if line.startswith("#") and line[1:2] not in " [" else line for line in written(name)]
    (directory / name).write_text("\n".join(lines))
    settings = load([directory / name], registry=registry, state=directory, environment={})
    assert settings.image_import_opts.max_parallel_stores == 1
    sections = {"import_filtering_opts", "image_conversion", "image_decompression", "inject_metadata_properties"}
    for extension in registry:
        if getattr(extension, "section", None) in sections:
            assert extension.config.model_validate(settings.section(extension.section)) == extension.config()


def written(name: str) -> list[str]:
    """A sample without what stands for stores and for the required options of others."""
    text = reference.sample(name, discover())
    chapters = text.split("\n\n\n")
    return "\n\n\n".join(chapter for chapter in chapters if "#[NAME]" not in chapter).splitlines()


@pytest.mark.requirement("REQ-115")
async def test_the_reference_is_up_to_date() -> None:
    """`entrepot config reference > ops/docs/CONFIG.md` makes it so."""
    committed = Path(__file__).parents[2] / "ops" / "docs" / "CONFIG.md"
    assert committed.read_text() == reference.markdown(discover())
    text = committed.read_text()
    for plugin in ("no_op", "inject_image_metadata", "image_decompression", "image_conversion"):
        assert f"| `{plugin}` | Glance " in text


async def test_the_reference_explains_every_option() -> None:
    for chapter in reference.chapters(discover()):
        for option in chapter.options:
            assert option.about, (chapter.section, option.name)


async def test_checking_finds_what_starting_finds(directory: Path) -> None:
    (directory / MAIN).write_text(several(directory, image_import_opts="image_import_plugins = nonsense"))
    registry = discover()
    settings = load([directory / MAIN], registry=registry, state=directory, environment={})
    (fault,) = faults_of(settings, registry)
    assert fault.startswith(f"{directory}/{MAIN}: [image_import_opts] image_import_plugins: unknown plugin 'nonsense'")
    assert os.listdir(directory) == [MAIN]


def faults_of(settings: Any, registry: Any) -> list[str]:
    import threading

    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(faults(settings, registry)))  # it runs a loop of its own
    thread.start()
    thread.join()
    return found


async def test_a_service_that_may_not_listen_begins_no_work(dsn: str, directory: Path) -> None:
    (directory / MAIN).write_text(single(directory).replace("auth = headers", "auth = none"))
    registry = discover()
    settings = load([directory / MAIN], registry=registry, state=directory, environment={})
    options = Options(settings=settings, registry=registry, dsn=dsn, host="0.0.0.0", port=0)
    with capture_logs() as logs, pytest.raises(ConfigError, match="may listen on loopback only"):
        async with serving(options, dsn):
            pass
    assert not [entry for entry in logs if entry["event"] == "service_started"]
