"""Names that strangers give us are looked up without holding up anybody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from kernel.errors import Invalid
from kernel.names import addresses
from plugins.methods import _filtering as filtering


async def test_each_address_once_in_the_resolvers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["192.0.2.2", "fe80::1%eth0", "192.0.2.1", "192.0.2.2"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (address, 80)) for address in told])
    assert [str(address) for address in await addresses("name.example", 80)] == ["192.0.2.2", "fe80::1", "192.0.2.1"]


async def test_name_servers_that_never_answer_hold_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()

    def silence(*_: Any) -> Any:
        assert may.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", silence)
    monkeypatch.setattr(filtering, "_PATIENCE", 0.2)
    try:
        config = filtering.FilterConfig()
        asked = [filtering.admit(f"http://name{number}.example/x", config) for number in range(100)]
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(error, Invalid) for error in refused)
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: "others go on") == "others go on"
    finally:
        may.set()
