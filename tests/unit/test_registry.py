"""Two extensions under one name: a fault, unless one of them yields."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import plugins.steps
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


@pytest.mark.requirement("REQ-018", "REQ-114")
def test_a_plugin_of_ours_is_one_file_of_its_name() -> None:
    found = {}
    for module in pkgutil.iter_modules(plugins.steps.__path__):
        extension = getattr(importlib.import_module(f"plugins.steps.{module.name}"), "EXTENSION", None)
        if extension is not None:
            found[module.name] = extension.name
    assert {"no_op", "inject_image_metadata", "image_decompression", "image_conversion"} <= set(found)
    assert list(found) == list(found.values())
