"""Judging inspected bytes: are they what they are declared to be, and safe?

Pure.  The rows are those of the contract (import 12.2); the first that matches decides.
"""

from __future__ import annotations

from msgspec import Struct

from kernel.errors import UnacceptableData
from kernel.events import Facts, Format

_WITH_HEADER = frozenset({"qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso"})
_WITHOUT_INSPECTOR = frozenset({"ami", "ari", "aki", "ploop"})


class Rules(Struct, frozen=True):
    """The site's strictness."""

    require_match: bool = True
    vmdk_types: frozenset[str] = frozenset({"streamoptimized", "monolithicsparse"})
    nonfatal: frozenset[str] = frozenset()
    """Safety checks whose failure is tolerated."""


class Verdict(Struct, frozen=True):
    detected: tuple[str, ...]
    virtual_size: int | None


def judge(
    disk_format: str | None, container_format: str | None, size: int, facts: Facts | None, rules: Rules
) -> Verdict:
    """Pass the data or raise `UnacceptableData` naming what is wrong.

    Only `bare` containers are looked into; whatever is inside another one is stored unseen.
    """
    if container_format != "bare" or facts is None:
        return Verdict((), None)
    formats = {item.name: item for item in facts.formats if item.name != "raw"}
    detected = tuple(sorted(formats)) or ("raw",)
    if "qed" in formats:
        raise UnacceptableData("disk format qed is not allowed")
    if set(formats) == {"iso", "gpt"} and disk_format == "iso":
        return Verdict(detected, formats["iso"].virtual_size)
    if len(formats) > 1:
        raise UnacceptableData(f"multiple formats detected: {', '.join(detected)}")
    found = detected[0]
    whole = size or None
    if found != "raw":
        _must_be_safe(formats[found], rules)
    if found == disk_format and found in _WITH_HEADER:
        return Verdict(detected, formats[found].virtual_size)
    if disk_format == "raw":
        return Verdict(detected, whole)
    if found == "raw" and disk_format in _WITHOUT_INSPECTOR:
        return Verdict(detected, None)
    if rules.require_match:
        raise UnacceptableData(f"disk_format {disk_format} does not match stream data {found}")
    return Verdict(detected, None)


def _must_be_safe(found: Format, rules: Rules) -> None:
    unsafe = {check: why for check, why in found.unsafe.items() if check not in rules.nonfatal}
    if found.name == "vmdk" and found.variant not in rules.vmdk_types:
        unsafe["subformat"] = f"create-type {found.variant or 'missing'} is not allowed"
    if unsafe:
        reasons = "; ".join(f"{check}: {why}" for check, why in sorted(unsafe.items()))
        raise UnacceptableData(f"{found.name} data failed its safety checks ({reasons})")
