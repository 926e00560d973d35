"""Who asks for something, and as part of what."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from kernel.ids import new_id


class Actor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The identity behind a request, as an auth backend established it.

    Roles are lower case.  The `service_*` fields come from a validated service
    token (nova or cinder calling on a user's behalf).
    """

    user_id: str | None = None
    project_id: str | None = None
    roles: frozenset[str] = frozenset()
    user_domain_id: str | None = None
    project_domain_id: str | None = None
    domain_id: str | None = None
    system_scope: str | None = None
    is_admin_project: bool = True
    service_user_id: str | None = None
    service_project_id: str | None = None
    service_user_domain_id: str | None = None
    service_project_domain_id: str | None = None
    service_roles: frozenset[str] = frozenset()
    anonymous: bool = False
    token: str | None = None
    """The caller's own token, for calls made on his behalf; never recorded."""
    catalog: str = ""
    """The service catalogue of his token: Keystone's list, as JSON."""


SERVICE = Actor(user_id="entrepot", roles=frozenset({"admin", "member", "reader", "service"}))
"""The service acting on its own account: clean-up, expiry, resumed work."""


class Context(Struct, frozen=True, kw_only=True):
    """What every event caused by one request has in common.

    `correlation` names the command that started it all, `causation` the event
    that led to this step; both let an auditor walk a story backwards.
    """

    actor: Actor = SERVICE
    request_id: str | None = None
    correlation: UUID
    causation: UUID | None = None

    @classmethod
    def of(cls, actor: Actor, request_id: str | None = None) -> Context:
        """A fresh context: the start of a story."""
        return cls(actor=actor, request_id=request_id, correlation=new_id())


def service_context() -> Context:
    """A context for what the service does on its own account."""
    return Context.of(SERVICE)
