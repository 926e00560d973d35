"""What was met lately and may be wanted again: bounded in number and in weight."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Keeps the newest things, as many as there is room for; the newest of all, whatever it weighs."""

    def __init__(self, most: int, heaviest: int) -> None:
        """heaviest: what all of them may weigh together, in the unit of `put`."""
        self._most = most
        self._heaviest = heaviest
        self._things: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._things)

    def get(self, key: K) -> V | None:
        """What is kept under a key, if anything is."""
        found = self._things.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep something, now the newest, in place of what was kept under its key."""
        if key in self._things:
            self._weight -= self._things.pop(key)[1]
        self._things[key] = value, weight
        self._weight += weight
        while len(self._things) > 1 and (len(self._things) > self._most or self._weight > self._heaviest):
            self._weight -= self._things.popitem(last=False)[1][1]
