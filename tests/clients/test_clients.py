"""Unmodified clients can do with this service what they do with Glance (images.md 20)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.postgres import Server
from tests.support.standing import passing, three_stores

ROOT = Path(__file__).parents[2]
DEADLINE = 110


async def test_every_flow_of_every_client(postgres: Server) -> None:
    def config(directory: Path) -> str:
        return three_stores(auth_none="project = demo")(directory).replace("auth = headers", "auth = none")

    async with passing(postgres, config) as site:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.clients", str(site.client.make_url("/")).rstrip("/")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            async with asyncio.timeout(DEADLINE):
                said, wrong = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        told = said.decode()
        assert process.returncode == 0, told + wrong.decode()[-6000:]
        assert told.count("pass ") >= 30
