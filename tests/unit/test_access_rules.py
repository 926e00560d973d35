"""Which requests an application credential's access rules cover."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.auth._access_rules import permits


@pytest.mark.parametrize(
    ("pattern", "path", "covered"),
    [
        ("/v2/images", "/v2/images", True),
        ("/v2/images", "/v2/images/x", False),
        ("/v2/images/*", "/v2/images/x", True),
        ("/v2/images/*", "/v2/images/", False),
        ("/v2/images/*", "/v2/images/x/file", False),
        ("/v2/images/{image_id}/file", "/v2/images/x/file", True),
        ("/v2/images/{image_id}/file", "/v2/images/x/y/file", False),
        ("/v2/**", "/v2/images/x/file", True),
        ("/v2/**", "/v3/images", False),
        ("/v2/images.json", "/v2/imagesXjson", False),
        ("**", "/anything/at/all", True),
        ("**", "", True),
        ("/v2/**/file", "/v2/images/file/x/file", True),
        ("/v2/**/file", "/v2/images/file/x", False),
        ("/**/a*/**b", "/x/ac/a/ab/y/b", True),
        ("/**/a*/**b", "/x/a/b", False),
        ("/*-*-*", "/a-b--c", True),
        ("/*-*-*", "/a-b-", False),
        ("/*-*-*", "/a-/b-c", False),
        ("/*{x}", "/a", False),
        ("/*{x}", "/ab", True),
        ("/{}/{", "/a/{", True),
        ("", "", True),
        ("", "/", False),
    ],
)
def test_paths(pattern: str, path: str, covered: bool) -> None:
    rules = [{"service": "image", "method": "GET", "path": pattern}]
    assert permits(rules, "image", "GET", path) is covered
    assert not permits(rules, "image", "PUT", path)
    assert not permits(rules, "compute", "GET", path)


def test_no_restriction_and_nothing_permitted() -> None:
    assert permits(None, "image", "GET", "/x")
    assert not permits([], "image", "GET", "/x")


@pytest.mark.parametrize("pattern", ["/" + "**a" * 70 + "b", "/" + "*a" * 100 + "b", "/" + "{x}" * 70 + "/"])
def test_rules_that_match_in_many_ways_take_no_time(pattern: str) -> None:
    """The user who made such a rule may send such paths, too."""
    rules = [{"service": "image", "method": "GET", "path": pattern}]
    for length in (30, 2000, 60_000):
        assert not permits(rules, "image", "GET", "/" + "a" * length)


@given(st.text("a/*{}", max_size=8), st.text("a/{}", max_size=8))
def test_it_is_what_a_pattern_would_match(pattern: str, path: str) -> None:
    parts = re.split(r"(\*\*|\*|\{[^}]*\})", pattern)
    wild = {"**": ".*", "*": "[^/]+"}
    expression = "".join(
        "[^/]+" if re.fullmatch(r"\{[^}]*\}", part) else wild.get(part, re.escape(part)) for part in parts
    )
    rules = [{"service": "image", "method": "GET", "path": pattern}]
    assert permits(rules, "image", "GET", path) is (re.fullmatch(expression, path) is not None)
