"""Hypothesis strategies from the types of structs: whatever an event or a command may hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import NODEFAULT, UNSET, Struct, UnsetType
from msgspec.structs import fields

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.sampled_from(["a", "b", "c"])
"""So few that things meet."""

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
_TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@cache
def of(kind: Any, text: SearchStrategy[str] = TEXT) -> SearchStrategy[Any]:
    """Values of a type: of a struct, or of anything a field of one is declared as."""
    simple: Mapping[Any, SearchStrategy[Any]] = {
        str: text,
        int: st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        NoneType: st.none(),
        UnsetType: st.just(UNSET),
        datetime: _TIMES,
        UUID: st.uuids(),
        Any: _JSON,
    }
    if kind in simple:
        return simple[kind]
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(kind, text)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return st.one_of([of(each, text) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(of(arguments[0], text), of(arguments[1], text), max_size=3)
    if origin is tuple and arguments[-1] is ...:
        return st.lists(of(arguments[0], text), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(of(each, text) for each in arguments))
    raise NotImplementedError(f"no values of {kind} are known")


def _struct(kind: type[Struct], text: SearchStrategy[str]) -> SearchStrategy[Any]:
    """A struct with every required field, and any of the others."""
    required: dict[str, SearchStrategy[Any]] = {}
    optional: dict[str, SearchStrategy[Any]] = {}
    for field in fields(kind):
        needed = field.default is NODEFAULT and field.default_factory is NODEFAULT
        (required if needed else optional)[field.name] = of(field.type, text)
    return st.fixed_dictionaries(required, optional=optional).map(lambda values: kind(**values))
