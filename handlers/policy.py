"""Who may do what: oslo.policy's rule language over Glance's rule names.

Rules are parsed once and asked often, so they are called directly.  A rule looks at a
few attributes of its target, by name; its answer is remembered for a caller and these
attributes until the rules change.  Where rules ask another server nothing is remembered, and every request
goes through `asking` (`handlers/remote_policy.py`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import structlog
from oslo_policy import _checks as kinds
from oslo_policy import policy as oslo

from handlers.policy_defaults import DEFAULTS
from handlers.policy_files import EVERY, PolicyFiles
from handlers.remote_policy import Servers, adopted, is_remote, together
from kernel.context import Actor
from kernel.errors import ConfigError
from kernel.image import Image, member_of
from kernel.settings import OsloPolicy, Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

_NO_PROJECT: Final = ""
_ABSENT: Final = object()
_PLAIN: Final = frozenset(
    {
        kinds.TrueCheck,
        kinds.FalseCheck,
        kinds.AndCheck,
        kinds.OrCheck,
        kinds.NotCheck,
        kinds.RuleCheck,
        kinds.RoleCheck,
        kinds.GenericCheck,
    }
)
"""Checks that look at their target by the names they substitute, and no other way."""
_SUBSTITUTED: Final = re.compile(r"%\(([^)]*)\)")


class Policy:
    """A set of rules; `replace` swaps it whole."""

    def __init__(
        self,
        rules: Mapping[str, Any] | None = None,
        default_rule: str = "default",
        files: PolicyFiles | None = None,
        options: OsloPolicy | None = None,
    ) -> None:
        self._default_rule = default_rule
        self._files = files
        self._options = options or OsloPolicy()
        self._servers = Servers(self._options)
        self.replace(rules or {})

    @classmethod
    def of(cls, settings: Settings, every: float = EVERY) -> Policy:
        """The operator's rules; `ConfigError` when his files are faulty.  Blocking, for a moment."""
        files = PolicyFiles(settings, every)
        return cls(files.read(), settings.oslo_policy.policy_default_rule, files, settings.oslo_policy)

    def refresh(self) -> None:
        """Use what the files say by now; while one of them is faulty, the rules that were good last."""
        try:
            if self._files is None or not self._files.changed():
                return
            self.replace(self._files.read())
        except (ConfigError, OSError) as error:
            log.error("policy_not_reloaded", reason=str(error))
        else:
            log.info("policy_reloaded")

    def replace(self, rules: Mapping[str, Any]) -> None:
        """Use these rules on top of the defaults from now on."""
        merged: dict[str, Any] = {**DEFAULTS, **rules}
        parsed = oslo.Rules.from_dict(merged, self._default_rule)
        _examine(parsed, rules)
        remote = [check for rule in parsed.values() for check in _checks(rule) if is_remote(check)]
        if any(check.kind == "https" for check in remote):
            self._servers.prepare()
        if remote:
            parsed.update({name: adopted(rule) for name, rule in parsed.items()})
        self._remote = frozenset(check.kind for check in remote)
        self._rules: Any = parsed
        self._asker = SimpleNamespace(rules=parsed, negated=False)
        self._plain = merged["get_image"] == DEFAULTS["get_image"]
        needs = {name: _attributes(rule, parsed) for name, rule in parsed.items()}
        self._needs = {name: names for name, names in needs.items() if names is not None and not remote}
        self._remembered = lru_cache(maxsize=16384)(self._answer)

    # --- judging -----------------------------------------------------------------------

    def allowed(self, actor: Actor, rule: str, target: Mapping[str, Any] | None = None) -> bool:
        """Whether the rule passes for the caller on a target; by default his own project."""
        wanted = target if target is not None else {"project_id": actor.project_id or _NO_PROJECT}
        names = self._needs.get(rule)
        if names is None:  # an unknown rule, or one that may look at anything
            return self._judged(actor, rule, wanted)
        try:
            return self._remembered(actor, rule, tuple([wanted.get(name, _ABSENT) for name in names]))
        except TypeError:  # an attribute that is a list
            return self._judged(actor, rule, wanted)

    def _answer(self, actor: Actor, rule: str, values: tuple[Any, ...]) -> bool:
        seen = zip(self._needs[rule], values, strict=True)
        return self._judged(actor, rule, {name: value for name, value in seen if value is not _ABSENT})

    def _judged(self, actor: Actor, rule: str, wanted: Mapping[str, Any]) -> bool:
        if _out_of_scope(actor):
            return False
        try:
            check = self._rules[rule]
        except KeyError:
            return False
        try:
            return bool(check(wanted, credentials(actor), self._asker, rule))
        except (ValueError, TypeError, SyntaxError) as error:  # a substitution or a path that makes no sense
            log.warning("policy_rule_senseless", rule=rule, reason=str(error))
            return False

    def knows(self, rule: str) -> bool:
        """Whether there is a rule of this name; the default rule stands in for others."""
        return rule in self._rules

    def allowed_image(self, actor: Actor, rule: str, image: Image) -> bool:
        """Whether the rule passes for the caller on an image that he can see."""
        plain = rule == "get_image" and self._plain and "reader" in actor.roles
        if plain and actor.project_id is not None and not _out_of_scope(actor):
            return True
        return self.allowed(actor, rule, image_target(actor, image))

    def allowed_images(self, actor: Actor, rule: str, images: Sequence[Image]) -> list[Image]:
        """Those of the images that the rule passes for."""
        if not self._remote:
            return [image for image in images if self.allowed_image(actor, rule, image)]
        passes = together(lambda image: self.allowed_image(actor, rule, image), images)
        return list(compress(images, passes))

    def admin(self, actor: Actor) -> bool:
        """Whether the caller counts as an administrator."""
        return self.allowed(actor, "context_is_admin")

    def doubts(self) -> list[str]:
        """What an operator may have overlooked."""
        doubts = self._files.doubts() if self._files else []
        if "https" in self._remote and not self._options.remote_ssl_verify_server_crt:
            doubts.append("[oslo_policy] remote_ssl_verify_server_crt is off: any server may answer https: checks")
        anybody = Actor(user_id="somebody", project_id="some project", roles=frozenset({"member", "reader"}))
        if self.allowed(anybody, "tasks_api_access"):
            doubts.append("[oslo_policy] tasks_api_access is open to ordinary users, and with it the Tasks API")
        return doubts

    # --- rules that ask other servers --------------------------------------------------

    @property
    def remote(self) -> bool:
        """Whether any rule asks another server; if so, rules are judged inside `asking` only."""
        return bool(self._remote)

    async def asking(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do work that asks rules, from its beginning again whenever other servers have to be asked first."""
        return await self._servers.attempt(work)

    async def close(self) -> None:
        """Let go of the other servers."""
        await self._servers.close()


def _examine(parsed: Any, written: Mapping[str, Any]) -> None:
    """Say what is doubtful about an operator's rules; refuse what cannot be understood.

    Rules that lead back to themselves would never end: they are false.
    """
    referred = {check.match for rule in parsed.values() for check in _checks(rule) if _refers(check)}
    for name, expression in written.items():
        checks = list(_checks(parsed[name]))
        if sum(isinstance(check, kinds.FalseCheck) for check in checks) > str(expression).count("!"):
            raise ConfigError(f"policy rule {name}: '{expression}' cannot be understood")
        for check in checks:
            kind = getattr(check, "kind", None)
            if kind == "rule" and check.match not in parsed:
                log.warning("policy_rule_missing", rule=name, refers_to=check.match)
        if name not in DEFAULTS and name not in referred:
            log.warning("policy_rule_unknown", rule=name)
    for name in [name for name in parsed if _circular(name, parsed, ())]:
        log.warning("policy_rule_circular", rule=name)
        parsed[name] = oslo.Rules.from_dict({name: "!"})[name]


def _checks(check: Any) -> Iterator[Any]:
    """A check and all those that it is made of."""
    yield check
    for inner in (*(getattr(check, "rules", None) or ()), *filter(None, (getattr(check, "rule", None),))):
        yield from _checks(inner)


def _attributes(rule: Any, parsed: Any, above: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Names of the attributes of its target that a rule looks at: all that its checks substitute.

    None where one of them is of a kind that others have added, for it may look at anything.
    """
    found: dict[str, None] = {}
    for check in _checks(rule):
        if type(check) not in _PLAIN:
            return None
        match = getattr(check, "match", None)
        if isinstance(match, str):
            found.update(dict.fromkeys(_SUBSTITUTED.findall(match)))
            if _refers(check) and match not in above:
                try:
                    referred = parsed[match]  # or the default rule in its place
                except KeyError:
                    continue
                inner = _attributes(referred, parsed, (*above, match))
                if inner is None:
                    return None
                found.update(dict.fromkeys(inner))
    return tuple(found)


def _refers(check: Any) -> bool:
    return getattr(check, "kind", None) == "rule"


def _circular(name: str, parsed: Any, above: tuple[str, ...]) -> bool:
    if name in above:
        return True
    if name not in parsed:
        return False
    references = [check.match for check in _checks(parsed[name]) if _refers(check)]
    return any(_circular(reference, parsed, (*above, name)) for reference in references)


def _out_of_scope(actor: Actor) -> bool:
    """Whether the caller acts for a system or a domain: every rule here is about projects."""
    return bool(actor.system_scope or (actor.domain_id and not actor.project_id))


@lru_cache(maxsize=4096)
def credentials(actor: Actor) -> dict[str, Any]:
    """The caller's attributes under the names that rules use.

    A project that he has not is one that nothing belongs to: rules compare texts, so that "None" would be his project,
    and that of every image that nobody owns, or that is not shared with him.
    """
    return {
        "project_id": actor.project_id or _NO_PROJECT,
        "user_id": actor.user_id,
        "user_domain_id": actor.user_domain_id,
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
