"""What is allowed but probably not meant: said in the log of the start, and by `entrepot config check`.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernel.extend import ImportMethod, ImportStep
from kernel.registry import Registry


def about_plugins(steps: Mapping[str, ImportStep], registry: Registry) -> list[str]:
    """What an operator may have overlooked about the plugins."""
    option, order = "[image_import_opts] image_import_plugins", list(steps)
    doubts = [f"{option}: {name}: {warning}" for name, step in steps.items() for warning in step.warnings()]
    doubts += [
        f"{option}: {name} is listed before {other}, and does not see what that makes of the data"
        for place, name in enumerate(order)
        for other in sorted(steps[name].after.intersection(order[place + 1 :]))
    ]
    doubts += [
        f"{option}: {name} is that of {registry.origins[id(steps[name])]}; {origin} has the same name and is not used"
        for name, origin in registry.shadowed.items()
        if name in steps
    ]
    return doubts


def about_methods(methods: Mapping[str, ImportMethod], configs: Mapping[str, Any]) -> list[str]:
    """What the import methods have to say of how they are configured; several may share options, and then agree."""
    doubts = [doubt for name, method in methods.items() for doubt in method.warnings(configs[f"method:{name}"])]
    return list(dict.fromkeys(doubts))
