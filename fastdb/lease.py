"""The lease of one Connection: a driver connection, held while anybody needs it.

Holds are counted: an entered block, an open transaction and a running query are one each. The
first leases a connection from the pool, the last gives it back.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from fastdb.exceptions import NotConnectedError

if TYPE_CHECKING:
    from fastdb.drivers.base import DriverConnection
    from fastdb.pool import Pool
    from fastdb.queries import Services

__all__ = ["Holder", "Lease"]


class Holder:
    """Who leases a driver connection. The pool keeps this, not the Connection.

    So a Connection that nobody refers to any more is collected, and gives its lease back.

    Attributes:
        name: The task's name.
        place: Where it leased the connection, in asyncio's debug mode.
    """

    __slots__ = ("name", "place")

    def __init__(self, name: str) -> None:
        """Name the task."""
        self.name = name
        self.place = ""

    def __str__(self) -> str:
        """Name the task, and where it leased."""
        return f"task {self.name!r}{self.place}"

    def note_place(self) -> None:
        """Note where the application is that leases now."""
        from fastdb.holders import place_of_caller

        self.place = place_of_caller()


class Lease:
    """A driver connection that is leased while it is held.

    Attributes:
        connection: The driver connection, while one is leased.
        holds: How often it is held.
        over: Whether nothing can be leased any more: the forced rollback, which was to reach
            everything, has happened.
        holder: Who leases, as messages name it.
        pool: Where the driver connection was leased.
    """

    __slots__ = ("_acquiring", "_services", "connection", "holder", "holds", "over", "pool")

    def __init__(self, services: Services, name: str) -> None:
        """Lease nothing yet.

        Args:
            services: Whose pool it is.
            name: The name of the task.
        """
        self.connection: DriverConnection | None = None
        self.holds = 0
        self.over = False
        self.holder = Holder(name)
        self._services = services
        self.pool: Pool | None = None
        self._acquiring: asyncio.Lock | None = None

    def leased(self) -> DriverConnection:
        """Return the driver connection.

        Raises:
            NotConnectedError: None is leased any more.
        """
        if self.connection is None:  # pragma: no cover: disconnect() came between two steps
            raise NotConnectedError("the connection was returned to the pool; hold it again")
        return self.connection

    def check_loop(self) -> None:
        """Refuse another event loop than the one on which the connection was leased.

        Raises:
            EventLoopError: Another one is running.
        """
        if self.pool is not None and self.connection is not None:
            self.pool.check_loop()

    def is_elsewhere(self) -> bool:
        """Return whether the running event loop is another than the connection's."""
        pool = self.pool
        return (
            pool is not None
            and self.connection is not None
            and pool.loop is not asyncio.get_running_loop()
        )

    def hold_at_once(self) -> bool:
        """Hold the connection, where that takes no waiting; return whether it did."""
        pool = self.pool
        if self.connection is not None and pool is not None:
            if pool.loop is not asyncio.get_running_loop():
                pool.check_loop()
        elif self.holds:
            self._open_pool()  # raises on another event loop
            return False  # it is being leased
        else:
            self._acquiring = None  # it may be another event loop's
            pool = self._open_pool()
            connection = pool.take()
            if connection is None:
                return False
            self._keep(pool, connection)
        self.holds += 1
        return True

    async def hold(self) -> None:
        """Lease a driver connection with the first hold."""
        if self.hold_at_once():
            return
        self.holds += 1
        try:
            await self.lease_anew()
        except BaseException:
            # Whoever leased it meanwhile may be gone by now.
            await self.unhold()
            raise

    def unhold_at_once(self) -> bool:
        """Give a hold up, where that takes no waiting; return whether it did."""
        connection = self.connection
        if self.holds == 1 and connection is not None:
            assert self.pool is not None
            if not self.pool.put(connection):
                return False
            self.connection = None
            self._services._note_lease(-1)
        self.holds -= 1
        return True

    async def unhold(self) -> None:
        """Return the driver connection with the last hold."""
        if self.unhold_at_once():
            return
        self.holds -= 1
        await self.give_back()

    def unhold_from_elsewhere(self) -> None:
        """Give a hold up on the connection's own event loop, as soon as that runs."""
        assert self.pool is not None
        if not self.pool.inherited:
            with contextlib.suppress(RuntimeError):  # it is closed
                self.pool.loop.call_soon_threadsafe(self._unhold_soon)

    def _unhold_soon(self) -> None:
        if self.connection is not None:  # pragma: no branch: disconnect() was quicker
            self.connection.suspect = True  # what was under way there has not been ended
        assert self.pool is not None
        self.pool.spawn(self.unhold())

    async def replace(self) -> None:
        """Lease another driver connection in place of one that was lost."""
        # Given back first: in a full pool, the other one takes its place.
        self.leased().suspect = True
        await self.give_back()
        await self.lease_anew()

    async def give_back(self) -> None:
        """Return the driver connection, if one is leased; whoever comes next leases anew."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._services._note_lease(-1)
            assert self.pool is not None
            await self.pool.release(connection)

    async def lease_anew(self) -> None:
        """Lease a driver connection for those who hold, where nobody has done so meanwhile."""
        if self._acquiring is None:
            self._acquiring = asyncio.Lock()
        async with self._acquiring:
            if self.connection is None:
                pool = self._open_pool()
                self._keep(pool, await pool.acquire())

    def _open_pool(self) -> Pool:
        if self.over:
            raise NotConnectedError(
                "the connection ended with the forced rollback; "
                "get another from `database.connection()`"
            )
        return self._services._ready_pool()

    def _keep(self, pool: Pool, connection: DriverConnection) -> None:
        holder = connection.holder = self.holder
        if pool.loop.get_debug():
            holder.note_place()
        self.pool = pool
        self.connection = connection
        self._services._note_lease(1)

    def __del__(self) -> None:
        """Give a connection back whose holder vanished, such as an unfinished transaction's."""
        if self.connection is not None and self.pool is not None:
            self._services._note_lease(-1)
            self.pool.drop_unowned(self.connection)
