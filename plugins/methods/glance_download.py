"""Import an image from another Image API endpoint: another region of the same identity service."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from kernel.context import Actor
from kernel.errors import Invalid, SourceFailed
from kernel.extend import Description, FetchRequest, ImportMethod, Opened
from kernel.options import IniList
from plugins.methods._filtering import FilterConfig, contradictions
from plugins.methods._http import Source, fetch

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MOST_METADATA: Final = 8 << 20
_ATTRIBUTES: Final = frozenset(
    {"id", "name", "status", "visibility", "owner", "checksum", "created_at", "updated_at", "self", "file", "schema"}
    | {"disk_format", "container_format", "direct_url", "stores"}
)


class GlanceOptions(BaseModel):
    """Members of `method` that this method needs; what is missing is noticed once the image is known."""

    model_config = ConfigDict(extra="ignore", strict=True)

    glance_image_id: str | None = None
    glance_region: str | None = None
    glance_service_interface: str = "public"


class GlanceConfig(FilterConfig):
    """[glance_download_properties], with the filter of [import_filtering_opts]."""

    extra_properties: IniList = Field(
        ("hw_", "trait:", "os_distro", "os_secure_boot", "os_type"),
        description="Prefixes of the names of properties that are taken over.",
    )


def _check(options: GlanceOptions) -> None:
    if not options.glance_region:
        raise Invalid("method.glance_region is missing")
    if not options.glance_image_id:
        raise Invalid("method.glance_image_id is missing")
    if not _UUID.fullmatch(options.glance_image_id):
        raise Invalid("image id does not look like a UUID")


def _secrets(options: GlanceOptions, actor: Actor) -> tuple[dict[str, Any], dict[str, str]]:
    """The endpoint is found now, in the caller's own catalogue; his token is kept apart."""
    endpoint = _endpoint(actor.catalog, options.glance_region or "", options.glance_service_interface)
    public: dict[str, Any] = {
        "glance_image_id": options.glance_image_id,
        "glance_region": options.glance_region,
        "glance_service_interface": options.glance_service_interface,
    }
    if endpoint is not None:
        public["endpoint"] = endpoint
    return public, {"token": actor.token} if actor.token else {}


def _endpoint(catalog: str, region: str, interface: str) -> str | None:
    """The image service's URL in a catalogue of either form: one URL an endpoint, or one for each interface."""
    try:
        services = orjson.loads(catalog) if catalog else ()
    except orjson.JSONDecodeError:
        return None
    for service in _objects(services):
        if service.get("type") != "image":
            continue
        for endpoint in _objects(service.get("endpoints")):
            where = endpoint.get("region") or endpoint.get("region_id") or ""
            url = endpoint.get("url") if endpoint.get("interface") == interface else endpoint.get(f"{interface}URL")
            if str(where).lower() == region.lower() and isinstance(url, str):
                return url.rstrip("/").removesuffix("/v2")
    return None


def _objects(listed: object) -> list[dict[str, Any]]:
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _source(request: FetchRequest, path: str) -> Source:
    endpoint = request.options.get("endpoint")
    if not endpoint:
        region, interface = request.options["glance_region"], request.options["glance_service_interface"]
        raise SourceFailed(f"The catalogue has no {interface} image endpoint in region {region}")
    token = request.secrets.get("token")
    return Source(
        uri=f"{endpoint}/v2/images/{request.options['glance_image_id']}{path}",
        config=request.settings,
        headers={"X-Auth-Token": token} if token else {},
        trusted=True,
        since=request.since,
    )


async def _describe(request: FetchRequest) -> Description:
    """Formats and the properties that begin with one of the prefixes, from the remote image, which must be active."""
    document = await _document(request)
    if document.get("status") != "active":
        raise SourceFailed("The remote image is not active")
    formats = document.get("disk_format"), document.get("container_format")
    if not all(isinstance(name, str) for name in formats):
        raise SourceFailed("The remote image has no formats")
    size = document.get("size")
    if type(size) is not int or size < 0:
        raise SourceFailed("The remote image has no size")
    prefixes = tuple(request.settings.extra_properties)
    properties: dict[str, str | None] = {
        name: value
        for name, value in document.items()
        if name.startswith(prefixes) and not _is_ours(name) and isinstance(value, str)
    }
    return Description(
        disk_format=formats[0],
        container_format=formats[1],
        properties=properties,
        size=size,
    )


async def _document(request: FetchRequest) -> dict[str, Any]:
    opened = await fetch(_source(request, ""))
    raw = bytearray()
    try:
        async for chunk in opened.chunks:
            raw += chunk
            if len(raw) > _MOST_METADATA:
                raise SourceFailed("The remote image's description is too long")
    finally:
        if opened.close is not None:
            await opened.close()
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise SourceFailed("The remote image service sent no JSON") from None
    if not isinstance(document, dict):
        raise SourceFailed("The remote image service sent no image")
    return document


def _is_ours(name: str) -> bool:
    """Names that say something of the image itself, which an operator's prefix must not reach."""
    return name in _ATTRIBUTES or name.startswith(("os_glance", "os_hash_"))


async def _open(request: FetchRequest) -> Opened:
    return await fetch(_source(request, "/file"), request.offset, request.validator)


EXTENSION = ImportMethod(
    name="glance-download",
    options=GlanceOptions,
    needs="queued",
    rank=40,
    default=False,
    config=GlanceConfig,
    section="glance_download_properties",
    shares=("import_filtering_opts",),
    check=_check,
    secrets=_secrets,
    describe=_describe,
    open=_open,
    warnings=contradictions,
)
