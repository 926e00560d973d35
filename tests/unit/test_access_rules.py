"""Which requests an application credential's access rules cover."""

from __future__ import annotations

import pytest

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
