"""Caches that many things, or few heavy ones, fill."""

from __future__ import annotations

from kernel.kept import Kept


def kept(cache: Kept[str, int]) -> dict[str, int | None]:
    return {key: cache.get(key) for key in "abcd" if cache.get(key) is not None}


def test_the_oldest_goes_when_there_are_too_many() -> None:
    cache = Kept[str, int](2, 100)
    for number, key in enumerate("abc"):
        cache.put(key, number, 1)
    assert kept(cache) == {"b": 1, "c": 2}
    cache.put("b", 7, 1)
    cache.put("d", 3, 1)
    assert kept(cache) == {"b": 7, "d": 3}


def test_the_oldest_go_when_all_weigh_too_much() -> None:
    cache = Kept[str, int](9, 10)
    for number, key in enumerate("abc"):
        cache.put(key, number, 4)
    assert kept(cache) == {"b": 1, "c": 2}
    cache.put("b", 5, 6)
    assert kept(cache) == {"b": 5, "c": 2}
    cache.put("d", 6, 11)
    assert kept(cache) == {"d": 6}
    cache.put("a", 7, 1)
    assert (kept(cache), len(cache)) == ({"a": 7}, 1)
