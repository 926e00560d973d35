"""Copy an active image to further stores; the image stays what it is.

The kernel does the copying, from store to store: a copy has no source to open and no
data to look at, only stores to write.
"""

from __future__ import annotations

from kernel.extend import ImportMethod, NoConfig

EXTENSION = ImportMethod(
    name="copy-image",
    options=NoConfig,
    needs="active",
    rule="copy_image",
    rank=30,
    copies=True,
)
