"""The fault list: each step of an import × each fault, with the end state that the contract's table 8.4 asks for.

Exceptions, full and hanging stores and hanging sources strike inside a service of this
process; kills strike a real node, which is started again.  Every cell ends with the
same look: image, task, lists, what each store holds, and that nothing is left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson

from kernel import purge, reactor, runner
from kernel.extend import ImportStep, StepRequest, StepResult
from tests.faults.story import OCTETS, Client
from tests.faults.world import World, configuration
from tests.support import identities
from tests.support.disk_images import good
from tests.support.origin import ANSWERS, Answer, Origin, origin, silent, slow, whole
from tests.support.plugging import install_example
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import four_stores, standing
from tests.support.trouble import EXTENSION as TROUBLE
from tests.support.trouble import Kind, TroubleStore, place

DATA: Final = bytes(range(256)) * 1024
STORES: Final = ("fast", "cheap", "reliable")
FAULTS: Final = ("exception", "kill", "store full", "store hanging", "source hanging")


# --- end states --------------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """A row of table 8.4, as far as it differs from the others."""

    row: str
    status: str
    task: str
    failed: str
    """Who is blamed: all, one, or none."""
    keeps: str
    """Which copies there are: none, good ones, what was before, or all."""


ENDS: Final = {
    end.row: end
    for end in (
        End("A", "queued", "failure", "all", "none"),
        End("M", "queued", "failure", "all", "none"),
        End("P", "queued", "failure", "all", "none"),
        End("I", "queued", "failure", "all", "none"),
        End("S", "queued", "failure", "one", "none"),
        End("F", "active", "success", "one", "good"),
        End("CA", "active", "failure", "all", "before"),
        End("CS", "active", "failure", "one", "before"),
        End("done", "active", "success", "none", "all"),
    )
}


@dataclass(frozen=True)
class Case:
    """How one cell is made to happen, and how it must end."""

    row: str
    method: str = "glance-direct"
    plan: tuple[tuple[str, str, Kind], ...] = ()
    """Store, call, what happens there."""
    stores: tuple[str, ...] = ("fast", "cheap")
    must_succeed: bool = True
    blamed: str = ""
    plugin: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    """What the origin says instead, by the end of the path."""
    copying: bool = True
    """Whether file stores copy bytes rather than linking the staged file."""
    patch: str = ""
    """A function of the runner that raises."""
    mark: str = ""
    """Where the node is killed."""


Cell = tuple[str, str]
"""Step, fault."""


def _around(step: str, method: str, row: str, **more: Any) -> dict[Cell, Case | str]:
    """A step that fetches into staging."""
    stuck = {"/file": slow} if method == "glance-download" else {"/x": slow}
    return {
        (step, "exception"): Case(row, method, (("staging", "put", "exception"),), **more),
        (step, "kill"): Case("done", method, mark="fetched", **more),
        (step, "store full"): Case(row, method, (("staging", "put", "full"),), **more),
        (step, "store hanging"): Case(row, method, (("staging", "put", "hang"),), **more),
        (step, "source hanging"): Case(row, method, answers=stuck, **more),
    }


def _plugin(name: str, **more: Any) -> dict[Cell, Case | str]:
    step = f"plugin {name}"
    return {
        (step, "exception"): Case("P", plan=(("staging", "seal", "exception"),), plugin=name, **more),
        (step, "kill"): Case("done", plugin=name, mark="step done", **more),
        (step, "store full"): Case("P", plan=(("staging", "seal", "full"),), plugin=name, **more),
        (step, "store hanging"): Case("P", plan=(("staging", "seal", "hang"),), plugin=name, **more),
        (step, "source hanging"): Case("P", plan=(("staging", "read", "hang"),), plugin=name, **more),
    }


def _store(step: str, store: str, mark: str, **more: Any) -> dict[Cell, Case | str]:
    row = "S" if more.get("must_succeed", True) else "F"
    cells: dict[Cell, Case | str] = {
        (step, fault): Case(row, plan=((store, "put", kind),), blamed=store, **more)
        for fault, kind in (("exception", "exception"), ("store full", "full"), ("store hanging", "hang"))
    }
    return {**cells, (step, "kill"): Case("done", mark=mark, **more)}


NOTHING_WRITTEN: Final = "it writes nothing"
NOTHING_READ: Final = "it reads nothing"
THE_SAME: Final = "its source is the staging area: as 'store hanging'"
BLOCKED: Final = (("cheap", "put", "exception"),)

CELLS: Final[dict[Cell, Case | str]] = {
    ("acquire glance-direct", "exception"): Case("A", plan=(("staging", "identify", "exception"),)),
    ("acquire glance-direct", "kill"): Case("done", mark="after ImportRequested"),
    ("acquire glance-direct", "store full"): NOTHING_WRITTEN,
    ("acquire glance-direct", "store hanging"): Case("A", plan=(("staging", "identify", "hang"),)),
    ("acquire glance-direct", "source hanging"): THE_SAME,
    **_around("acquire web-download", "web-download", "A"),
    ("describe glance-download", "exception"): Case("M", "glance-download", answers={"": whole(b"<html>")}),
    ("describe glance-download", "kill"): Case("done", "glance-download", mark="before MetadataCopied"),
    ("describe glance-download", "store full"): NOTHING_WRITTEN,
    ("describe glance-download", "store hanging"): NOTHING_WRITTEN,
    ("describe glance-download", "source hanging"): Case("M", "glance-download", answers={"": silent}),
    **_around("acquire glance-download", "glance-download", "A"),
    ("acquire copy-image", "exception"): Case(
        "CA", "copy-image", (("fast", "size", "exception"),), ("cheap", "reliable")
    ),
    ("acquire copy-image", "kill"): Case("done", "copy-image", stores=("cheap", "reliable"), mark="storing begins"),
    ("acquire copy-image", "store full"): Case(
        "CS", "copy-image", (("cheap", "put", "full"),), ("cheap", "reliable"), blamed="cheap"
    ),
    ("acquire copy-image", "store hanging"): Case(
        "CS", "copy-image", (("reliable", "put", "hang"),), ("cheap", "reliable"), blamed="reliable"
    ),
    ("acquire copy-image", "source hanging"): Case(
        "CA", "copy-image", (("fast", "read", "hang"),), ("cheap", "reliable")
    ),
    **_plugin("own"),
    **_plugin("image_decompression"),
    **_plugin("image_conversion", attributes={"disk_format": "qcow2"}),
    **_plugin("shout"),
    ("inspect", "exception"): Case("I", patch="judge"),
    ("inspect", "kill"): Case("done", mark="before DataInspected"),
    ("inspect", "store full"): NOTHING_WRITTEN,
    ("inspect", "store hanging"): NOTHING_WRITTEN,
    ("inspect", "source hanging"): "what it judges was seen while the bytes came in",
    **_store("store 1", "fast", "stored"),
    ("store 1", "source hanging"): Case("A", plan=(("staging", "read", "hang"),)),  # no store is to blame
    **_store("store 2", "cheap", "after StoreSucceeded"),
    ("store 2", "source hanging"): "as for store 1: both read the same file",
    **_store("store 1, one is enough", "fast", "stored", must_succeed=False),
    ("store 1, one is enough", "source hanging"): "as for store 1",
    **_store("store 2, one is enough", "cheap", "after StoreSucceeded", must_succeed=False),
    ("store 2, one is enough", "source hanging"): "as for store 1",
    ("clear", "exception"): Case("done", plan=(("staging", "delete", "exception"),)),
    ("clear", "kill"): Case("done", mark="before ImportCompleted"),
    ("clear", "store full"): NOTHING_WRITTEN,
    ("clear", "store hanging"): Case("done", plan=(("staging", "delete", "hang"),)),
    ("clear", "source hanging"): NOTHING_READ,
    ("undo", "exception"): Case("S", plan=(*BLOCKED, ("fast", "delete", "exception")), blamed="cheap"),
    ("undo", "kill"): Case("S", stores=("fast", "web"), blamed="web", mark="deleted"),
    ("undo", "store full"): NOTHING_WRITTEN,
    ("undo", "store hanging"): Case("S", plan=(*BLOCKED, ("fast", "delete", "hang")), blamed="cheap"),
    ("undo", "source hanging"): NOTHING_READ,
}
"""Every step with every fault; a text says why there is nothing to strike."""

STEPS: Final = tuple(dict.fromkeys(step for step, _ in CELLS))


# --- images ------------------------------------------------------------------------------


def sent(case: Case) -> bytes:
    """What is staged, or served, for a case."""
    if case.plugin == "image_decompression":
        return gzip.compress(DATA)
    if case.plugin == "image_conversion":
        with tempfile.TemporaryDirectory() as directory:
            return good("qcow2", Path(directory), DATA)
    return DATA


def stored(case: Case) -> bytes:
    """What the stores hold if all goes well."""
    return {"own": DATA[::-1], "shout": DATA.upper()}.get(case.plugin, DATA)


def method_of(case: Case, source: Origin) -> dict[str, Any]:
    """The method of the request, its source ready to answer as the case has it."""
    name = str(uuid4())
    document = {"id": name, "status": "active", "disk_format": "raw", "container_format": "bare", "size": len(DATA)}
    described = {**document, "os_distro": "theirs"}
    paths = {"": f"/v2/images/{name}", "/file": f"/v2/images/{name}/file", "/x": f"/{name}"}
    source.answers[paths[""]] = whole(orjson.dumps(described))
    source.answers[paths["/file"]] = source.answers[paths["/x"]] = whole(DATA, 'ETag: "v1"')
    for end, answer in case.answers.items():
        source.answers[paths[end]] = answer
    match case.method:
        case "web-download":
            return {"name": "web-download", "uri": source.url(paths["/x"])}
        case "glance-download":
            return {"name": "glance-download", "glance_image_id": name, "glance_region": "R1"}
        case other:
            return {"name": other}


def headers_of(source: Origin) -> dict[str, str]:
    endpoint = {"interface": "public", "region": "R1", "url": source.url("")}
    catalog = orjson.dumps([{"type": "image", "endpoints": [endpoint]}]).decode()
    return {**identities.headers("ADM"), "X-Service-Catalog": catalog}


def attributes_of(case: Case) -> dict[str, str]:
    """glance-download overwrites the formats, and has to put these back."""
    formats = {"disk_format": "iso", "container_format": "ovf"} if case.method == "glance-download" else {}
    return {"name": "n", "disk_format": "raw", "container_format": "bare", **formats, **case.attributes}


def judged(case: Case, shown: dict[str, Any], task: dict[str, Any], copies: dict[str, list[bytes]]) -> str:
    """Hold the end to its row; returns it in words."""
    end = ENDS[case.row]
    asked = sorted(case.stores)
    failed = {"all": asked, "one": [case.blamed], "none": []}[end.failed]
    before = ["fast"] if case.method == "copy-image" else []
    keeps = {
        "none": [],
        "before": before,
        "good": [store for store in asked if store not in failed],
        "all": sorted({*asked, *before}),
    }[end.keeps]
    assert (shown["status"], task["status"]) == (end.status, end.task), (shown["status"], task)
    assert bool(task["message"]) is (end.task == "failure"), task["message"]
    assert shown["os_glance_failed_import"] == ",".join(failed)
    assert shown["os_glance_importing_to_stores"] == ""
    assert "os_glance_import_task" not in shown
    assert shown.get("stores", "") == ",".join(keeps)
    assert copies == {name: [stored(case)] if name in keeps else [] for name in ("staging", *STORES)}
    if end.status == "queued":
        for name in ("size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"):
            assert shown[name] is None, name
        assert {name: shown[name] for name in attributes_of(case)} == attributes_of(case)
        assert "os_distro" not in shown
        assert not shown.keys() & {"shouted", "voice"}
    return f"{case.row}: {end.status}, task {end.task}, failed [{','.join(failed)}], copies in [{','.join(keeps)}]"


# --- exceptions, full stores, things that hang -------------------------------------------


async def _backwards(request: StepRequest) -> StepResult:
    output = await request.output()
    await asyncio.to_thread(lambda: output.write_bytes(request.path.read_bytes()[::-1]))
    return StepResult(replaced=True, properties={"shouted": "yes"})


OWN: Final = ImportStep(name="own", run=_backwards)
"""A plugin of ours that makes new bytes in this process."""


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Clean-up that gives up, and tries again, soon."""
    kept = purge._PATIENCE, reactor._BACK_OFF
    purge._PATIENCE, reactor._BACK_OFF = 0.5, 0.3  # type: ignore[misc]
    try:
        yield
    finally:
        purge._PATIENCE, reactor._BACK_OFF = kept  # type: ignore[misc]


