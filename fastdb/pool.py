"""One pool of connections for every driver.

Idle connections are taken last in, first out, so that a quiet service keeps few of them warm.
Waiters are served first in, first out: whatever becomes free, whether it was released or newly
opened, goes to the first of them, so nobody who comes later can take it. A place in the pool
(`size`) is counted from the moment a connection begins to be opened until it is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastdb.drivers.base import CANCEL_SECONDS, hang_up
from fastdb.exceptions import EventLoopError, NotConnectedError, PoolTimeoutError
from fastdb.holders import describe_holders
from fastdb.pool_forks import disown_in_forks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from fastdb.drivers.base import DriverConnection
    from fastdb.options import Options

__all__ = ["Pool", "PoolStats"]

logger = logging.getLogger("fastdb")

#: Seconds that cleaning or closing one connection may take before it is cut.
CLEANUP_TIMEOUT: Final = 5.0

#: Seconds that a timer may be early: the resolution of the event loop's clock.
EARLY: Final = 0.01


class PoolStats(NamedTuple):
    """Figures of a pool at one moment.

    Attributes:
        size: Connections that are open: those that are idle and those that are leased.
        idle: Connections that wait to be used.
        leased: Connections that are in use.
        waiting: Callers that wait for a connection.
        min_size: Connections that ``connect()`` opens.
        max_size: Connections that are open, or being opened, at most.
        opening: Connections that are being opened.
        opened: Connections opened since ``connect()``.
        closed: Connections closed since ``connect()``, by reason: ``lost``, ``failed`` (to be
            cleaned), ``unreturned``, ``max_lifetime``, ``max_queries``, ``idle_timeout``,
            ``disconnect``.
        waits: Acquisitions that found every connection in use since ``connect()``.
        wait_time: Seconds that they waited, in total.
    """

    size: int
    idle: int
    leased: int
    waiting: int
    min_size: int
    max_size: int
    opening: int
    opened: int
    closed: dict[str, int]
    waits: int
    wait_time: float


class Pool:
    """Lend connections to one task at a time, on one event loop.

    Attributes:
        loop: The event loop that the pool belongs to.
        inherited: Whether this process was forked from the one that the pool belongs to.
    """

    def __init__(
        self, open_connection: Callable[[], Awaitable[DriverConnection]], options: Options
    ) -> None:
        """Make a pool that is not open yet.

        Args:
            open_connection: Opens one new connection of the driver.
            options: Sizes and times.
        """
        self._open_connection = open_connection
        self._options = options
        self._max_size = options.max_size
        self._always_resets = options.reset == "always"
        #: So many connections may be open without a look at how long they idle.
        self._unreaped_size = options.max_size if options.idle_timeout is None else options.min_size
        self._retires = options.max_lifetime is not None or options.max_queries is not None
        self.loop = asyncio.get_running_loop()
        self.inherited = False
        self._runs_setup = options.setup is not None
        self._idle: deque[DriverConnection] = deque()
        self._leased: set[DriverConnection] = set()
        self._waiters: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        self._size = 0
        self._closing = False
        self._returned: asyncio.Future[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        #: Connections that are being opened, and since when.
        self._openings: dict[asyncio.Task[DriverConnection], float] = {}
        self._reaper: asyncio.TimerHandle | None = None
        self._retirements: dict[DriverConnection, asyncio.TimerHandle] = {}
        self._opened = 0
        self._closed: Counter[str] = Counter()
        self._waits = 0
        self._wait_time = 0.0
        disown_in_forks(self)

    def check_loop(self) -> None:
        """Refuse to serve another event loop than the pool's own.

        Raises:
            EventLoopError: Another one is running, or none is.
        """
        if self.inherited:
            raise EventLoopError(
                "the database was connected before this process was forked; "
                "call `await database.connect()` here, for connections of its own"
            )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise EventLoopError("no event loop runs here; use the database from a task") from None
        if loop is not self.loop:
            raise other_loop()

    def stats(self) -> PoolStats:
        """Return the figures of this moment; any thread may ask for them."""
        return PoolStats(
            size=self._size - len(self._openings),
            idle=len(self._idle),
            leased=len(self._leased),
            # As a tuple: it is made at once, whatever the event loop's thread does meanwhile.
            waiting=sum(not waiter.done() for _, waiter in tuple(self._waiters)),
            min_size=self._options.min_size,
            max_size=self._max_size,
            opening=len(self._openings),
            opened=self._opened,
            closed=dict(self._closed),
            waits=self._waits,
            wait_time=self._wait_time,
        )

    # -- opening and closing

    async def open(self) -> None:
        """Open `min_size` connections, at least one; where one fails, leave none open."""
        count = max(self._options.min_size, 1)
        if count == 1:
            self._keep(await self._open_place())
            return
        tasks = [self.loop.create_task(self._open_place()) for _ in range(count)]
        try:
            for connection in await asyncio.gather(*tasks):
                self._keep(connection)
        except BaseException:
            self._closing = True
            for task in tasks:
                task.cancel()
                # Called in any case, also where the wait is cancelled again.
                task.add_done_callback(_terminate_opened)
            await asyncio.wait(tasks)
            self._cancel_timers()
            raise

    async def close(self, timeout: float | None, spare: object | None = None) -> None:
        """Close every connection; those still leased after `timeout` seconds are cut.

        Args:
            timeout: Seconds to wait for leased connections; None waits for ever.
            spare: Leases of this holder are not waited for (the caller's own).
        """
        self._closing = True
        self._cancel_timers()
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_disconnected())
        while self._idle:
            self._discard(self._idle.popleft(), "disconnect")
        for opening in self._openings:
            opening.cancel()
        try:
            async with asyncio.timeout(timeout):
                while any(
                    lease.holder is None or lease.holder is not spare for lease in self._leased
                ):
                    self._returned = self.loop.create_future()
                    await self._returned
                while unfinished := self._background | self._openings.keys():
                    await asyncio.wait(unfinished)
        except TimeoutError:
            if self._leased:  # else what was being closed is cut
                logger.warning(
                    "%d connections were still in use after %.3g s and are cut",
                    len(self._leased),
                    timeout,
                )
        finally:
            self.abandon()

    def _cancel_timers(self) -> None:
        for timer in (self._reaper, self._expiry, *self._retirements.values()):
            if timer is not None:
                timer.cancel()
        self._retirements.clear()

    def abandon(self) -> None:
        """Cut every connection at once, also from outside the pool's event loop."""
        self._closing = True
        if self.inherited:
            return  # they are the parent's
        for task in (*self._background, *self._openings):
            if not self.loop.is_closed():  # pragma: no branch: it ended with tasks left undone
                task.cancel()
        for connection in (*self._idle, *self._leased):
            if self.loop.is_closed():
                # Nothing there closes a socket any more, and the server would go on waiting.
                for descriptor in connection.descriptors():
                    hang_up(descriptor)
            with contextlib.suppress(RuntimeError):
                connection.terminate()
            self._closed["disconnect"] += 1
        self._idle.clear()
        self._leased.clear()
        self._size = len(self._openings)  # each gives its place up when it ends

    async def _open_place(self) -> DriverConnection:
        """Open a connection in a new place, which is given back where that fails."""
        self._size += 1
        try:
            connection = await self._open_with_lifetime()
        except BaseException:
            self._size -= 1
            raise
        self._opened += 1
        return connection

    async def _open_with_lifetime(self) -> DriverConnection:
        connection = await self._open_connection()
        connection.used_at = now = monotonic()
        if self._options.max_lifetime is not None:
            import random

            # Connections opened together must not all expire together.
            lifetime = self._options.max_lifetime * random.uniform(0.9, 1.0)
            connection.expires_at = now + lifetime
            retirement = self.loop.call_later(lifetime, self._retire, connection)
            self._retirements[connection] = retirement
        return connection

    def _open_more(self) -> None:
        """Open a connection in a new place, for whoever is the first to wait by then.

        Not for a caller in particular: callers that have less time than it takes to connect would
        never get any, and one who comes later might be served by another connection before.
        """
        self._size += 1
        opening = self.loop.create_task(self._open_with_lifetime())
        self._openings[opening] = monotonic()
        opening.add_done_callback(self._note_opened)

    def _note_opened(self, opening: asyncio.Task[DriverConnection]) -> None:
        """Hand out what was opened, or tell the first waiter why nothing was.

        Who came after the opening had begun is not told: the server may be back since. Another
        one is opened for that waiter.
        """
        began = self._openings.pop(opening)
        if opening.cancelled():
            self._give_up_place()
            return
        error = opening.exception()
        self._opened += error is None
        if error is not None:
            waiter = self._first_waiter(before=began)
            if waiter is not None:
                waiter.set_exception(error)
            else:
                logger.debug("a connection that nobody waits for could not be opened: %r", error)
            self._give_up_place()
        elif self._closing:
            opening.result().terminate()
            self._closed["disconnect"] += 1
            self._give_up_place()
        else:
            self._keep_fit(opening.result())

    def _give_up_place(self) -> None:
        self._size -= 1
        waiters = self._waiters
        while waiters and waiters[0][1].done():
            waiters.popleft()
        if len(waiters) > len(self._openings) and self._size < self._max_size and not self._closing:
            self._open_more()

    def _first_waiter(
        self, before: float = float("inf")
    ) -> asyncio.Future[DriverConnection] | None:
        """Take the first that still waits out of the queue, if it came no later than `before`."""
        waiters = self._waiters
        while waiters and (waiters[0][0] <= before or waiters[0][1].done()):
            _, waiter = waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    # -- leases

    def take(self, *, before_setup: bool = False) -> DriverConnection | None:
        """Return an idle connection at once, or None where it takes :meth:`acquire`.

        Args:
            before_setup: Whether the caller awaits the user's `setup`, where there is one.
        """
        if self._runs_setup and not before_setup:
            return None
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_still_alive() and not self._retires:
                reason = None
            else:
                reason = self._unfit_reason(connection)
            if reason is None:
                connection.uses += 1
                self._leased.add(connection)
                return connection
            self._discard(connection, reason)
        return None

    async def acquire(self) -> DriverConnection:
        """Return a connection that is this caller's until it is released.

        Raises:
            PoolTimeoutError: None came free within ``acquire_timeout``.
            NotConnectedError: The pool is closed.
            ConnectionFailedError: A new connection was needed and could not be opened.
        """
        if self._closing:
            raise _disconnected()
        connection = self.take(before_setup=True)
        if connection is None:
            since = monotonic()
            if self._size < self._max_size:
                self._open_more()
            else:
                self._waits += 1
            connection = await self._wait(since)
            if self._closing:
                # The pool was closed while this connection was being handed over.
                self._drop(connection, "disconnect")
                raise _disconnected()
            connection.uses += 1
        setup = self._options.setup
        if setup is not None:
            try:
                await setup(connection.raw)
            except BaseException:
                connection.suspect = True
                await self.release(connection)
                raise
        return connection

    async def _wait(self, since: float) -> DriverConnection:
        """Wait for a connection, which counts as leased from when it is handed over."""
        waiter: asyncio.Future[DriverConnection] = self.loop.create_future()
        waiting = since, waiter
        self._waiters.append(waiting)
        if self._expiry is None and self._options.acquire_timeout is not None:
            self._expiry = self.loop.call_later(self._options.acquire_timeout, self._expire)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Served and cancelled at once: the next waiter gets it.
                self._keep(waiter.result())
            raise
        finally:
            self._wait_time += monotonic() - since
            if not waiter.done() or waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiting)

    def _expire(self) -> None:
        """Refuse those who have waited for too long.

        One timer does for all: they all wait equally long, and the first came first.
        """
        self._expiry = None
        timeout = self._options.acquire_timeout
        assert timeout is not None
        now = monotonic()
        message = None
        while self._waiters:
            since, waiter = self._waiters[0]
            left = since + timeout - now
            if left > 0 and not waiter.done():
                self._expiry = self.loop.call_later(left, self._expire)
                return
            self._waiters.popleft()
            if not waiter.done():
                message = message or self._exhaustion(timeout)
                waiter.set_exception(PoolTimeoutError(message))

    def _exhaustion(self, timeout: float) -> str:
        """Say why nobody was served: who holds the connections."""
        opening = len(self._openings)
        return (
            f"no connection came free {'or could be opened ' if opening else ''}"
            f"within {timeout:g} s; "
            f"{self._size - opening} of max_size={self._max_size} are in use"
            f"{describe_holders(self._leased)}"
        )

    async def release(self, connection: DriverConnection) -> None:
        """Take a connection back; it is rolled back, reset, checked or closed as it needs.

        What goes wrong there is logged, not raised: the caller's own result stands.
        """
        if self.put(connection):
            return
        cleaning = self.spawn(self._clean(connection))
        # The caller waits only for what is usual. The connection is not lent before it is clean.
        deadline = monotonic() + CANCEL_SECONDS
        cancellation = None
        while not cleaning.done() and (left := deadline - monotonic()) > 0:
            try:
                await asyncio.wait((cleaning,), timeout=left)
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            raise cancellation

    def put(self, connection: DriverConnection) -> bool:
        """Take a connection back at once where it is clean; otherwise return False."""
        if connection.suspect or connection.dirty or self._always_resets:
            return False
        if self._closing or self._retires or not connection.is_idle():
            if connection.in_transaction:
                return False
            self._keep(connection)
        else:
            self._keep_fit(connection)
        return True

    async def _clean(self, connection: DriverConnection) -> None:
        try:
            async with asyncio.timeout(CLEANUP_TIMEOUT):
                if connection.in_transaction:
                    await connection.rollback()
                if connection.suspect:
                    if not connection.is_alive():
                        self._discard(connection, "lost")
                        return
                    await connection.check()
                if self._always_resets or (connection.dirty and self._options.reset == "auto"):
                    await connection.reset()
        except BaseException as error:
            self._drop(connection, "failed")
            if not isinstance(error, Exception):
                raise
            logger.warning("a connection could not be cleaned and is closed: %r", error)
            return
        connection.suspect = connection.dirty = False
        self._keep(connection)

    def _keep(self, connection: DriverConnection) -> None:
        """Pass a clean connection on to the first waiter, or keep it idle."""
        connection.holder = None
        if self._closing:
            if connection in self._leased:  # else it was cut, and counted, with the others
                self._discard(connection, "disconnect")
            return
        self._leased.discard(connection)
        if self._retires or not connection.is_alive(look=False):
            reason = self._unfit_reason(connection)
            if reason is not None:
                self._discard(connection, reason)
                return
        self._keep_fit(connection)

    def _keep_fit(self, connection: DriverConnection) -> None:
        """Do the same with a connection that can go on being used."""
        connection.holder = None
        connection.used_at = monotonic()
        if self._waiters and (waiter := self._first_waiter()) is not None:
            # Between two leases it counts as leased, so that closing the pool finds it.
            self._leased.add(connection)
            waiter.set_result(connection)
            return
        self._leased.discard(connection)
        self._idle.append(connection)
        if self._reaper is None and self._size > self._unreaped_size:
            self._schedule_reaper()

    def _note_return(self) -> None:
        if self._returned is not None and not self._returned.done():
            self._returned.set_result(None)

    # -- fitness

    def _unfit_reason(self, connection: DriverConnection) -> str | None:
        if not connection.is_alive():
            return "lost"
        if connection.expires_at <= monotonic():
            return "max_lifetime"
        limit = self._options.max_queries
        if limit is not None and connection.uses >= limit:
            return "max_queries"
        return None

    def _discard(self, connection: DriverConnection, reason: str) -> None:
        """Close a connection in good order, in the background, and free its place."""
        self._closed[reason] += 1
        self._leased.discard(connection)
        self._forget_retirement(connection)
        if reason == "lost":
            connection.terminate()
        else:
            self.spawn(_close(connection))
        self._give_up_place()
        self._note_return()

    def _forget_retirement(self, connection: DriverConnection) -> None:
        if self._retirements:
            retirement = self._retirements.pop(connection, None)
            if retirement is not None:
                retirement.cancel()

    def _drop(self, connection: DriverConnection, reason: str) -> None:
        """Cut a connection and free its place."""
        connection.terminate()
        self._forget_retirement(connection)
        if connection in self._leased:
            self._closed[reason] += 1
            self._leased.discard(connection)
            self._give_up_place()
            self._note_return()

    def drop_unowned(self, connection: DriverConnection) -> None:
        """Cut a leased connection whose owner is gone without having returned it."""
        if self.inherited:
            return  # the parent's owner may be there still
        # The loop may be closed, or closing in another thread.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._drop, connection, "unreturned")

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what cleans up in a task of its own, which closing the pool waits for."""
        task = self.loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # -- idle connections

    def _schedule_reaper(self) -> None:
        assert self._options.idle_timeout is not None
        age = monotonic() - self._idle[0].used_at if self._idle else 0.0
        self._reaper = self.loop.call_later(self._options.idle_timeout - age, self._reap)

    def _reap(self) -> None:
        """Close what has idled for too long, down to `min_size`; oldest first."""
        self._reaper = None
        idle_timeout = self._options.idle_timeout
        assert idle_timeout is not None
        limit = monotonic() - idle_timeout + EARLY
        while self._idle and self._size > self._options.min_size:
            if self._idle[0].used_at > limit:
                self._schedule_reaper()
                return
            self._discard(self._idle.popleft(), "idle_timeout")

    def _retire(self, connection: DriverConnection) -> None:
        """Replace a connection that is too old, if it idles; otherwise it goes when it returns."""
        self._retirements.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
            self._discard(connection, "max_lifetime")
            if self._size < self._options.min_size:
                self._open_more()

    def _disown(self) -> list[DriverConnection]:
        """Leave everything to the parent of this process; return its connections."""
        self.inherited = self._closing = True
        return [*self._idle, *self._leased]


async def _close(connection: DriverConnection) -> None:
    try:
        async with asyncio.timeout(CLEANUP_TIMEOUT):
            await connection.close()
    except BaseException as error:
        connection.terminate()
        if not isinstance(error, Exception):
            raise
        logger.debug("a connection did not close in good order: %r", error)


def _terminate_opened(task: asyncio.Task[DriverConnection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def other_loop() -> EventLoopError:
    """Return the error that refuses another event loop."""
    return EventLoopError(
        "the database is connected on another event loop; use it there, "
        "or make one Database for each loop"
    )


def _disconnected() -> NotConnectedError:
    return NotConnectedError(
        "the database is disconnected; call `await database.connect()` before using it again"
    )
