"""The clients of OpenStack, unmodified, as their commands run: one process, a fresh shell for every command."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import openstack
from glanceclient.shell import OpenStackImagesShell
from openstackclient.shell import OpenStackShell

ANYBODY = "00000000000000000000000000000000"
"""The project that images are shared with where there is no Keystone to know one."""


@dataclass(frozen=True)
class Cloud:
    """Where the clients are to go, and how they prove who they are."""

    url: str | None = None
    """An endpoint without Keystone; else `name` is a cloud of clouds.yaml."""
    name: str | None = None
    other: str | None = None
    """A cloud of clouds.yaml in another project, which images are shared with."""
    admin: str | None = None
    """A cloud of clouds.yaml for what only administrators may."""

    @property
    def administered(self) -> Cloud | None:
        """The cloud as an administrator sees it; without Keystone everybody is one."""
        if self.url is not None:
            return self
        return replace(self, name=self.admin) if self.admin else None

    def openstack(self, *words: str, parsed: bool = True) -> Any:
        """A command of python-openstackclient; its output, decoded."""
        said = _run(
            lambda words: OpenStackShell().run(words), [*self._openstack(), *words, *(("-f", "json") if parsed else ())]
        )
        return json.loads(said) if parsed else said

    def elsewhere(self, *words: str) -> str:
        """An openstackclient command on the other cloud, in a process of its own: shells share their clients."""
        command = [sys.executable, "-W", "ignore", "-m", "openstackclient.shell", "--os-cloud", str(self.other), *words]
        return subprocess.check_output(command, text=True, stdin=subprocess.DEVNULL)

    def glance(self, *words: str) -> str:
        """A command of python-glanceclient; its output."""
        return _run(lambda words: OpenStackImagesShell().main(words), [*self._glance(), *words])

    def sdk(self) -> Any:
        """A connection of openstacksdk."""
        if self.url is None:
            return openstack.connect(cloud=self.name)
        return openstack.connect(auth_type="none", auth={"endpoint": self.url}, load_yaml_config=False, app_name="t")

    def project(self) -> str:
        """The id of the project that images are shared with."""
        return str(openstack.connect(cloud=self.other).current_project_id) if self.other else ANYBODY

    def _openstack(self) -> list[str]:
        return ["--os-auth-type", "none", "--os-endpoint", self.url] if self.url else ["--os-cloud", str(self.name)]

    def _glance(self) -> list[str]:
        if self.url:
            return ["--os-image-url", self.url, "--os-auth-token", "none"]
        auth = openstack.connect(cloud=self.name).config.config["auth"]
        return [word for key, value in auth.items() for word in (f"--os-{key.replace('_', '-')}", str(value))]


def _run(main: Any, words: Sequence[str]) -> str:
    """What a command prints; raises if it fails."""
    out, err = io.StringIO(), io.StringIO()
    # Clients take an open standard input for image data.
    stdin, sys.stdin = sys.stdin, None  # type: ignore[assignment]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(list(words))
            except SystemExit as stop:
                code = stop.code
    finally:
        sys.stdin = stdin
    if code:
        raise AssertionError(f"{' '.join(words)}: exit {code}: {err.getvalue()[-600:]}{out.getvalue()[-200:]}")
    return out.getvalue()
