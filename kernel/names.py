"""Looking up names that strangers give us.

A name server of theirs need never answer, and nobody can stop a thread that asks it.
So they are asked in threads of their own: whoever looks up nothing, or a name of the
operator's, does not wait for one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from kernel.networks import Address

_POOL: Final = ThreadPoolExecutor(max_workers=32, thread_name_prefix="names")


async def addresses(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Address]:
    """What a name stands for right now, each address once, in the resolver's order; `OSError` when it is nothing."""
    loop = asyncio.get_running_loop()
    rows = await loop.run_in_executor(_POOL, _ask, host, port, family)
    return list(dict.fromkeys(ipaddress.ip_address(address.partition("%")[0]) for address in rows))


def _ask(host: str, port: int, family: int) -> list[str]:
    return [str(row[4][0]) for row in socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)]
