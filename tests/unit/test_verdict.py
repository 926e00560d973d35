"""Judging bytes: every row of the contract's 12.2, every safety check of 12.3."""

from __future__ import annotations

import pytest

from kernel.errors import UnacceptableData
from kernel.events import Facts, Format
from kernel.verdict import Rules, Verdict, judge

SIZE = 100
HEADER = 4096
STRICT = Rules()
LENIENT = Rules(require_match=False)
WITH_HEADER = ("qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso")
WITHOUT_INSPECTOR = ("ami", "ari", "aki", "ploop")
GOOD_VMDK = "streamoptimized"


def found(name: str, **more: object) -> Format:
    """A format with a size in its header, and nothing against it."""
    fields = {"virtual_size": HEADER, **more}
    if name == "vmdk":
        fields.setdefault("variant", GOOD_VMDK)
    return Format(name=name, **fields)  # type: ignore[arg-type]


def verdict(declared: str | None, *formats: Format, rules: Rules = STRICT, size: int = SIZE) -> Verdict:
    return judge(declared, "bare", size, Facts(formats=formats), rules)


def refused(declared: str | None, *formats: Format, rules: Rules = STRICT, text: str = "") -> None:
    with pytest.raises(UnacceptableData) as caught:
        verdict(declared, *formats, rules=rules)
    assert text in str(caught.value)


# --- 12.1 ------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["ovf", "ova", "docker", "compressed", "ami", None])
def test_what_is_inside_another_container_is_stored_unseen(container: str | None) -> None:
    facts = Facts(formats=(found("qed"), found("luks", unsafe={"version": "x"})))
    assert judge("raw", container, SIZE, facts, STRICT) == Verdict((), None)


# --- 12.2, row by row ------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["qed", "raw", "qcow2", "iso", None])
@pytest.mark.parametrize("others", [(), (found("raw"),), (found("qcow2"),), (found("iso"), found("gpt"))])
@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["strict", "lenient"])
def test_qed_is_never_taken_alone_or_with_others(
    declared: str | None, others: tuple[Format, ...], rules: Rules
) -> None:
    refused(declared, found("qed"), *others, rules=rules, text="qed is not allowed")


def test_a_hybrid_iso_passes_as_iso_with_the_size_of_its_header() -> None:
    assert verdict("iso", found("iso"), found("gpt", virtual_size=1)) == Verdict(("gpt", "iso"), HEADER)


@pytest.mark.parametrize(
    ("declared", "formats"),
    [
        ("raw", ("iso", "gpt")),
        ("qcow2", ("iso", "gpt")),
        ("iso", ("iso", "qcow2")),
        ("iso", ("iso", "gpt", "vmdk")),
        ("vmdk", ("vmdk", "gpt")),
        ("raw", ("vhd", "gpt")),
    ],
)
@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["strict", "lenient"])
def test_several_formats_at_once_fail(declared: str, formats: tuple[str, ...], rules: Rules) -> None:
    text = f"multiple formats detected: {', '.join(sorted(formats))}"
    refused(declared, *map(found, formats), rules=rules, text=text)


@pytest.mark.parametrize("name", WITH_HEADER)
def test_the_declared_format_passes_with_the_size_of_its_header(name: str) -> None:
    assert verdict(name, found(name)) == Verdict((name,), HEADER)


@pytest.mark.parametrize("formats", [(), (found("raw"),)])
def test_raw_passes_as_raw_with_its_own_size(formats: tuple[Format, ...]) -> None:
    assert verdict("raw", *formats) == Verdict(("raw",), SIZE)


def test_a_partitioned_disk_passes_as_raw() -> None:
    assert verdict("raw", found("gpt")) == Verdict(("gpt",), SIZE)


@pytest.mark.parametrize("name", [*WITH_HEADER, "luks"])
def test_any_other_single_format_passes_as_raw_with_its_physical_size(name: str) -> None:
    assert verdict("raw", found(name)) == Verdict((name,), SIZE)


@pytest.mark.parametrize("declared", WITHOUT_INSPECTOR)
def test_formats_without_an_inspector_pass_if_nothing_is_recognised(declared: str) -> None:
    assert verdict(declared) == Verdict(("raw",), None)


