"""Who may do what: oslo.policy's rule language over Glance's rule names.

Rules are parsed once and asked often, so they are called directly; the answers to
the rules that every read asks are remembered for as long as neither rule nor
caller change.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from oslo_policy import policy as oslo

from handlers.policy_defaults import DEFAULTS
from kernel.context import Actor
from kernel.image import Image, member_of


class Policy:
    """A set of rules; `replace` swaps it whole."""

    def __init__(self, rules: Mapping[str, str] | None = None, default_rule: str = "default") -> None:
        self.replace(rules or {}, default_rule)

    def replace(self, rules: Mapping[str, str], default_rule: str = "default") -> None:
        """Use these rules on top of the defaults from now on."""
        merged = {**DEFAULTS, **rules}
        self._rules: Any = oslo.Rules.from_dict(dict(merged), default_rule)
        self._asker = SimpleNamespace(rules=self._rules)
        self._plain = merged["get_image"] == DEFAULTS["get_image"]
        self._admin = lru_cache(maxsize=4096)(self._is_admin)

    def allowed(self, actor: Actor, rule: str, target: Mapping[str, Any] | None = None) -> bool:
        """Whether the rule passes for the caller on a target; by default his own project."""
        if _out_of_scope(actor):
            return False
        wanted = target if target is not None else {"project_id": actor.project_id}
        check = self._rules.get(rule)
        return bool(check is not None and check(wanted, credentials(actor), self._asker, rule))

    def allowed_image(self, actor: Actor, rule: str, image: Image) -> bool:
        """Whether the rule passes for the caller on an image that he can see."""
        if rule == "get_image" and self._plain and "reader" in actor.roles and not _out_of_scope(actor):
            return True
        return self.allowed(actor, rule, image_target(actor, image))

    def admin(self, actor: Actor) -> bool:
        """Whether the caller counts as an administrator."""
        return self._admin(actor)

    def _is_admin(self, actor: Actor) -> bool:
        return self.allowed(actor, "context_is_admin")


def _out_of_scope(actor: Actor) -> bool:
    """Whether the caller acts for a system or a domain: every rule here is about projects."""
    return bool(actor.system_scope or (actor.domain_id and not actor.project_id))


@lru_cache(maxsize=4096)
def credentials(actor: Actor) -> dict[str, Any]:
    """The caller's attributes under the names that rules use."""
    return {
        "user_id": actor.user_id,
        "user_domain_id": actor.user_domain_id,
        "project_id": actor.project_id,
        "project_domain_id": actor.project_domain_id,
        "domain_id": actor.domain_id,
        "system_scope": actor.system_scope,
        "roles": sorted(actor.roles),
        "is_admin_project": actor.is_admin_project,
        "service_user_id": actor.service_user_id,
        "service_project_id": actor.service_project_id,
        "service_user_domain_id": actor.service_user_domain_id,
        "service_project_domain_id": actor.service_project_domain_id,
        "service_roles": sorted(actor.service_roles),
    }


def image_target(actor: Actor, image: Image) -> dict[str, Any]:
    """An image's attributes under the names that rules use."""
    shared = actor.project_id != image.owner and member_of(image, actor.project_id) is not None
    member = actor.project_id if shared else None
    return {
        **image.properties,
        "id": image.id,
        "image_id": image.id,
        "name": image.name,
        "status": image.status,
        "visibility": image.visibility,
        "owner": image.owner,
        "project_id": image.owner,
        "member": member,
        "member_id": member,
        "protected": image.protected,
        "os_hidden": image.hidden,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": image.min_disk,
        "min_ram": image.min_ram,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "checksum": image.checksum,
        "os_hash_algo": image.hash_algo,
        "os_hash_value": image.hash_value,
        "tags": list(image.tags),
    }
