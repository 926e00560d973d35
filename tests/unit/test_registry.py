"""Two extensions under one name: a fault, unless one of them yields."""

from __future__ import annotations

import pytest

from kernel.errors import ConfigError
from kernel.extend import ImportStep, StepRequest, StepResult
from kernel.registry import Registry


async def run(request: StepRequest) -> StepResult:
    return StepResult()


def step(*, yields: bool = False, origin: str | None = None) -> ImportStep:
    return ImportStep(name="twice", run=run, yields=yields, origin=origin)


def test_two_of_one_name_are_a_fault() -> None:
    registry = Registry()
    registry.add(step(), "here")
    with pytest.raises(ConfigError, match="'twice' comes twice: from here and from there"):
        registry.add(step(), "there")


@pytest.mark.parametrize("first", [True, False])
def test_one_that_yields_gives_way_whichever_comes_first(first: bool) -> None:
    registry, ours, theirs = Registry(), step(), step(yields=True, origin="somewhere else")
    for extension in (theirs, ours) if first else (ours, theirs):
        registry.add(extension, "here")
    assert registry.steps == {"twice": ours}
    assert registry.origins[id(ours)] == "here"
    assert registry.shadowed == {"twice": "somewhere else"}


def test_alone_it_is_as_good_as_any() -> None:
    registry, theirs = Registry(), step(yields=True, origin="somewhere else")
    registry.add(theirs, "here")
    assert registry.steps == {"twice": theirs}
    assert registry.origins[id(theirs)] == "somewhere else"
    assert registry.shadowed == {}
