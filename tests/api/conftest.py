"""The sites of the scenarios, one service a module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import chain

import pytest
import pytest_asyncio

from tests.support.faulty_store import EXTENSION as FAULTY
from tests.support.postgres import Server
from tests.support.running import Site
from tests.support.standing import SPARE, four_stores, memory_stores, one_store, standing, three_stores


@pytest.fixture(scope="session", autouse=True)
def spare_databases(postgres: Server) -> Iterator[None]:
    """Drop what services that came and went have left for one another."""
    yield
    for dsn in chain.from_iterable(SPARE.values()):
        asyncio.run(postgres.drop(dsn))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(postgres: Server) -> AsyncIterator[Site]:
    """Site S: one file store, defaults."""
    async with standing(postgres, one_store()) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(postgres: Server) -> AsyncIterator[Site]:
    """Site M: fast (default), cheap, web."""
    async with standing(postgres, three_stores()) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def four(postgres: Server) -> AsyncIterator[Site]:
    """Site M4: fast (default), cheap, reliable, web."""
    async with standing(postgres, four_stores()) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faulty(postgres: Server) -> AsyncIterator[Site]:
    """M4 with stores in memory, which tests break and block."""
    async with standing(postgres, memory_stores(), also=(FAULTY,)) as site:
        yield site
