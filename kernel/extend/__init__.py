"""The doors: what a file in `stores/` or `plugins/` may export as `EXTENSION`.

Each door is a frozen value with a config model, a way to bring the thing to
life and a `selftest` that makes the contract suites cover it.  What ships in
the box comes in through the same doors as a stranger's package.
A file a door; all their names are here too.
"""

from __future__ import annotations

from kernel.extend.auth import AuthBackend, Authenticator
from kernel.extend.keys import KeyManager, KeySource
from kernel.extend.methods import Description, FetchRequest, ImportMethod, Opened
from kernel.extend.options import NoConfig
from kernel.extend.sinks import NotificationSink, Refused, Sink
from kernel.extend.steps import ImportStep, Limits, StepRequest, StepResult, Trial
from kernel.extend.stores import (
    AdoptsFiles,
    Leftover,
    LocalFiles,
    Retains,
    Store,
    Stored,
    StoreDriver,
    StoreSite,
    TakesForeign,
)

__all__ = [
    "AdoptsFiles",
    "AuthBackend",
    "Authenticator",
    "Description",
    "Extension",
    "FetchRequest",
    "ImportMethod",
    "ImportStep",
    "KeyManager",
    "KeySource",
    "Leftover",
    "Limits",
    "LocalFiles",
    "NoConfig",
    "NotificationSink",
    "Opened",
    "Refused",
    "Retains",
    "Sink",
    "StepRequest",
    "StepResult",
    "Store",
    "StoreDriver",
    "StoreSite",
    "Stored",
    "TakesForeign",
    "Trial",
]

Extension = StoreDriver | ImportMethod | ImportStep | NotificationSink | AuthBackend | KeyManager
