"""Where an image's data lies: told to services, registered by them and by users, changed through patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from aiohttp.web import StreamResponse
from pydantic import BaseModel, ConfigDict, StringConstraints

from handlers import views
from handlers.call import Call, not_found
from handlers.imports import preempted_by
from handlers.patching import LocationOperation
from handlers.routing import Route
from handlers.schemas import validated
from kernel import commands as c
from kernel import events as e
from kernel.decide import check_registrable
from kernel.errors import Forbidden, Invalid
from kernel.handle import Guard
from kernel.ids import new_id
from kernel.image import LOCATION_IMPORT, Image
from kernel.locating import locate, owner_of, scheme_of
from kernel.locations import Given, Proof, Terms, check_receptive, held, in_order, is_hash
from kernel.masking import masked
from kernel.patch import Operation, within
from kernel.site import Backend


class ProofBody(BaseModel):
    """What a client says of the bytes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    os_hash_algo: str
    os_hash_value: str
    checksum: str | None = None


class LocationBody(BaseModel):
    """A location in a patch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    metadata: dict[str, Any]
    validation_data: ProofBody | None = None


class RegisteredBody(BaseModel):
    """What lies somewhere already."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    validation_data: dict[str, Any] | None = None


# --- the resource ------------------------------------------------------------------------

