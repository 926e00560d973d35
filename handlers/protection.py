"""Who may touch which custom property, by an operator's file.

Sections are regular expressions searched in the property's name, in file order; the
first match decides, and a name that none matches is nobody's.  Values are roles, or the
name of one policy rule; `@` is everybody, `!` nobody.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from handlers.policy import Policy
from handlers.remote_policy import together
from kernel.context import Actor
from kernel.errors import ConfigError
from kernel.patch import ALL_RIGHTS, SERVICE_PREFIX, Right
from kernel.settings import Settings

Passes = Callable[[Actor], bool]
"""Whether one right is the caller's."""

Rule = tuple[re.Pattern[str], Mapping[Right, Passes]]


class Protection:
    """Rules in the order of their file; None: everything is open."""

    def __init__(self, rules: list[Rule] | None = None) -> None:
        self._rules = rules
        self._matching = lru_cache(maxsize=4096)(self._match)

    @classmethod
    def of(cls, settings: Settings, policy: Policy) -> Protection:
        """As the settings name it; `ConfigError` if the file is faulty.  Blocking, for a moment."""
        named = settings.default.property_protection_file
        if named is None:
            return cls()
        path = next((found for place in settings.config_dirs if (found := place / named).is_file()), named)
        by_policies = settings.default.property_protection_rule_format == "policies"
        return cls(_read(path, _by_policy(policy) if by_policies else _by_roles))

    @property
    def active(self) -> bool:
        """Whether there are rules at all."""
        return self._rules is not None

    def allows(self, actor: Actor, right: Right, name: str) -> bool:
        """Whether the caller may create, read, update or delete a property of this name."""
        if self._rules is None or name.startswith(SERVICE_PREFIX):
            return True
        rights = self._matching(name)
        return rights is not None and rights[right](actor)

    def rights(self, actor: Actor, name: str) -> tuple[Right, ...]:
        """Everything the caller may do to a property of this name."""
        return tuple(right for right in ALL_RIGHTS if self.allows(actor, right, name))

    def rehearse(self, actor: Actor) -> None:
        """Judge everything once: rules that ask other servers do so now, and not after something was done."""
        together(
            lambda passes: passes(actor), [passes for _, rights in self._rules or () for passes in rights.values()]
        )

    def _match(self, name: str) -> Mapping[Right, Passes] | None:
        return next((rights for pattern, rights in self._rules or () if pattern.search(name)), None)


Parse = Callable[[str], Passes]
"""What is written for one right -> the check; raises `ValueError` saying what is wrong with it."""


def _read(path: Path, parse: Parse) -> list[Rule]:
    """The rules of a file; `ConfigError` naming the section and what is wrong with it."""
    where = f"[DEFAULT] property_protection_file {path}"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as lines:
            parser.read_file(lines)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    return [_rule(f"{where}: [{name}]", name, parser[name], parse) for name in parser.sections()]


def _rule(where: str, name: str, options: Mapping[str, str], parse: Parse) -> Rule:
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise ConfigError(f"{where} is no regular expression: {error}") from None
    missing = [right for right in ALL_RIGHTS if right not in options]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    rights: dict[Right, Passes] = {}
    for right in ALL_RIGHTS:
        try:
            rights[right] = parse(options[right])
        except ValueError as error:
            raise ConfigError(f"{where} {right}: {error}") from None
    return pattern, rights


def _everybody(actor: Actor) -> bool:
    return True


def _nobody(actor: Actor) -> bool:
    return False


_WORDS: Final[dict[str, Passes]] = {"@": _everybody, "!": _nobody}


def _by_roles(text: str) -> Passes:
    roles = frozenset(role for item in text.split(",") if (role := item.strip().lower()))
    if roles >= {"@", "!"}:
        raise ValueError("@ and ! cannot stand together")
    for word, passes in _WORDS.items():
        if word in roles:
            return passes
    return lambda actor: not roles.isdisjoint(actor.roles | actor.service_roles)


def _by_policy(policy: Policy) -> Parse:
    """The rule is asked anew each time, on an empty target, for policies change; one that is gone is nobody's."""

    def parse(text: str) -> Passes:
        names = [item.strip() for item in text.split(",") if item.strip()]
        if len(names) != 1:
            raise ValueError("must name exactly one policy rule")
        if names[0] in _WORDS:
            return _WORDS[names[0]]
        rule = names[0]
        if not policy.knows(rule):
            raise ValueError(f"there is no policy rule '{rule}'")
        return lambda actor: policy.knows(rule) and policy.allowed(actor, rule, {})

    return parse
