"""The form of the tables in this package: each command's type with the function that decides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kernel.commands import Command
from kernel.events import Event
from kernel.image import Image

C = TypeVar("C", bound=Command)
Rule = Callable[[Any, Image], Sequence[Event]]


class Table(dict[type[Command], Rule]):
    """The rules of one module; `kernel.decide` puts them together."""

    def on(
        self, kind: type[C]
    ) -> Callable[[Callable[[C, Image], Sequence[Event]]], Callable[[C, Image], Sequence[Event]]]:
        """Register the function that decides commands of one type."""

        def register(rule: Callable[[C, Image], Sequence[Event]]) -> Callable[[C, Image], Sequence[Event]]:
            self[kind] = rule
            return rule

        return register
