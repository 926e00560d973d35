"""What a restart needs and the log may not hold: URL credentials, signing parameters, tokens.

Kept in a side table, encrypted with a key that only nodes have, written by the append
that accepts the import, deleted with it, and swept by age should anything be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from cryptography.fernet import Fernet, InvalidToken

from kernel.database import Database
from kernel.errors import ConfigError, EntrepotError, Unavailable
from kernel.rows import Secret

log = structlog.get_logger(__name__)

_EVERY: Final = 3600.0
"""Seconds between two searches for what is left over."""

_SWEEP: Final = """
DELETE FROM secrets s WHERE made_at < clock_timestamp() - interval '7 days'
AND NOT EXISTS (SELECT FROM images i WHERE i.id = s.stream AND i.work IS NOT NULL)
"""


class Vault:
    """Seals and opens with one key.  Every node of an installation needs the same key file."""

    def __init__(self, key: bytes, database: Database) -> None:
        self._fernet = Fernet(key)
        self._database = database

    def seal(self, secrets: Mapping[str, str]) -> tuple[Secret, ...]:
        """Secrets in the form in which an append takes them along."""
        return tuple(Secret(name, self._fernet.encrypt(text.encode())) for name, text in secrets.items())

    async def open(self, stream: UUID) -> dict[str, str]:
        """What was sealed for a stream; an error that names the key file's part in it when it cannot be read."""
        rows = await self._database.fetch("SELECT name, data FROM secrets WHERE stream = $1", stream)
        try:
            return {row["name"]: self._fernet.decrypt(bytes(row["data"])).decode() for row in rows}
        except InvalidToken:
            raise EntrepotError("The credentials of this import cannot be read: this node has another key") from None

    async def sweep(self) -> None:
        """Delete what no import can need any more."""
        await self._database.fetch(_SWEEP)

    async def keep_swept(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                log.info("secrets_not_swept", reason=str(error))
            await asyncio.sleep(_EVERY)


def load_key(path: Path) -> bytes:
    """The key in a file; made on first use, readable by the service alone.  Blocking."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_key(path)
    except OSError as error:
        raise ConfigError(f"[entrepot] secret_key_file: {path} cannot be written: {error.strerror}") from None
    try:
        key = path.read_bytes().strip()
        Fernet(key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"[entrepot] secret_key_file: {path} holds no usable key: {error}") from None
    return key


def _make_key(path: Path) -> None:
    """Make a key appear whole, or not at all: several processes may start at once, and the first one's key counts."""
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)
