"""Where an image's data lies: shown, and changed through patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from handlers.call import Call
from handlers.patching import LocationOperation
from handlers.schemas import validated
from kernel import commands as c
from kernel import events as e
from kernel.errors import Forbidden, Invalid
from kernel.handle import Guard
from kernel.image import Image
from kernel.locating import locate
from kernel.locations import Given, Proof, Terms, check_receptive, held, in_order
from kernel.patch import Operation


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
