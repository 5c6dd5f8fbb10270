"""Networks and servers that go wrong, for the tests of what fastdb does then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

import fastdb
from fastdb.drivers.base import CANCEL_SECONDS
from tests.conftest import IMPATIENT
from tests.databases import OWN_NAME, Session, dialect_of, with_database
from tests.faults.proxy import Proxy
from tests.servers import Process, start_own

#: How many random faults a storm has. The nox session `faults` asks for 100,000.
STORM = int(os.environ.get("FASTDB_STORM", "10000"))


async def eventually(
    check: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 10.0
) -> None:
    """Wait until `check` gives true; fail, naming `what`, where it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if not isinstance(result, bool):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        await asyncio.sleep(0.01)


@dataclass
class Remote:
    """A database that is reached through a proxy, and a session that looks at it from beside.

    Attributes:
        url: Through the proxy.
        dialect: ``postgresql`` or ``mysql``.
        proxy: The network.
        session: A connection of its own, not through the proxy.
    """

    url: str
    dialect: str
    proxy: Proxy
    session: Session
    name: str

    def connections(self) -> int:
        """Return how many connections to the database the server has, but for our sessions."""
        return len(self.connection_ids())

    def connection_ids(self) -> list[int]:
        """Return the server's numbers of those connections."""
        if self.dialect == "postgresql":
            rows = self.session.run(
                "SELECT pid FROM pg_stat_activity "
                f"WHERE datname = '{self.name}' AND application_name <> '{OWN_NAME}'"
            )
        else:
            rows = self.session.run(
                "SELECT id FROM information_schema.processlist "
                f"WHERE db = '{self.name}' AND id <> connection_id() AND command <> 'Killed'"
            )
        return [number for (number,) in rows]

    def running(self, text: str) -> int:
        """Return how many connections run a statement that contains `text`."""
        if self.dialect == "postgresql":
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' "
                f"AND datname = '{self.name}' AND application_name <> '{OWN_NAME}' "
                f"AND query LIKE '%{text}%'"
            )
        else:
            sql = (
                "SELECT count(*) FROM information_schema.processlist "
                f"WHERE db = '{self.name}' AND id <> connection_id() AND info LIKE '%{text}%'"
            )
        ((count,),) = self.session.run(sql)
        return int(count)

    def kill(self, number: int) -> None:
        """Have the server end a connection."""
        if self.dialect == "postgresql":
            self.session.run(f"SELECT pg_terminate_backend({number})")
        else:
            with contextlib.suppress(Exception):  # it has ended by itself meanwhile
                self.session.run(f"KILL {number}")

    def kill_all(self) -> int:
        """Have the server end all connections but `session`; return how many there were."""
        numbers = self.connection_ids()
        for number in numbers:
            self.kill(number)
        return len(numbers)

    @property
    def sleep(self) -> str:
        """A statement that runs for 20 seconds."""
        return f"SELECT {'pg_sleep' if self.dialect == 'postgresql' else 'sleep'}(20)"


@pytest.fixture
async def remote(server_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Remote]:
    """Provide an empty database behind a proxy, once for each of the backends with a server."""
    for module in IMPATIENT:
        monkeypatch.setattr(f"{module}.CANCEL_SECONDS", CANCEL_SECONDS)
    name = server_url.rpartition("/")[2]
    with Session(server_url) as session:
        async with Proxy(server_url) as proxy:
            yield Remote(proxy.url, dialect_of(server_url), proxy, session, name)


@dataclass
class OwnServer:
    """A server that a test may stop and start.

    Attributes:
        url: Of an empty database on it.
        dialect: ``postgresql`` or ``mysql``.
        process: The server.
    """

    url: str
    dialect: str
    process: Process


@pytest.fixture(scope="module")
def modules_server(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    """Start a server that no other test uses, once for each kind."""
    server = start_own(request.param)
    process = server.process
    assert process is not None
    try:
        with Session(server.url) as session:
            session.run("CREATE DATABASE fastdb_faults")
        yield OwnServer(with_database(server.url, "fastdb_faults"), server.dialect, process)
    finally:
        process.stop()


@pytest.fixture
def own_server(modules_server: OwnServer) -> OwnServer:
    """Provide a server that no other test uses, running, once for each kind."""
    if not modules_server.process.is_running:
        modules_server.process.start_again()
    return modules_server


def is_whole(database: fastdb.Database) -> bool:
    """Return whether the pool has all of its places: nothing leased, nobody waiting."""
    stats = database.pool.stats()
    return stats.leased == 0 and stats.waiting == 0 and stats.size == stats.idle
