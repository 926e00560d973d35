"""The 117 requirements of the import contract, in our words, and the tests that show them.

    python -m tests.requirements           run the marked tests, print requirement → tests → passed
    python -m tests.requirements --list    the same without running anything

A test shows a requirement by `@pytest.mark.requirement("REQ-045")`.  What is no behaviour (a
purpose, a use case, an open question) is answered by a sentence here instead.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

import pytest

REQUIREMENTS: Final[dict[str, str]] = {
    "REQ-001": "minor version 2.6 brings import; experimental at first (profile pike)",
    "REQ-002": "2.6 brings the import calls, as an ordinary version later",
    "REQ-003": "enable_image_import decides whether there is import; off by default in the pike profile",
    "REQ-004": "import off: the list of versions leaves v2.6 out",
    "REQ-005": "import off: its URIs are 404, as before they existed",
    "REQ-006": "import runs on tasks, but the Tasks API need not be open to users",
    "REQ-007": "task_executor is taskflow, written or by default",
    "REQ-008": "the defaults of [taskflow_executor] do; a sample explains its options",
    "REQ-009": "node_staging_uri must be a place that the service can write",
    "REQ-010": "nodes share the staging area",
    "REQ-011": "tasks are made and changed for users who may not use the Tasks API",
    "REQ-012": "tasks_api_access alone guards the Tasks API, the other task rules may be open",
    "REQ-013": "the recommended task rules load from a JSON policy file",
    "REQ-014": "import takes staged data, processes it and stores it",
    "REQ-015": "processing is made to measure with plugins: ours, strangers', one's own",
    "REQ-016": "plugins are listed in glance-image-import.conf",
    "REQ-017": "plugins register in glance.image_import.plugins as name = module:get_flow",
    "REQ-018": "a plugin goes by the name of its file",
    "REQ-019": "get_flow returns a task in a linear flow",
    "REQ-020": "no_op is there as an example",
    "REQ-021": "image_import_plugins is a list, run in its order",
    "REQ-022": "what end users do is stage, import and info/import, as the API reference shows",
    "REQ-023": "inject_image_metadata is switched on by naming it in image_import_plugins",
    "REQ-024": "its options are ignore_user_roles and inject in [inject_metadata_properties]",
    "REQ-025": "those options do nothing while the plugin is not listed",
    "REQ-026": "whoever has an ignored role gets nothing injected",
    "REQ-027": "inject holds quoted property:value pairs between commas",
    "REQ-028": "images that ordinary users import get the properties",
    "REQ-029": "plugins act on imports only, never on an upload",
    "REQ-030": "upload_image is open by default; closing it makes users import",
    "REQ-031": "a rule of role:, service_user_id: and service_roles: works, over two lines too",
    "REQ-032": "property protections go together with injection",
    "REQ-033": "users then can neither make, change nor delete the injected property",
    "REQ-034": "glance-image-import.conf may be missing; a sample exists",
    "REQ-035": "enabled_import_methods in [DEFAULT] decides which methods there are",
    "REQ-036": "which methods are on by default (the sources contradict one another)",
    "REQ-037": "lists may be written ['a','b']",
    "REQ-038": "glance-direct: users send the data themselves",
    "REQ-039": "web-download: data comes from a URL",
    "REQ-040": "it takes the place of v1's copy-from; v1 is gone",
    "REQ-041": "web-download downloads into the staging area",
    "REQ-042": "every method runs the same plugins",
    "REQ-043": "copy-image copies an existing image to further stores, where there are several",
    "REQ-044": "operators restrict the URIs that may be fetched",
    "REQ-045": "six options do it: allow and deny for scheme, host, port",
    "REQ-046": "where both lists of a level are set, the deny list is ignored",
    "REQ-047": "first the scheme: missing refuses; allow; deny",
    "REQ-048": "then the host: missing refuses; allow; deny",
    "REQ-049": "then the port, if the URI has one: allow; deny",
    "REQ-050": "a URI without a port is fine when its scheme is",
    "REQ-051": "by default http and https, ports 80 and 443, nothing else restricted",
    "REQ-052": "a copy goes to all stores or to a list of them",
    "REQ-053": "copy to all: stores that have the image are left out silently",
    "REQ-054": "copy to named stores: refused if one has the image",
    "REQ-055": "copy to all: the read-only http store is left out",
    "REQ-056": "import to all: the read-only http store is left out",
    "REQ-057": "so http neither stops an import to all nor shows up as failed",
    "REQ-058": "a copy is staged from one place that has it, then goes the usual way",
    "REQ-059": "operators copy, and users where the policy lets them",
    "REQ-060": "one request imports into several stores",
    "REQ-061": "must-succeed false: active with the first store that succeeds",
    "REQ-062": "must-succeed true, the default: active when all stores have succeeded",
    "REQ-063": "stores are written one after another",
    "REQ-064": "os_glance_importing_to_stores begins full; a store leaves when it is done with",
    "REQ-065": "os_glance_failed_import begins empty; a store that fails enters",
    "REQ-066": "both are reserved properties of the image",
    "REQ-067": "both are arrays in the notifications",
    "REQ-068": "the documented body (method, stores, must-succeed false) works",
    "REQ-069": "the documented end: task success, image active, second store failed",
    "REQ-070": "the documented image.prepare: status importing, store, both lists",
    "REQ-071": "the documented image.upload: status active, store, list already shorter",
    "REQ-072": "the documented second image.prepare: status active",
    "REQ-073": "the documented image.upload of priority ERROR: payload is text",
    "REQ-074": "messages have priority, event_type, timestamp, payload, message_id",
    "REQ-075": "image_conversion with output_format, raw by default, section optional",
    "REQ-076": "what is converted must be something qemu-img can read",
    "REQ-077": "qemu-img failing fails the import",
    "REQ-078": "purpose: every image raw, for Ceph say",
    "REQ-079": "several plugins in one list never run at once",
    "REQ-080": "image_decompression unpacks zip, lha/lzh and gzip",
    "REQ-081": "archives in archives (tar.gz) are not unpacked through",
    "REQ-082": "without lhafile only imports of lha files fail",
    "REQ-083": "container_format compressed is left alone",
    "REQ-084": "decompression comes before conversion, by the order of the list",
    "REQ-085": "use case: compressed images by web-download",
    "REQ-086": "use case: injected properties place virtual machines on certain hosts",
    "REQ-087": "a mixed list: injection, then conversion",
    "REQ-088": "a resource of its own for end users' imports",
    "REQ-089": "bits that are no image are refused before they become one",
    "REQ-090": "incoming data must not disturb serving images; it may be pushed to the periphery",
    "REQ-091": "unlike copy-from and locations, imported bits are not trusted",
    "REQ-092": "POST /v2/image-imports with location and image_properties (name, tags)",
    "REQ-093": "it answers 201 with the Location of the new resource",
    "REQ-094": "GET polls it: waiting, uploading, verifying, and what else is needed",
    "REQ-095": "while it runs: status and image_properties",
    "REQ-096": "success: status, image_ref instead of image_properties, expires-by",
    "REQ-097": "failure: status, message, expires-by, image_properties",
    "REQ-098": "expires-by ends in +0000, and then the resource goes away",
    "REQ-099": "the message says which HTTP status came for which URL, for instance",
    "REQ-100": "image_properties are echoed and make the image",
    "REQ-101": "failures leave no image, the image list stays clean, statuses stay as they are",
    "REQ-102": "after success the image is active with its name and tags",
    "REQ-103": "in order: create, fetch, verify, make the image, record result and expiry",
    "REQ-104": "how to verify is the provider's choice, conversion included",
    "REQ-105": "imports have an owner; users cannot see one another's",
    "REQ-106": "GET of the collection lists the caller's imports",
    "REQ-107": "JSON schemas for request and response, statuses enumerated",
    "REQ-108": "POST and GET are defined",
    "REQ-109": "open question: direct upload into the resource",
    "REQ-110": "open question: which statuses",
    "REQ-111": "open question: one resource for all image actions",
    "REQ-112": "open question: what validation is, and whether the owner is shown",
    "REQ-113": "superseded by import on tasks",
    "REQ-114": "plugins lie one file each in the plugins folder and in packaging metadata; ours already do",
    "REQ-115": "each plugin is documented with release, configuration file and section",
    "REQ-116": "progress shows on the image while stores are written",
    "REQ-117": "what is stored need not be what came: it may be unpacked and converted",
}
"""Id -> what is required."""

ANSWERS: Final[dict[str, str]] = {
    "REQ-022": "A signpost: IM07, IM13 and IM34 walk through the three calls.",
    "REQ-036": "Both of the import methods' defaults cannot hold; the newer text wins: all three (IM05).",
    "REQ-078": "A purpose: image_conversion with output_format raw does it (IM82).",
    "REQ-085": "A use case: IM77 unpacks what web-download brought.",
    "REQ-086": "A use case: the properties are ordinary ones (IM75), which nova's scheduler reads.",
    "REQ-090": "A purpose: `--role worker` nodes fetch, unpack, convert, verify; those of `--role api` only serve.",
    "REQ-109": "Answered by PUT stage and glance-direct; the resource itself takes locations only.",
    "REQ-110": "Answered by five: waiting, uploading, verifying, success, failure (IM102, IM106).",
    "REQ-111": "Answered by no: the Tasks API is that resource, and image-imports stays one for imports.",
    "REQ-112": "Answered by import's own inspection and plugins, and by showing no owner.",
    "REQ-113": "Both exist: POST import and the tasks behind it, and image-imports on the same machinery.",
}
"""Id -> where what is no behaviour of the service is answered."""


@dataclass
class Shown:
    """What became of the tests that show one requirement."""

    tests: dict[str, bool | None] = field(default_factory=dict)
    """Test without its parameters -> whether all of it passed; None: it did not run."""

    @property
    def verdict(self) -> str:
        outcomes = set(self.tests.values())
        if not outcomes:
            return "missing"
        if False in outcomes:
            return "FAILED"
        return "not run" if None in outcomes else "passed"


class Table:
    """A pytest plugin that watches the marked tests."""

    def __init__(self) -> None:
        self.shown = {name: Shown() for name in REQUIREMENTS}
        self.unknown: set[str] = set()
        self._ids: dict[str, tuple[str, ...]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            ids = tuple(name for mark in item.iter_markers("requirement") for name in mark.args)
            self._ids[item.nodeid] = ids
            for name in ids:
                if name in self.shown:
                    self.shown[name].tests.setdefault(_function(item.nodeid))
                else:
                    self.unknown.add(name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when != "call":
            return
        for name in self._ids.get(report.nodeid, ()):
            tests, function = self.shown[name].tests, _function(report.nodeid)
            tests[function] = report.passed and tests[function] is not False

    def lines(self) -> list[str]:
        """One for each requirement, and a total."""
        counts: dict[str, int] = {}
        lines = []
        for name, wording in REQUIREMENTS.items():
            shown = self.shown[name]
            verdict = shown.verdict
            if verdict == "missing" and name in ANSWERS:
                verdict = "answered"
            counts[verdict] = counts.get(verdict, 0) + 1
            tests = ", ".join(_short(test) for test in sorted(shown.tests))
            proof = " ".join(filter(None, (ANSWERS.get(name), tests)))
            lines.append(f"{name}  {verdict:<8}  {wording}  ←  {proof or '-'}")
        total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        return [*lines, f"{len(REQUIREMENTS)} requirements: {total}"]

    @property
    def complete(self) -> bool:
        """Whether every requirement is shown by passing tests or answered."""
        return not self.unknown and all(
            shown.verdict == "passed" or (not shown.tests and name in ANSWERS) for name, shown in self.shown.items()
        )


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def _short(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{path.rpartition('/')[2].removesuffix('.py')}::{name}"


def main(arguments: list[str]) -> int:
    table = Table()
    listing = "--list" in arguments
    more = [argument for argument in arguments if argument != "--list"]
    quiet = ["--collect-only", "-qq"] if listing else ["-q"]
    code = pytest.main(["-m", "requirement", *quiet, *more], plugins=[table])
    print("\n".join(["", *table.lines(), *(f"no such requirement: {name}" for name in sorted(table.unknown))]))
    if listing:
        return 0
    return 0 if code == pytest.ExitCode.OK and table.complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
