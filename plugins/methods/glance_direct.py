"""Import what was staged before by `PUT /v2/images/{id}/stage`."""

from __future__ import annotations

from kernel.extend import ImportMethod, NoConfig

EXTENSION = ImportMethod(name="glance-direct", options=NoConfig, needs="uploading", rank=10)
