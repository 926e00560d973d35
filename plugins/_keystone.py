"""Talking to Keystone as the service's own user: keystoneauth's session, made from an operator's section.

keystoneauth knows discovery, the service's own token, and how to renew both.  It
blocks, so whoever uses a session does it in threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from kernel.errors import ConfigError
from kernel.options import IniBool

try:
    from keystoneauth1 import exceptions, loading
    from keystoneauth1 import session as sessions

    UNAVAILABLE = None
except ImportError as error:  # an optional dependency
    UNAVAILABLE = f"keystoneauth1 is not installed ({error}); pip install 'entrepot[keystone]'"


class ServiceAccount(BaseModel):
    """How the service logs in.  What is not listed here, the auth plugin of `auth_type` may still know."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    auth_type: str = Field("password", description="keystoneauth plugin that the service itself logs in with.")
    auth_section: str | None = Field(None, description="Another section that the options of the login are in.")
    auth_url: str | None = Field(None, description="Root or v3 URL of Keystone.")
    username: str | None = Field(None, description="The service user's name.")
    user_id: str | None = Field(None, description="The service user's id, instead of name and domain.")
    password: SecretStr | None = Field(None, description="The service user's password.")
    user_domain_name: str | None = Field(None, description="Domain of the service user.")
    user_domain_id: str | None = Field(None, description="Domain of the service user, by id.")
    project_name: str | None = Field(None, description="Project that the service acts in.")
    project_id: str | None = Field(None, description="Project that the service acts in, by id.")
    project_domain_name: str | None = Field(None, description="Domain of that project.")
    project_domain_id: str | None = Field(None, description="Domain of that project, by id.")
    system_scope: str | None = Field(None, description="'all': the service acts on the whole system.")
    application_credential_id: str | None = Field(None, description="For auth_type v3applicationcredential.")
    application_credential_secret: SecretStr | None = Field(None, description="For auth_type v3applicationcredential.")
    cafile: Path | None = Field(None, description="CA certificates to trust.")
    certfile: Path | None = Field(None, description="Client certificate.")
    keyfile: Path | None = Field(None, description="Key of the client certificate.")
    insecure: IniBool = Field(False, description="Do not verify Keystone's certificate.")
    settings: Any = Field(None, exclude=True, description="The service's settings; not an option.")

    @model_validator(mode="after")
    def _reachable(self) -> ServiceAccount:
        if not (self.auth_url or self.auth_section):
            raise ValueError("auth_url must be set")
        return self


def session(account: ServiceAccount, section: str, timeout: float) -> Any:
    """A session for the account; `ConfigError` when its options do not fit together."""
    given: dict[str, Any] = {name: _plain(value) for name, value in account if value is not None}
    if account.auth_section and account.settings is not None:
        given |= {name: value for name, value in account.settings.section(account.auth_section).items() if value}
        section = account.auth_section
    given = {name.replace("-", "_"): value for name, value in given.items()}
    if not given.get("auth_url"):
        raise ConfigError(f"[{section}] auth_url: must be set")
    try:
        loader: Any = loading.get_plugin_loader(str(given.get("auth_type", account.auth_type)))
        names = {option.dest for option in loader.get_options()}
        auth = loader.load_from_options(**{name: value for name, value in given.items() if name in names})
    except exceptions.ClientException as error:
        raise ConfigError(f"[{section}] {error}") from None
    verify: Any = False if account.insecure else str(account.cafile) if account.cafile else True
    cert = (str(account.certfile), str(account.keyfile)) if account.certfile and account.keyfile else None
    return sessions.Session(auth=auth, verify=verify, cert=cert, timeout=timeout)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def trimmed(catalog: Any) -> list[Mapping[str, Any]]:
    """The services of a catalogue that matter here; a whole one is too large to keep with every token."""
    services = catalog if isinstance(catalog, list) else ()
    return [service for service in services if isinstance(service, dict) and service.get("type") == "image"]
