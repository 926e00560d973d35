"""Import from a URL that the service fetches itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from kernel.context import Actor
from kernel.extend import FetchRequest, ImportMethod, Opened
from kernel.masking import mask_url
from plugins.methods._filtering import FilterConfig, admit, contradictions, openness
from plugins.methods._http import Source, fetch


class WebOptions(BaseModel):
    """Members of `method` that this method needs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    uri: str

    @field_validator("uri")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be blank")
        return value


async def _admit(options: WebOptions, config: FilterConfig) -> None:
    await admit(options.uri, config)


def _secrets(options: WebOptions, actor: Actor) -> tuple[dict[str, Any], dict[str, str]]:
    """The log gets the URL as it may be seen by anybody; the one with credentials is kept apart."""
    shown = mask_url(options.uri)
    return {"uri": shown}, {"uri": options.uri} if shown != options.uri else {}


async def _open(request: FetchRequest) -> Opened:
    uri = request.secrets.get("uri") or str(request.options["uri"])
    source = Source(uri=uri, config=request.settings, since=request.since)
    return await fetch(source, request.offset, request.validator)


EXTENSION = ImportMethod(
    name="web-download",
    options=WebOptions,
    needs="queued",
    rank=20,
    config=FilterConfig,
    section="import_filtering_opts",
    admit=_admit,
    secrets=_secrets,
    open=_open,
    warnings=lambda config: [*contradictions(config), *openness(config)],
)
