"""A key manager for castellan, as Barbican is one, that keeps its certificates in this process."""

from __future__ import annotations

import threading
from typing import Any

from castellan.common import exception
from castellan.common.credentials.keystone_password import KeystonePassword
from castellan.common.objects.x_509 import X509
from castellan.key_manager.key_manager import KeyManager
from oslo_config import cfg
from oslo_context.context import RequestContext

KEYS: dict[str, Any] = {}
"""Id -> a managed object, an error that asking for it ends with, or a `Wait`."""


class Wait:
    """An answer that does not come until somebody lets it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_go = threading.Event()


class Keys(KeyManager):  # type: ignore[misc]
    """Gives to the service by its credentials, deletes for people by their token."""

    def __init__(self, configuration: cfg.ConfigOpts) -> None:
        super().__init__(configuration)

    def get(self, context: Any, managed_object_id: str, metadata_only: bool = False) -> Any:
        self._admit(context)
        found = KEYS.get(managed_object_id)
        if found is None:
            raise exception.ManagedObjectNotFoundError(uuid=managed_object_id)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Wait):
            found.asked.set()
            found.may_go.wait(60)
            raise exception.KeyManagerError(reason="too late")
        return found

    def delete(self, context: Any, managed_object_id: str, force: bool = False) -> None:
        assert isinstance(context, RequestContext)
        if (context.auth_token, context.project_id) != ("a token", "pA"):
            raise exception.Forbidden()
        if isinstance(KEYS.get(managed_object_id), Exception):
            raise KEYS[managed_object_id]
        if KEYS.pop(managed_object_id, None) is None:
            raise exception.ManagedObjectNotFoundError(uuid=managed_object_id)

    @staticmethod
    def _admit(context: Any) -> None:
        if not isinstance(context, KeystonePassword) or context.password != "open sesame":
            raise exception.Forbidden()

    def create_key(self, *arguments: Any, **more: Any) -> Any:
        raise NotImplementedError

    create_key_pair = store = copy = list = add_consumer = remove_consumer = list_options_for_discovery = create_key


def keep(key_id: str, certificate: bytes) -> None:
    """Have a certificate, in DER."""
    KEYS[key_id] = X509(certificate)
