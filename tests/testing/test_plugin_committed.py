"""A Database that connects by itself: on any loop, and closed whatever became of that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import fastdb
from fastdb.pool import Pool
from fastdb.testing import plugin_committed
from fastdb.testing.plugin_committed import CommittedDatabase


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


async def use(database: fastdb.Database) -> Pool:
    assert await database.fetch_val("SELECT 1") == 1
    return database.pool


def test_it_connects_where_it_is_used(database_url: str) -> None:
    database = CommittedDatabase(database_url, min_size=3)

    async def main() -> Pool:
        assert not database.is_connected
        await asyncio.gather(*(use(database) for _ in range(5)))
        assert database.is_connected
        await database.disconnect()
        assert not database.is_connected
        await database.connect()
        assert database.pool.stats().size == 3
        async with database.transaction():
            return await use(database)

    pools = [asyncio.run(main()) for _ in range(2)]
    assert pools[0] is not pools[1]
    assert all(pool.stats().size == 0 for pool in pools)
    database.close_everywhere()


def test_outside_of_any_loop_it_is_not_connected(database_url: str) -> None:
    database = CommittedDatabase(database_url)
    assert not database.is_connected
    with pytest.raises(fastdb.NotConnectedError):
        _ = database.pool
    database.close_everywhere()


def test_a_loop_that_pauses_is_used_to_close(
    database_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    database = CommittedDatabase(database_url)
    pool = loop.run_until_complete(use(database))
    database.close_everywhere()
    assert pool.stats().size == 0
    assert not asyncio.all_tasks(loop)
    database.close_everywhere()  # nothing is left


ENDED = """
import asyncio, sys
from fastdb.testing.plugin_committed import CommittedDatabase

database = CommittedDatabase(sys.argv[1])
loop = asyncio.new_event_loop()
loop.run_until_complete(database.fetch_val("SELECT 1"))
((_, place),) = database._places.items()
pool = place.pool
loop.close()
database.close_everywhere()
print(pool.stats().size)
"""


def test_a_loop_that_ended_without_a_word(database_url: str) -> None:
    # asyncio.run cancels what is left, which then closes; in a process of its own, since the
    # sockets that such a loop leaves trouble later tests.
    command = [sys.executable, "-c", ENDED, database_url]
    assert subprocess.check_output(command, text=True) == "0\n"


@pytest.mark.parametrize("blocked", [False, True])
def test_a_loop_of_another_thread(
    database_url: str,
    loop: asyncio.AbstractEventLoop,
    blocked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = CommittedDatabase(database_url)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    pool = asyncio.run_coroutine_threadsafe(use(database), loop).result()
    goes_on = threading.Event()
    if blocked:
        monkeypatch.setattr(plugin_committed, "CLOSE_SECONDS", 0.05)
        loop.call_soon_threadsafe(goes_on.wait)
        time.sleep(0.05)
    database.close_everywhere()
    assert pool.stats().size == 0
    goes_on.set()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert not asyncio.all_tasks(loop)
