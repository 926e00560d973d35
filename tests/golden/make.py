"""Write a golden file for every sample that has none: `python -m tests.golden.make`.  Never overwrites one."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from kernel.codec import encode, version_of
from tests.golden.samples import EXPECTED, META

EVENTS = Path(__file__).parent / "events"


def document(name: str) -> bytes:
    """The file of one sample: the event and its circumstances, as the log holds them."""
    kind, version = name.rsplit(".v", 1)
    if int(version) != version_of(kind):
        raise SystemExit(f"{name}: this version writes v{version_of(kind)}; an old shape can only be kept, not made")
    meta = META if version == "1" else replace(META, v=int(version))
    parts = {"data": msgspec.Raw(encode(EXPECTED[name])), "meta": msgspec.Raw(encode(meta))}
    return msgspec.json.format(encode(parts)) + b"\n"


def main() -> None:
    EVENTS.mkdir(exist_ok=True)
    for name in EXPECTED:
        path = EVENTS / f"{name}.json"
        if not path.exists():
            path.write_bytes(document(name))
            print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
