"""What schemathesis has to be told of this API: patches are JSON under names of their own."""

from __future__ import annotations

import schemathesis

from handlers.patching import NEW, OLD

schemathesis.serializer.alias([NEW, OLD], "application/json")
