"""Deciding: a command and a state give events, or a refusal.

Pure: every fact comes in with the command.  Each command has one short function,
in the module of the noun that it is about (the same as in `kernel.evolve`); a
test holds the tables to the list of commands.  Authorisation has already happened
at the edge, against the same state.

`guards` and `turns` decide nothing themselves: they refuse, for several of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kernel.commands import Command
from kernel.decide import cleanup, imports, life, locations, members, metadata, steps, stores, transfers
from kernel.decide.guards import check_unlocked, missing_formats
from kernel.decide.imports import check_importable, lock_expired
from kernel.decide.locations import check_registrable
from kernel.decide.table import Rule
from kernel.events import Event
from kernel.image import Image

__all__ = [
    "RULES",
    "check_importable",
    "check_registrable",
    "check_unlocked",
    "decide",
    "lock_expired",
    "missing_formats",
]

RULES: Final[dict[type[Command], Rule]] = {
    **life.RULES,
    **metadata.RULES,
    **members.RULES,
    **locations.RULES,
    **transfers.RULES,
    **imports.RULES,
    **steps.RULES,
    **stores.RULES,
    **cleanup.RULES,
}


def decide(command: Command, image: Image) -> Sequence[Event]:
    """The events that `command` causes in this state; raises what refuses it."""
    return RULES[type(command)](command, image)
