"""The form of the tables in this package: each event's type with the function that folds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kernel.events import Event
from kernel.image import Image
from kernel.recorded import Meta

E = TypeVar("E", bound=Event)
Rule = Callable[[Image, Any, Meta], Image]


class Table(dict[type[Event], Rule]):
    """The rules of one module; `kernel.evolve` puts them together."""

    def on(self, kind: type[E]) -> Callable[[Callable[[Image, E, Meta], Image]], Callable[[Image, E, Meta], Image]]:
        """Register the function that folds events of one type."""

        def register(rule: Callable[[Image, E, Meta], Image]) -> Callable[[Image, E, Meta], Image]:
            self[kind] = rule
            return rule

        return register
