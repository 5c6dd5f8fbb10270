"""A Database that connects by itself, on every event loop that uses it."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

from fastdb.database import Database

if TYPE_CHECKING:
    from fastdb.pool import Pool

__all__ = ["CommittedDatabase"]

#: Seconds that closing a pool on its own loop may take before it is cut.
CLOSE_SECONDS = 5.0


class Place:
    """What a Database has on one event loop.

    Attributes:
        pool: The pool; None where it is not connected there.
        changing: The lock of connect and disconnect.
        guard: The task that closes the pool where the loop ends with it open.
    """

    def __init__(self) -> None:
        """Begin without a pool."""
        self.pool: Pool | None = None
        self.changing = asyncio.Lock()
        self.guard: asyncio.Task[None] | None = None


class CommittedDatabase(Database):
    """A Database that any loop may use, connected or not: each has a pool of its own.

    So a test, the client that calls its application from another loop, and the application share
    it, whose transactions really commit. It takes connections of its own accord; ``connect()``
    and ``disconnect()`` of the application do what they say on its loop.
    """

    # Made before Database.__init__ says that there is no pool.
    _places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Place]

    def _place(self) -> Place | None:
        """Return what there is on the running loop; None where no loop runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        if "_places" not in self.__dict__:
            self._places = weakref.WeakKeyDictionary()
        place = self._places.get(loop)
        if place is None:
            place = self._places[loop] = Place()
        return place

    @property
    def _pool(self) -> Pool | None:
        place = self._place()
        return None if place is None else place.pool

    @_pool.setter
    def _pool(self, pool: Pool | None) -> None:
        place = self._place()
        if place is None:
            return  # Database.__init__ outside of any loop
        if place.guard is not None:
            place.guard.cancel()
            place.guard = None
        place.pool = pool
        if pool is not None:
            place.guard = pool.loop.create_task(_guard(pool), name="fastdb-testing")

    def _change(self) -> asyncio.Lock:
        place = self._place()
        assert place is not None, "only coroutines connect"
        return place.changing

    def _ready_pool(self) -> Pool:
        """Return the pool of the running loop; make one, which opens what is asked of it."""
        pool = self._pool
        if pool is None and self._place() is not None:
            from fastdb.pool import Pool

            pool = self._pool = Pool(self._driver.connect, self._pool_options)
        return super()._ready_pool() if pool is None else pool

    def close_everywhere(self) -> None:
        """Close the pools of all loops, from synchronous code."""
        for loop, place in list(self.__dict__.get("_places", {}).items()):
            pool = place.pool
            if pool is None:
                continue
            place.pool = None
            if loop.is_closed():
                pool.abandon()
            else:
                assert place.guard is not None
                _close_on(loop, pool, place.guard)


async def _guard(pool: Pool) -> None:
    """Wait until the loop ends, as `asyncio.run` ends it: by cancelling all tasks."""
    try:
        await pool.loop.create_future()
    except asyncio.CancelledError:
        if not pool._closing:
            # Who still has a connection has left the test, or is to be cut.
            await pool.close(0 if pool.stats().leased else CLOSE_SECONDS)
        raise


def _close_on(loop: asyncio.AbstractEventLoop, pool: Pool, guard: asyncio.Task[None]) -> None:
    async def close() -> None:
        guard.cancel()
        await asyncio.wait([guard])

    if not loop.is_running():
        loop.run_until_complete(close())
        return
    try:
        asyncio.run_coroutine_threadsafe(close(), loop).result(CLOSE_SECONDS)
    except TimeoutError:
        pool.abandon()
