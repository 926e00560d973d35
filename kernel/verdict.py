"""Judging inspected bytes: are they what they are declared to be, and safe?

Pure.  The rows are those of the contract (import 12.2); the first that matches decides.
"""

from __future__ import annotations

from msgspec import Struct

from kernel.errors import UnacceptableData
from kernel.events import Facts, Format

_WITH_HEADER = frozenset({"qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso"})
_WITHOUT_INSPECTOR = frozenset({"ami", "ari", "aki", "ploop"})

_LARGEST = (1 << 63) - 1
"""Bytes of the largest disk that anybody can address, and that can be recorded; headers may say more."""


class Rules(Struct, frozen=True):
    """The site's strictness."""

    require_match: bool = True
    vmdk_types: frozenset[str] = frozenset({"streamoptimized", "monolithicsparse"})
    nonfatal: frozenset[str] = frozenset()
    """Safety checks whose failure is tolerated."""
    disk_formats: frozenset[str] = frozenset()
    """What images may be found to be, if nobody has declared it; empty is anything."""


class Verdict(Struct, frozen=True):
    detected: tuple[str, ...]
    virtual_size: int | None
    disk_format: str | None = None
    """What the data turned out to be, if nobody had declared it."""


def judge(
    disk_format: str | None, container_format: str | None, size: int, facts: Facts | None, rules: Rules
) -> Verdict:
    """Pass the data or raise `UnacceptableData` naming what is wrong.

    Only `bare` containers are looked into; whatever is inside another one is stored unseen.
    """
    if container_format != "bare" or facts is None:
        return Verdict((), None)
    if disk_format is None:
        return _recognised(size, facts, rules)
    hybrid = {item.name: item for item in facts.formats if item.name != "raw"}
    if disk_format == "iso" and set(hybrid) == {"iso", "gpt"}:
        return Verdict(tuple(sorted(hybrid)), hybrid["iso"].virtual_size)
    seen = the_format(facts, rules)
    found, detected = seen.name, (seen.name,)
    whole = size or None
    if found == disk_format and found in _WITH_HEADER:
        return Verdict(detected, seen.virtual_size)
    if disk_format == "raw":
        return Verdict(detected, whole)
    if found == "raw" and disk_format in _WITHOUT_INSPECTOR:
        return Verdict(detected, None)
    if rules.require_match:
        raise UnacceptableData(f"disk_format {disk_format} does not match stream data {found}")
    return Verdict(detected, None)


def _recognised(size: int, facts: Facts, rules: Rules) -> Verdict:
    """The format that undeclared data has: a disk with partitions is raw, an image that is both is an ISO."""
    names = {item.name for item in facts.formats} - {"raw"}
    found = "iso" if names == {"iso", "gpt"} else the_format(facts, rules).name
    found = "raw" if found == "gpt" else found
    if rules.disk_formats and found not in rules.disk_formats:
        raise UnacceptableData(f"the data is {found}, which is not among the disk formats of this site")
    verdict = judge(found, "bare", size, facts, rules)
    return Verdict(verdict.detected, verdict.virtual_size, found)


def the_format(facts: Facts, rules: Rules) -> Format:
    """The one format that the bytes have, `raw` if none; `UnacceptableData` if they have several or are unsafe."""
    found = sorted((item for item in facts.formats if item.name != "raw"), key=lambda item: item.name)
    if any(item.name == "qed" for item in found):
        raise UnacceptableData("disk format qed is not allowed")
    if len(found) > 1:
        raise UnacceptableData(f"multiple formats detected: {', '.join(item.name for item in found)}")
    if not found:
        return Format(name="raw")
    _must_be_safe(found[0], rules)
    return found[0]


def _must_be_safe(found: Format, rules: Rules) -> None:
    if (found.virtual_size or 0) > _LARGEST:
        raise UnacceptableData(f"{found.name} data claims a virtual size of {found.virtual_size} bytes")
    unsafe = {check: why for check, why in found.unsafe.items() if check not in rules.nonfatal}
    if found.name == "vmdk" and found.variant not in rules.vmdk_types:
        unsafe["subformat"] = f"create-type {found.variant or 'missing'} is not allowed"
    if unsafe:
        reasons = "; ".join(f"{check}: {why}" for check, why in sorted(unsafe.items()))
        raise UnacceptableData(f"{found.name} data failed its safety checks ({reasons})")