_HASHES: Final = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""Algorithms in which data can be vouched for, and the digits of their hashes."""


async def index(call: Call) -> StreamResponse:
    """`GET /v2/images/{image_id}/locations`; policy alone decides, for the services that ask own no image."""
    image_id = call.parameters["image_id"]
    image = await call.service.queries.image(image_id)
    if not image.exists or image.gone:
        raise not_found(image_id)
    if not call.policy.allowed_image(call.actor, "fetch_image_location", image):
        raise Forbidden("You are not authorized to complete this action") if call.sees(image) else not_found(image_id)
    site = call.service.site
    return call.reply([views.location_of(location, site) for location in in_order(image.locations, site.reading_order)])


async def register(call: Call) -> StreamResponse:
    """`POST /v2/images/{image_id}/locations`: a worker finds out what is there, and hashes it."""
    document = await call.json(dict)
    body = validated(RegisteredBody, document)
    proof = _vouched(body.validation_data or {})
    scheme = scheme_of(body.url)
    image_id = call.parameters["image_id"]

    def may(image: Image) -> None:
        if not call.sees(image):
            raise not_found(image_id)
        check_registrable(image)
        if not call.policy.allowed_image(call.actor, "add_image_location", image):
            raise Forbidden("You are not authorized to complete this action")
        served = any({"http", "https"} & backend.driver.schemes for backend in call.service.site.backends.values())
        if not {"service"} & {*call.actor.roles, *call.actor.service_roles} and not (
            scheme in ("http", "https") and served
        ):
            raise Forbidden("Only services may register locations other than http and https ones")

    image = await call.service.queries.image(image_id)
    may(image)
    preempted = await preempted_by(call, image)
    command = c.RegisterLocation(request=_registration(call, body, document, proof))
    await call.service.commands.handle(image_id, *preempted, command, context=call.context, guard=may)
    return call.empty(202)


def _vouched(said: dict[str, Any]) -> dict[str, str]:
    """The hash that a client gives, well formed; nothing if it gives none."""
    if not said:
        return {}
    if set(said) != {"os_hash_algo", "os_hash_value"}:
        raise Invalid("validation_data: os_hash_algo and os_hash_value are given together, and nothing else")
    algo, value = said["os_hash_algo"], said["os_hash_value"]
    if not isinstance(algo, str) or algo not in _HASHES:
        raise Invalid(f"validation_data.os_hash_algo: must be one of {', '.join(_HASHES)}")
    if not isinstance(value, str) or not is_hash(value, _HASHES[algo]):
        raise Invalid(f"validation_data.os_hash_value: is not a hash of {algo}")
    return {"os_hash_algo": algo, "os_hash_value": value.lower()}


def _registration(
    call: Call, body: RegisteredBody, document: dict[str, Any], proof: dict[str, str]
) -> e.ImportRequested:
    site, settings = call.service.site, call.service.settings
    try:
        backend: Backend | None = owner_of(site, body.url)
    except Invalid:  # told by the task
        backend = None
    hashes = settings.default.do_secure_hash
    options = {
        "url": body.url,
        "hash": hashes,
        "verify": hashes and bool(proof),
        "leave": backend is not None and backend.read_only,
        **({"store": backend.name} if backend else {}),
        **proof,
    }
    return e.ImportRequested(
        task_id=str(new_id()),
        type=LOCATION_IMPORT,
        method=LOCATION_IMPORT,
        request=masked(document),
        options=options,
        multi=site.multi,
        inspects=False,
        task_ttl=settings.task.task_time_to_live * 3600,
    )


# --- patches -----------------------------------------------------------------------------


def guard(call: Call, wanted: Sequence[Operation]) -> Guard:
    """Who may add and who may take away."""
    rules = {
        "delete_image_location" if operation.verb == "remove" else "set_image_location"
        for operation in wanted
        if isinstance(operation, LocationOperation)
    }

    def check(image: Image) -> None:
        for rule in sorted(rules):
            if not call.policy.allowed_image(call.actor, rule, image):
                raise Forbidden("You are not authorized to complete this action")

    return check


def read(operation: LocationOperation) -> Any:
    """What an operation says, well formed: locations to add or to put in place of the others, or a number."""
    if operation.verb == "remove":
        return _number(operation)
    if operation.verb == "add":
        if operation.at is None:
            raise Invalid("Locations are added one by one, at /locations/- or at a place of their own")
        return validated(LocationBody, operation.value), None if operation.at == "-" else _number(operation)
    if operation.at is not None:
        raise Invalid("A location cannot be replaced, only all of them together")
    if not isinstance(operation.value, list):
        raise Invalid("Locations are a list")
    return [validated(LocationBody, item) for item in operation.value]


def _number(operation: LocationOperation) -> int:
    text = operation.at or ""
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Invalid(f"/locations/{text[:40]} names no location: locations are numbered from 0")
    return int(text)


async def commands(call: Call, operation: LocationOperation, image: Image) -> Sequence[c.Command]:
    """What an operation asks of the image; the stores are asked about what is new."""
    asked, terms = read(operation), terms_of(call)
    if isinstance(asked, int):
        return (c.RemoveLocation(index=asked, terms=terms),)
    if isinstance(asked, tuple):
        body, at = asked
        check_receptive(image, ())  # formats may be part of the patch
        return (c.AddLocation(given=await _located(call, body), at=at, terms=terms),)
    if not asked or held(image):
        given = tuple(_given(body, e.Location(store="", url=body.url, metadata=_own(call, body))) for body in asked)
        return (c.ReplaceLocations(given=given, terms=terms),)
    check_receptive(image, ())  # formats may be part of the patch
    return [c.AddLocation(given=await _located(call, body), terms=terms) for body in asked]


def check_room(call: Call, wanted: Sequence[Operation], image: Image) -> None:
    """Refuse more locations than an image may have before the stores are asked about each of them."""
    count = len(held(image))
    for operation in wanted:
        if not isinstance(operation, LocationOperation):
            continue
        if operation.verb == "remove":
            count -= 1
            continue
        if operation.verb == "replace" and held(image):  # which brings nothing new
            continue
        check_receptive(image, ())  # formats may be part of the patch
        count += len(operation.value) if operation.verb == "replace" else 1
        within("locations", count, call.service.settings.default.image_location_quota)


def leaving(call: Call, wanted: Sequence[Operation], image: Image) -> list[e.Location]:
    """Locations that a patch takes away, as far as that can be told beforehand."""
    shown = in_order(image.locations, call.service.site.reading_order)
    numbers = [read(item) for item in wanted if isinstance(item, LocationOperation) and item.verb == "remove"]
    return [shown[number] for number in numbers if number < len(shown)]


def terms_of(call: Call) -> Terms:
    """What this site demands of locations."""
    settings = call.service.settings.default
    return Terms(
        order=call.service.site.reading_order,
        quota=settings.image_location_quota,
        algorithm=settings.hashing_algorithm,
    )


async def _located(call: Call, body: LocationBody) -> Given:
    return _given(body, await locate(call.service.site, body.url, body.metadata))


def _given(body: LocationBody, location: e.Location) -> Given:
    said = body.validation_data
    if said is None:
        return Given(location=location)
    proof = Proof(algo=said.os_hash_algo, value=said.os_hash_value, checksum=said.checksum)
    return Given(location=location, proof=proof)


def _own(call: Call, body: LocationBody) -> dict[str, Any]:
    """Metadata without the name of the store, which the service adds where there are several."""
    multi = call.service.site.multi
    return {name: value for name, value in body.metadata.items() if name != "store" or not multi}


ROUTES: Final = (
    Route(
        method="GET",
        path="/images/{image_id}/locations",
        handler=index,
        summary="Where an image's data lies",
    ),
    Route(
        method="POST",
        path="/images/{image_id}/locations",
        handler=register,
        body="json",
        success=(202,),
        errors=(400, 401, 403, 404, 409),
        summary="Register data that lies somewhere already",
    ),
)
