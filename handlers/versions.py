"""The versions document, and which version strings a path may begin with.  Pure."""

from __future__ import annotations

from typing import Any

from kernel.settings import Settings

_ALWAYS = ("2.17", "2.15", "2.9", "2.7", "2.6", "2.5", "2.4", "2.3", "2.2", "2.1", "2.0")
_STORES = ("2.13", "2.12", "2.11", "2.10", "2.8")


def advertised(settings: Settings) -> dict[str, str]:
    """Minor versions of this site and their statuses, newest first.

    The cache minors (2.14, 2.16, 2.18) are never among them: there is no cache API
    here, and leaving them out is how a site says so.
    """
    importing = settings.default.enable_image_import
    if settings.default.api_version_profile == "pike":
        versions = {"2.6": "EXPERIMENTAL"} if importing else {}
        return {**versions, "2.5": "CURRENT", **{f"2.{minor}": "SUPPORTED" for minor in range(4, -1, -1)}}
    names = {*_ALWAYS, *(_STORES if settings.default.enabled_backends else ())}
    if not importing:
        names.discard("2.6")
    ordered = sorted(names, key=lambda name: -int(name.partition(".")[2]))
    return {name: "CURRENT" if name == "2.17" else "SUPPORTED" for name in ordered}


def document(settings: Settings, base_url: str) -> dict[str, Any]:
    """What `GET /versions` says."""
    href = f"{(settings.default.public_endpoint or base_url).rstrip('/')}/v2/"
    return {
        "versions": [
            {"id": f"v{name}", "status": status, "links": [{"rel": "self", "href": href}]}
            for name, status in advertised(settings).items()
        ]
    }


def allowed(settings: Settings) -> frozenset[str]:
    """First path segments under which the API is served."""
    return frozenset({"v2", *(f"v{name}" for name in advertised(settings))})
