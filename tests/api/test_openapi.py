"""The OpenAPI document: it is made of the routes, and what it says is what happens."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from openapi_spec_validator import validate

from handlers.app import API, OPS
from tests.support import identities
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import one_store, passing

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE = 100
ROOT = Path(__file__).parents[2]


async def described(site: Site) -> dict[str, Any]:
    answer = await site.call("GET", "//ops/v1/openapi.json", "ADM")
    assert answer.status == 200
    document: dict[str, Any] = await answer.json()
    return document


async def test_the_document_is_valid_and_complete(four: Site) -> None:
    document = await described(four)
    validate(document)
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (route.method, f"{prefix}{route.path}")
        for prefix, routes in (("/v2", API), ("/ops/v1", OPS))
        for route in routes
        if route.success
    }
    assert told == routed
    creating = document["paths"]["/v2/images"]["post"]
    assert creating["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ImageRequest")
    assert set(creating["responses"]) >= {"201", "400", "401", "403", "409", "413"}


async def test_resources_that_are_switched_off_are_not_described(postgres: Server, one: Site) -> None:
    assert "/v2/image-imports" in (await described(one))["paths"]
    async with passing(postgres, one_store(image_imports="enabled = False")) as without:
        assert "/v2/image-imports" not in (await described(without))["paths"]


async def test_anonymous_callers_are_told_nothing(four: Site) -> None:
    assert (await four.call("GET", "//ops/v1/openapi.json", None)).status == 401


async def furnished(site: Site) -> dict[str, Any]:
    """The document with names of things that exist, so that requests get further than a 404."""
    document = await described(site)
    del document["paths"]["/ops/v1/events"]  # an answer without an end
    named = await site.image("A", name="fuzzed", protected=True, tags=["t"])
    active = await site.image("A", protected=True)
    assert await site.upload(active, b"x" * 100) == 204
    staged = await site.image("A", protected=True)
    assert await site.stage(staged, b"x") == 204
    await site.call("POST", f"/images/{named}/members", json={"member": "pB"})
    imported = await site.image("A")
    assert await site.stage(imported, b"x") == 204
    assert await site.do_import(imported) == 202
    await site.ended(imported)
    task = (await site.tasks(imported))[0]["id"]
    there = {
        "image_id": [named, active, staged, imported],
        "member": ["pB", "pC"],
        "task_id": [task],
        "tag": ["t", "a b"],
        "store": ["fast", "cheap", "none"],
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path" and parameter["name"] in there:
                    parameter["schema"] = {"type": "string", "enum": there[parameter["name"]]}
    return document


@pytest.mark.slow
async def test_no_request_gets_an_answer_that_is_not_described(four: Site) -> None:
    """Every operation, with bodies that fit and bodies that do not: nothing crashes, nothing surprises."""
    path = four.directory / "openapi.json"
    path.write_bytes(orjson.dumps(await furnished(four)))
    who = {**identities.headers("ADM"), "X-Project-Id": "pA"}
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(path), "--url", str(four.client.make_url("/"))),
        *("--seed", "7", "--max-examples", "8", "--phases", "coverage,fuzzing", "--mode", "all", "--checks", checks),
        *("--continue-on-failure", "--suppress-health-check", "all", "--generation-database", "none", "--no-color"),
        *(word for name, value in who.items() for word in ("--header", f"{name}: {value}")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=four.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.fuzzing"},
    )
    try:
        async with asyncio.timeout(DEADLINE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
