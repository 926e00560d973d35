"""The operator's policy files: found, read whole, and read again when one of them changes.

A file that cannot be understood refuses the start; later it is reported, and the rules
that were good last stay in force.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from oslo_policy import policy as oslo

from kernel.errors import ConfigError
from kernel.settings import Settings

log = structlog.get_logger(__name__)

logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)  # what is wrong with a rule we say ourselves

Rules = Mapping[str, Any]
"""Rule name -> expression: text, or the old syntax of lists."""

_FORMER_NAME: Final = "policy.json"

EVERY: Final = 1.0
"""Seconds between two looks at the files' time stamps."""


class PolicyFiles:
    """What `[oslo_policy]` names, relative to the configuration's directories."""

    def __init__(self, settings: Settings, every: float = EVERY) -> None:
        self._options = settings.oslo_policy
        self._places = settings.config_dirs or (Path(),)
        self._explicit = ("oslo_policy", "policy_file") in settings.origin
        self._every = every
        self._next_look = 0.0
        self._stamp: object = None

    def read(self) -> Rules:
        """All rules, later files over earlier ones; `ConfigError` naming the file that is faulty."""
        paths = self._paths()
        self._stamp = _stamp(paths)
        if self._explicit and not any(path.is_file() for path in self._candidates(self._options.policy_file)):
            log.warning("policy_file_missing", policy_file=self._options.policy_file)
        rules: dict[str, Any] = {}
        for path in paths:
            rules |= _read(path)
        return rules

    def changed(self) -> bool:
        """Whether any file came, went or was written since the last `read`; looks at most every so often."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + self._every
        return _stamp(self._paths()) != self._stamp

    def doubts(self) -> list[str]:
        """A file under the name that it had by default in earlier releases, which nobody reads any more."""
        if any(path.is_file() for path in self._candidates(self._options.policy_file)):
            return []
        option = "[oslo_policy] policy_file"
        return [
            f"{option}: {path} is not read, unless it is named here: without, the file is {self._options.policy_file}"
            for path in self._candidates(_FORMER_NAME)
            if path.is_file()
        ]

    def _paths(self) -> list[Path]:
        main = [path for path in self._candidates(self._options.policy_file) if path.is_file()][:1]
        for name in self._options.policy_dirs:
            directory = next((path for path in self._candidates(name) if path.is_dir()), None)
            if directory is not None:
                main += sorted(path for path in directory.iterdir() if path.is_file() and path.name[0] != ".")
        return main

    def _candidates(self, name: str) -> Iterable[Path]:
        return (place / name for place in self._places)


def _stamp(paths: Iterable[Path]) -> object:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        document = oslo.parse_file_contents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The policy file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # YAML's faults, and bytes that are no UTF-8
        raise ConfigError(f"The policy file {path} is faulty: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"The policy file {path} is faulty: it must hold rule names with their expressions")
    for name, expression in document.items():
        if not isinstance(name, str) or not _is_expression(expression):
            raise ConfigError(f"The policy file {path} is faulty: rule {name}: '{expression}' is no expression")
    return document


def _is_expression(value: Any) -> bool:
    """Text, or a list of texts and lists of texts.  Nothing at all is more likely a slip than 'always'."""
    if isinstance(value, str):
        return True
    return isinstance(value, list) and all(
        isinstance(item, str) or (isinstance(item, list) and all(isinstance(inner, str) for inner in item))
        for item in value
    )
