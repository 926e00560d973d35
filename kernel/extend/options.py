"""Options of extensions that have none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NoConfig(BaseModel):
    """For extensions without options."""

    model_config = ConfigDict(extra="ignore")
