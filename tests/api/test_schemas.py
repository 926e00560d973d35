"""Schemas, what operators add to them, and the empty catalogue of metadata definitions (images.md 3.3, 14, 19)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from tests.support.postgres import Server
from tests.support.running import Site, single
from tests.support.standing import Config, one_store, passing, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def get(site: Site, path: str) -> Any:
    answer = await site.call("GET", path)
    assert answer.status == 200
    return await answer.json()


async def create(site: Site, document: Any) -> tuple[int, Any]:
    answer = await site.call("POST", "/images", json=document)
    return answer.status, await answer.json()


def _with_file(document: Any) -> Config:
    """A site whose operator has a `schema-image.json`."""

    def config(directory: Path) -> str:
        (directory / "schema-image.json").write_bytes(orjson.dumps(document))
        return single(directory, import_worker="fsync = off")

    return config


async def test_X15_the_image_schema(one: Site) -> None:
    """Every image that the tests of this API are shown is held to it as well (`Site.call`)."""
    schema = await get(one, "/schemas/image")
    Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert schema["name"] == "image"
    assert schema["additionalProperties"] == {"type": "string"}
    assert "required" not in schema
    properties = schema["properties"]
    assert {None, "qcow2", "raw"} <= set(properties["disk_format"]["enum"])
    assert {None, "bare"} <= set(properties["container_format"]["enum"])
    assert properties["status"]["enum"] == [
        *("queued", "saving", "active", "killed", "deleted", "uploading", "importing", "pending_delete", "deactivated")
    ]
    assert all(item["description"] for item in properties.values())
    read_only = {name for name, item in properties.items() if item.get("readOnly")}
    assert read_only == {
        *("status", "checksum", "os_hash_algo", "os_hash_value", "size", "virtual_size", "created_at", "updated_at"),
        *("direct_url", "self", "file", "stores", "schema"),
    }
    assert [link["rel"] for link in schema["links"]] == ["self", "enclosure", "describedby"]
    location = properties["locations"]["items"]
    assert location["required"] == ["url", "metadata"]
    assert location["properties"]["validation_data"]["writeOnly"] is True


async def test_X15_clients_tell_properties_from_attributes(one: Site) -> None:
    """What is in the schema without `is_base: false` is an attribute: no names beside those of the API."""
    schema = await get(one, "/schemas/image")
    base = {name for name, item in schema["properties"].items() if item.get("is_base", True)}
    shown = await one.show(await one.image())
    assert set(shown) <= base
    assert base - set(shown) == {"direct_url", "stores", "locations"}
    added = {name for name, item in schema["properties"].items() if item.get("is_base") is False}
    assert added == {
        *("kernel_id", "ramdisk_id", "instance_uuid", "architecture", "os_distro", "os_version", "description"),
        *("cinder_encryption_key_id", "cinder_encryption_key_deletion_policy"),
    }


async def test_X15_the_formats_are_those_of_the_site(postgres: Server) -> None:
    formats = "disk_formats = raw, myown\ncontainer_formats = bare"
    async with passing(postgres, one_store(image_format=formats)) as site:
        properties = (await get(site, "/schemas/image"))["properties"]
        assert properties["disk_format"]["enum"] == [None, "raw", "myown"]
        assert properties["container_format"]["enum"] == [None, "bare"]
        image = await site.image(disk_format="myown")
        operation = {"op": "replace", "path": "/disk_format", "value": "qcow2"}
        assert (await site.patch(image, operation)).status == 400


async def test_X16_the_other_schemas(one: Site) -> None:
    images, member, members = [await get(one, f"/schemas/{name}") for name in ("images", "member", "members")]
    assert [item["name"] for item in (images, member, members)] == ["images", "member", "members"]
    assert images["properties"]["images"]["items"] == await get(one, "/schemas/image")
    assert set(images["properties"]) == {"images", "first", "next", "schema"}
    assert [link["rel"] for link in images["links"]] == ["first", "next", "describedby"]
    assert "additionalProperties" not in member
    assert "links" not in member
    assert set(member["properties"]) == {"member_id", "image_id", "status", "created_at", "updated_at", "schema"}
    assert members["properties"]["members"]["items"] == member
    assert [link["rel"] for link in members["links"]] == ["describedby"]
    for schema in (images, member, members):
        Draft202012Validator.check_schema(schema)


async def test_X16_answers_conform(one: Site) -> None:
    image = await one.image()
    made = await one.call("POST", f"/images/{image}/members", json={"member": "pB"})
    Draft202012Validator(await get(one, "/schemas/member")).validate(await made.json())
    Draft202012Validator(await get(one, "/schemas/members")).validate(await get(one, f"/images/{image}/members"))
    Draft202012Validator(await get(one, "/schemas/images")).validate(await get(one, "/images?limit=1"))


async def test_schemas_need_an_identity_and_no_more(one: Site) -> None:
    for name in ("image", "images", "member", "members", "metadefs/namespace"):
        assert (await one.call("GET", f"/schemas/{name}", None)).status == 401
        assert (await one.call("GET", f"/schemas/{name}", "NR")).status == 200
        assert (await one.call("GET", f"/schemas/{name}", json={})).status == 400
        refused = await one.call("POST", f"/schemas/{name}")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET")
    assert (await one.call("GET", "/schemas/nope")).status == 404


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ("namespace", "namespace"),
        ("namespaces", "namespaces"),
        ("resource_type", "resource_type_association"),
        ("resource_types", "resource_type_associations"),
        ("property", "property"),
        ("properties", "properties"),
        ("object", "object"),
        ("objects", "objects"),
        ("tag", "tag"),
        ("tags", "tags"),
    ],
)
async def test_schemas_of_metadata_definitions(one: Site, document: str, name: str) -> None:
    schema = await get(one, f"/schemas/metadefs/{document}")
    assert schema["name"] == name
    Draft202012Validator.check_schema(schema)


async def test_the_catalogue_of_metadata_definitions_is_empty(one: Site) -> None:
    """Horizon shows nothing, and no error."""
    namespaces = await get(one, "/metadefs/namespaces?resource_types=OS::Nova::Flavor&limit=21")
    assert namespaces["namespaces"] == []
    assert "next" not in namespaces
    Draft202012Validator(await get(one, "/schemas/metadefs/namespaces")).validate(namespaces)
    assert (await get(one, "/metadefs/resource_types"))["resource_types"] == []
    for path in ("namespaces/x", "namespaces/x/objects", "x", "resource_types/x", "namespaces/"):
        assert (await one.call("GET", f"/metadefs/{path}")).status == 404
    assert (await one.call("POST", "/metadefs/namespaces", json={"namespace": "x"})).status == 405


# --- properties that have a definition of their own --------------------------------------


async def test_C17_the_properties_that_most_sites_describe(one: Site) -> None:
    status, shown = await create(one, {"kernel_id": None, "ramdisk_id": str(uuid4())})
    assert (status, shown["kernel_id"]) == (201, None)
    assert (await one.show(shown["id"]))["kernel_id"] is None
    for document in (
        {"kernel_id": "nope"},
        {"kernel_id": 5},
        {"os_distro": None},
        {"os_distro": ["x"]},
        {"cinder_encryption_key_deletion_policy": "x"},
    ):
        assert (await create(one, document))[0] == 400
    assert (await create(one, {"cinder_encryption_key_deletion_policy": "on_image_deletion"}))[0] == 201


async def test_described_properties_are_custom_properties(one: Site) -> None:
    """`replace` of an absent one is 409, `remove` works; values are held to the definition."""
    image = await one.image()
    kernel = str(uuid4())
    for operation, value, expected in (
        ("replace", kernel, 409),
        ("add", "nope", 400),
        ("add", 5, 400),
        ("add", kernel, 200),
        ("replace", None, 200),
    ):
        patch = {"op": operation, "path": "/kernel_id", "value": value}
        assert (await one.patch(image, patch)).status == expected
    assert (await one.show(image))["kernel_id"] is None
    assert (await one.patch(image, {"op": "remove", "path": "/kernel_id"})).status == 200
    assert "kernel_id" not in await one.show(image)
    assert (await one.patch(image, {"op": "add", "path": "/os_distro", "value": None})).status == 400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def described(postgres: Server) -> AsyncIterator[Site]:
    definitions = {
        "tier": {"type": ["string", "null"], "enum": ["gold", None], "description": "How good it is."},
        "code": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
        "free": {},
    }
    async with standing(postgres, _with_file({"properties": definitions, "required": ["code", "name"]})) as site:
        yield site


async def test_an_operators_file_replaces_the_usual_ones(described: Site) -> None:
    schema = await get(described, "/schemas/image")
    assert schema["required"] == ["code", "name"]
    assert schema["properties"]["tier"]["is_base"] is False
    assert "kernel_id" not in schema["properties"]
    assert (await create(described, {"name": "n", "code": "abc", "kernel_id": "nope", "tier": None}))[0] == 201
    for document in (
        {"name": "n"},
        {"code": "abc"},
        {"name": "n", "code": "abcd"},
        {"name": "n", "code": "A"},
        {"name": "n", "code": None},
        {"name": "n", "code": "abc", "tier": "silver"},
        {"name": "n", "code": "abc", "free": 5},
        {"name": "n", "code": "abc", "free": {"a": "b"}},
    ):
        status, error = await create(described, document)
        assert status == 400
        assert error["message"]


async def test_null_is_shown_only_where_the_schema_knows_of_it(described: Site) -> None:
    image = await described.image(code="abc", free=None)
    assert (await described.show(image))["free"] is None
    listed = await get(described, f"/images?id={image}")
    assert listed["images"][0]["free"] is None
