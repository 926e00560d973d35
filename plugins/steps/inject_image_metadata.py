"""Sets properties of the operator's choice on whatever ordinary users import.

The service writes them in its own right: neither property protections nor the quota
of properties, which bind the user, have a say.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from kernel.extend import ImportStep, StepRequest, StepResult, Trial
from kernel.options import IniDict, IniList

_RESERVED: Final = "os_glance"
"""Properties that are the service's own begin so."""


class InjectConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ignore_user_roles: IniList = Field(("admin",), description="Roles whose bearers' imports are left alone.")
    inject: IniDict = Field({}, description="Properties to set, as name:value pairs.")


async def run(request: StepRequest) -> StepResult:
    settings: InjectConfig = request.settings
    ignored = {role.lower() for role in settings.ignore_user_roles}
    if ignored & {role.lower() for role in request.actor.roles}:
        return StepResult()
    chosen = {name: value for name, value in settings.inject.items() if not name.startswith(_RESERVED)}
    return StepResult(properties=chosen)


EXTENSION = ImportStep(
    name="inject_image_metadata",
    since="Glance Queens",
    run=run,
    config=InjectConfig,
    section="inject_metadata_properties",
    selftest=lambda tmp: Trial(config=InjectConfig(inject={"made_by": "the operator"}), data=b"anything"),
)