@contextlib.contextmanager
def visiting(plugin: str) -> Iterator[None]:
    """The Taskflow plugin of the example package, installed for as long as it is wanted."""
    if plugin != "shout":
        yield
        return
    with tempfile.TemporaryDirectory() as target:
        install_example(Path(target))
        sys.path.append(target)
        importlib.invalidate_caches()
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (target, before)))  # nodes are to find it too
        try:
            yield
        finally:
            sys.path.remove(target)
            importlib.invalidate_caches()
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before


@contextlib.asynccontextmanager
async def service(postgres: Server, plugin: str) -> AsyncIterator[Site]:
    """M4 of stores that do what they are told, with one plugin or none."""
    made = four_stores(
        DEFAULT="enabled_import_methods = [glance-direct, web-download, glance-download, copy-image]",
        import_filtering_opts="allowed_ports = []\ndisallowed_networks = []\nstall_timeout = 1\nconnect_timeout = 1",
        import_worker="store_stall_timeout = 0.6",
        image_import_opts=f"image_import_plugins = [{plugin}]",
    )

    def config(directory: Path) -> str:
        return made(directory).replace(":file", ":trouble").replace("file://", "trouble://")

    with impatient():
        async with standing(postgres, config, also=(TROUBLE, OWN)) as running:
            yield running


