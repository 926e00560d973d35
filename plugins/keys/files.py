"""Certificates in a directory, a file each: `<uuid>.pem`, `.crt`, `.cer` or `.der`, whoever put them there."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from kernel.context import Actor
from kernel.errors import ConfigError, NotFound, Unavailable
from kernel.extend import KeyManager

_ENDINGS: Final = (".pem", ".crt", ".cer", ".der")
_MOST: Final = 1 << 20
"""Bytes of a file that may be a certificate."""


class FilesConfig(BaseModel):
    model_config = ConfigDict(extra="ignore")

    certificate_dir: Path = Field(description="Directory of certificates.")


class CertificateFiles:
    """Looks a certificate up by its id, anew each time: operators add and replace files while we run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def certificate(self, key_id: str) -> bytes:
        try:
            name = str(UUID(key_id))  # never a path
        except ValueError:
            raise NotFound(f"{key_id[:64]!r} is no UUID") from None
        return await asyncio.to_thread(self._read, name)

    async def delete(self, key_id: str, actor: Actor) -> None:
        """The files are the operator's."""

    async def close(self) -> None:
        """Nothing is kept open."""

    def _read(self, name: str) -> bytes:
        for ending in _ENDINGS:
            path = self._directory / f"{name}{ending}"
            try:
                found = path.stat()
                if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST:
                    return path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Unavailable(f"its file cannot be read: {error.strerror}") from None
        raise NotFound(f"There is no certificate {name}")


async def connect(config: FilesConfig, sections: Mapping[str, Mapping[str, str]]) -> CertificateFiles:
    directory = config.certificate_dir
    if not await asyncio.to_thread(directory.is_dir):
        raise ConfigError(f"certificate_dir: {directory} is no directory")
    return CertificateFiles(directory)


EXTENSION = KeyManager(
    name="files",
    config=FilesConfig,
    connect=connect,
    chosen_by=lambda sections: bool(sections.get("entrepot", {}).get("certificate_dir")),
    section="entrepot",
)