@pytest.mark.parametrize("declared", [*WITH_HEADER, *WITHOUT_INSPECTOR])
@pytest.mark.parametrize("name", [*WITH_HEADER, "raw", "gpt", "luks"])
def test_anything_else_fails_unless_a_match_is_not_required(declared: str, name: str) -> None:
    if declared == name or (declared in WITHOUT_INSPECTOR and name == "raw"):
        return
    refused(declared, found(name), text=f"disk_format {declared} does not match stream data {name}")
    assert verdict(declared, found(name), rules=LENIENT) == Verdict((name,), None)


@pytest.mark.parametrize("name", WITH_HEADER)
def test_undeclared_data_is_what_its_header_says(name: str) -> None:
    assert verdict(None, found(name)) == Verdict((name,), HEADER, name)


def test_undeclared_data_without_a_header_is_raw_and_so_is_a_disk_with_partitions() -> None:
    assert verdict(None) == Verdict(("raw",), SIZE, "raw")
    assert verdict(None, found("gpt")) == Verdict(("gpt",), SIZE, "raw")
    assert verdict(None, found("iso"), found("gpt")) == Verdict(("gpt", "iso"), HEADER, "iso")


def test_undeclared_data_must_be_one_thing_that_the_site_takes() -> None:
    refused(None, found("qcow2"), found("vmdk"), text="multiple formats")
    refused(None, found("qcow2", unsafe={"backing_file": "is named"}), text="safety checks")
    refused(None, found("qcow2"), rules=Rules(disk_formats=frozenset({"raw"})), text="not among the disk formats")
    refused(None, found("luks"), rules=Rules(disk_formats=frozenset({"raw", "qcow2"})), text="luks")


def test_no_bytes_have_no_virtual_size() -> None:
    assert verdict("raw", size=0) == Verdict(("raw",), None)


# --- 12.3 ------------------------------------------------------------------------------

CHECKS = [
    ("qcow2", "backing_file"),
    ("qcow2", "data_file"),
    ("qcow2", "unknown_features"),
    ("qcow2", "version"),
    ("vmdk", "descriptor"),
    ("luks", "version"),
    ("gpt", "mbr"),
]


@pytest.mark.parametrize(("name", "check"), CHECKS)
@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["strict", "lenient"])
@pytest.mark.parametrize("declare_raw", [True, False])
def test_unsafe_data_fails_whatever_it_is_declared_to_be(
    name: str, check: str, rules: Rules, declare_raw: bool
) -> None:
    """CVE-2024-32498 and CVE-2022-47951 among them: a qcow2 or vmdk declared raw is looked at all the same."""
    unsafe = found(name, unsafe={check: "points at /etc/passwd"})
    refused("raw" if declare_raw else name, unsafe, rules=rules, text=f"{check}: points at /etc/passwd")


def test_every_failed_check_is_named() -> None:
    unsafe = found("qcow2", unsafe={"version": "is 1", "backing_file": "is named"})
    refused("qcow2", unsafe, text="qcow2 data failed its safety checks (backing_file: is named; version: is 1)")


@pytest.mark.parametrize("variant", ["monolithicflat", "twogbmaxextentsparse", "vmfs", "", None])
def test_a_vmdk_of_a_type_that_is_not_allowed_fails(variant: str | None) -> None:
    for declared in ("vmdk", "raw"):
        refused(declared, found("vmdk", variant=variant), text=f"create-type {variant or 'missing'} is not allowed")


@pytest.mark.parametrize("variant", ["streamoptimized", "monolithicsparse"])
def test_the_vmdk_types_allowed_by_default(variant: str) -> None:
    assert verdict("vmdk", found("vmdk", variant=variant)).detected == ("vmdk",)


def test_an_empty_list_of_vmdk_types_allows_none() -> None:
    refused("vmdk", found("vmdk"), rules=Rules(vmdk_types=frozenset()), text="is not allowed")


def test_a_tolerated_check_does_not_fail_and_others_still_do() -> None:
    tolerant = Rules(nonfatal=frozenset({"mbr"}))
    assert verdict("raw", found("gpt", unsafe={"mbr": "odd"}), rules=tolerant) == Verdict(("gpt",), SIZE)
    refused("raw", found("gpt", unsafe={"mbr": "odd", "other": "bad"}), rules=tolerant, text="(other: bad)")


@pytest.mark.parametrize("name", WITH_HEADER)
def test_a_disk_larger_than_any_can_be_is_refused(name: str) -> None:
    assert verdict(name, found(name, virtual_size=2**63 - 1)).virtual_size == 2**63 - 1
    for size in (2**63, 2**64 - 1, 2**73):
        for declared in (name, None):
            refused(declared, found(name, virtual_size=size), text=f"virtual size of {size} bytes")