async def struck(site: Site, source: Origin, case: Case) -> str:
    """Have one case happen in a running service; returns its end."""
    people, data = headers_of(source), await asyncio.to_thread(sent, case)
    created = await site.call("POST", "/images", people, json=attributes_of(case))
    image = str((await created.json())["id"])
    if case.method in ("glance-direct", "copy-image"):
        assert (
            await site.call("PUT", f"/images/{image}/stage", people, data=io.BytesIO(data), headers=OCTETS)
        ).status == 204
    if case.method == "copy-image":
        await _import(site, image, people, {"method": {"name": "glance-direct"}, "stores": ["fast"]})
    with trouble(site, case):
        body = {"method": method_of(case, source), "stores": list(case.stores)}
        shown = await _import(site, image, people, {**body, "all_stores_must_succeed": case.must_succeed})
        task = (await site.tasks(image))[-1]
    await site.settled(30)
    copies = {place: _held(site, place, image) for place in ("staging", *STORES)}
    assert await site.service.database.fetchval("SELECT count(*) FROM secrets") == 0
    return judged(case, shown, task, copies)


async def _import(site: Site, image: str, people: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    response = await site.call("POST", f"/images/{image}/import", people, json=body)
    assert response.status == 202, await response.text()
    return await site.ended(image, 30)


def _held(site: Site, store: str, image: str) -> list[bytes]:
    return [path.read_bytes() for path in site.files(store) if path.name.startswith(image)]


@contextlib.contextmanager
def trouble(site: Site, case: Case) -> Iterator[None]:
    """The fault of a case, for as long as its import takes; it must have struck."""
    stores: dict[str, TroubleStore] = {}
    for name in ("staging", *STORES):
        stores[name] = place(site.service.site.deployment, "os_glance_staging_store" if name == "staging" else name)
        stores[name].adopts = not case.plan
    for name, call, kind in case.plan:
        stores[name].plan[call] = kind
        stores[name].struck.clear()
    kept = runner.judge
    if case.patch:
        setattr(runner, case.patch, _raise)
    try:
        yield
        for name, call, _ in case.plan:
            assert call in stores[name].struck, f"{call} of {name} was never struck"
    finally:
        runner.judge = kept
        for store in stores.values():
            store.plan.clear()


def _raise(*_: object) -> Any:
    raise RuntimeError("this function has a fault")


# --- kills -------------------------------------------------------------------------------


class Person(Client):
    """A client with an identity."""

    def __init__(self, urls: list[str], identity: dict[str, str]) -> None:
        super().__init__(urls, seconds=60)
        self._identity = identity

    async def once(
        self, method: str, path: str, data: Any = None, headers: dict[str, str] | None = None, node: int | None = None
    ) -> tuple[int, bytes]:
        return await super().once(method, path, data, {**self._identity, **(headers or {})}, node)


def mortal(directory: Path, dsn: str, plugin: str) -> World:
    """One node that is killed where a case wants it."""
    path = configuration(directory)
    text = path.read_text().replace("sinks = log", "sinks = log\nauth = headers")
    text = text.replace(
        "[DEFAULT]", "[DEFAULT]\nenabled_import_methods = [glance-direct, web-download, glance-download, copy-image]"
    )
    path.write_text(text.replace("image_import_plugins = [image_decompression]", f"image_import_plugins = [{plugin}]"))
    return World(directory, dsn, nodes=1, config=path)


async def killed(world: World, client: Client, source: Origin, case: Case) -> str:
    """Have a node die in the middle of a case, and start again; returns the end of the import."""
    image, node = str(uuid4()), world.nodes[0]
    data = await asyncio.to_thread(sent, case)
    await _ask(client, "POST", "/v2/images", {"id": image, **attributes_of(case)}, 201)
    if case.method in ("glance-direct", "copy-image"):
        status, _ = await client.once("PUT", f"/v2/images/{image}/stage", data, OCTETS)
        assert status == 204
    if case.method == "copy-image":
        await _ask(client, "POST", f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}, 202)
        await _final(client, image)
    world.arm(f"kill {case.mark}")
    body = {"method": method_of(case, source), "stores": list(case.stores)}
    await client.once(
        "POST", f"/v2/images/{image}/import", orjson.dumps({**body, "all_stores_must_succeed": case.must_succeed})
    )
    async with asyncio.timeout(30):
        while not world.struck:
            await asyncio.sleep(0.01)
    node.kill()
    node.start()
    await node.ready()
    task = await _final(client, image)
    await world.settle()
    shown = await client.image(image)
    assert shown is not None
    files = {
        name: [p for p in (world.directory / name).rglob("*") if p.name.startswith(image)]
        for name in ("staging", *STORES)
    }
    return judged(case, shown, task, {name: [path.read_bytes() for path in paths] for name, paths in files.items()})


