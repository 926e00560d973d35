"""Certificates from OpenStack's key manager, Barbican or another, through castellan.

Reads the sections that castellan reads everywhere: `[key_manager]`, `[barbican]`,
`[vault]` and their like.  It asks for certificates with the service's own credentials,
those of `[key_manager] auth_type` and the options beside it, because an import goes on
after its caller's token has expired.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from kernel.context import Actor
from kernel.errors import ConfigError, NotFound, Unavailable
from kernel.extend import KeyManager, NoConfig

_SECTIONS: Final = ("key_manager", "barbican", "barbican_service_user", "vault")
_TRIES_FOR: Final = 60.0
"""Seconds until the key manager is given up."""
_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
"""What key managers call their objects.  Its drivers make paths of it, and any user can write any text there."""

T = TypeVar("T")


class Castellan:
    """castellan's blocking calls, in threads."""

    def __init__(self, manager: Any, credentials: Callable[[], Any]) -> None:
        self._manager = manager
        self._credentials = credentials

    async def certificate(self, key_id: str) -> bytes:
        _must_be_id(key_id)
        found = await self._asked(lambda: self._manager.get(self._credentials(), key_id))
        if getattr(found, "format", "X.509") != "X.509":
            raise NotFound(f"{key_id[:64]} is no X.509 certificate")
        return bytes(found.get_encoded())

    async def delete(self, key_id: str, actor: Actor) -> None:
        """In the caller's name: any user can write any id into a property, and the service may delete more than he."""
        _must_be_id(key_id)
        if actor.token is None:
            raise Unavailable("the caller has no token that the key manager would believe")
        caller = await asyncio.to_thread(_caller, actor)
        await self._asked(lambda: self._manager.delete(caller, key_id))

    async def close(self) -> None:
        """It keeps nothing open that would need it."""

    async def _asked(self, question: Callable[[], T]) -> T:
        from castellan.common.exception import ManagedObjectNotFoundError

        try:
            return await asyncio.wait_for(asyncio.to_thread(question), _TRIES_FOR)
        except ManagedObjectNotFoundError:
            raise NotFound("The key manager has no such key") from None
        except Exception as error:  # each of its drivers has errors of its own
            raise Unavailable(f"the key manager failed ({type(error).__name__})") from error


def _must_be_id(key_id: str) -> None:
    if not _ID.fullmatch(key_id):
        raise NotFound(f"{key_id[:64]!r} is no id of a key")


async def connect(config: NoConfig, sections: Mapping[str, Mapping[str, str]]) -> Castellan:
    return await asyncio.to_thread(_connected, sections)


def _connected(sections: Mapping[str, Mapping[str, str]]) -> Castellan:
    from castellan import key_manager
    from castellan.common.utils import credential_factory, credential_opts
    from oslo_config import cfg

    conf = cfg.ConfigOpts()
    conf(args=[], default_config_files=[], default_config_dirs=[])
    conf.register_opts(credential_opts, group="key_manager")
    conf.register_opts(key_manager.key_manager_opts, group="key_manager")
    try:
        _apply(conf, sections)  # what chooses the driver
        manager = key_manager.API(conf)
        _apply(conf, sections)  # what the driver has registered of its own
    except Exception as error:
        raise ConfigError(f"the key manager cannot be set up: {error}") from None
    return Castellan(manager, lambda: credential_factory(conf))


def _caller(actor: Actor) -> Any:
    from oslo_context.context import RequestContext

    return RequestContext(
        auth_token=actor.token, user_id=actor.user_id, project_id=actor.project_id, overwrite=False, is_admin=False
    )


def _apply(conf: Any, sections: Mapping[str, Mapping[str, str]]) -> None:
    from oslo_config import cfg

    for section in _SECTIONS:
        for option, value in sections.get(section, {}).items():
            try:
                conf.set_override(option, value, group=section)
            except (cfg.NoSuchOptError, cfg.NoSuchGroupError):
                continue
            except ValueError as error:
                raise ConfigError(f"[{section}] {option}: {error}") from None


EXTENSION = KeyManager(
    name="castellan",
    config=NoConfig,
    connect=connect,
    reads=frozenset(_SECTIONS),
    chosen_by=lambda sections: bool(sections.get("key_manager") or sections.get("barbican")),
    unavailable=None
    if importlib.util.find_spec("castellan")
    else "castellan is not installed (pip install 'entrepot[signatures]')",
)