async def _ask(client: Client, method: str, path: str, body: dict[str, Any], expected: int) -> None:
    status, answer = await client.once(method, path, orjson.dumps(body))
    assert status == expected, answer


async def _final(client: Client, image: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            status, body = await client.once("GET", f"/v2/images/{image}/tasks")
            tasks = orjson.loads(body)["tasks"] if status == 200 else []
            if tasks and tasks[-1]["status"] in ("success", "failure"):
                last: dict[str, Any] = tasks[-1]
                return last
            await asyncio.sleep(0.05)


# --- the list ----------------------------------------------------------------------------


async def run(postgres: Server, cells: Iterable[Cell]) -> dict[Cell, str]:
    """Have the cells happen; their ends, or what went wrong with them, by cell."""
    chosen = list(cells)
    found: dict[Cell, str] = {cell: f"- ({case})" for cell in chosen if isinstance(case := CELLS[cell], str)}
    cases = [(cell, case) for cell in chosen if isinstance(case := CELLS[cell], Case)]
    async with origin() as source:
        for plugin in dict.fromkeys(case.plugin for _, case in cases):
            mine = [(cell, case) for cell, case in cases if case.plugin == plugin]
            alive = [(cell, case) for cell, case in mine if not case.mark]
            with visiting(plugin):
                if alive:
                    async with service(postgres, plugin) as site:
                        for cell, case in alive:
                            found[cell] = await _told(struck(site, source, case))
                found |= await _killed(postgres, source, plugin, [(cell, case) for cell, case in mine if case.mark])
    source.answers.clear()
    source.answers.update(ANSWERS)
    return {cell: found[cell] for cell in chosen}


async def _killed(postgres: Server, source: Origin, plugin: str, cases: Sequence[tuple[Cell, Case]]) -> dict[Cell, str]:
    if plugin == "own":  # a plugin of the tests' own is not there in a node: the one for archives stands in for it
        return {cell: "- (as for image_decompression)" for cell, _ in cases}
    if not cases:
        return {}
    found: dict[Cell, str] = {}
    directory, dsn = Path(tempfile.mkdtemp(prefix="entrepot-faultlist-")), await postgres.fresh()
    world = mortal(directory, dsn, plugin)
    async with world.running(), Person(world.urls, headers_of(source)) as client:
        for cell, case in cases:
            found[cell] = await _told(killed(world, client, source, case))
            world.disarm()
        await world.verify()
    shutil.rmtree(directory)
    await postgres.drop(dsn)
    return found


async def _told(case: Any) -> str:
    try:
        return f"{await case}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {str(error)[:300]}"


def wrong(found: dict[Cell, str]) -> dict[Cell, str]:
    """What did not end as it must."""
    return {cell: end for cell, end in found.items() if end.startswith("WRONG")}
