"""An event loop in a thread of its own, and how work is done there for tasks of other loops.

The connection of a shared sandbox lives there. None of the application's tasks runs there, so a
test that blocks its own loop, as a synchronous client does, cannot block the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from fastdb.database import Database
from fastdb.testing.ownership import OwnershipError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Host"]

T = TypeVar("T")

#: Seconds that the end of the interpreter waits for connections to be closed in order.
END_SECONDS = 2.0

_ENDED = "the shared sandbox has ended, or this is a fork of the process that opened it"


class Call:
    """One coroutine that runs on the host's loop for a task of another loop.

    Attributes:
        waiter: What the task waits for; another one after each cancellation.
        is_done: Whether the coroutine has ended, as the caller's loop knows it.
    """

    def __init__(self, host: Host, run: Coroutine[Any, Any, Any]) -> None:
        """Prepare to do `run` in a copy of the caller's context."""
        self._host = host
        self._run = run
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self.waiter: asyncio.Future[None] = self._loop.create_future()
        self.is_done = False

    # -- on the host's loop

    def start(self) -> None:
        """Start the coroutine."""
        self._task = self._host.loop.create_task(self._run, context=self._context)
        self._task.add_done_callback(self._note_end)

    def cancel(self) -> None:
        """Cancel the coroutine, once it has begun: what it holds is closed by itself then."""
        assert self._task is not None
        self._host.loop.call_soon(self._task.cancel)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # whether or not anybody waits for it
        with contextlib.suppress(RuntimeError):  # the caller's loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    # -- on the caller's loop

    def _wake(self) -> None:
        self.is_done = True
        if not self.waiter.done():
            self.waiter.set_result(None)

    @property
    def has_succeeded(self) -> bool:
        """Whether the coroutine has returned; asked once it is done."""
        assert self._task is not None
        return not self._task.cancelled() and self._task.exception() is None

    def result(self) -> Any:
        """Return what the coroutine returned, or raise what it raised.

        Raises:
            OwnershipError: The host has ended meanwhile.
        """
        assert self._task is not None
        if self._task.cancelled():
            raise OwnershipError(_ENDED)
        return self._task.result()


class Host:
    """A Database of its own on an event loop in a thread of its own.

    Attributes:
        database: Has the URL and the options of the one that it stands for.
        loop: The event loop.
    """

    def __init__(self, original: Database) -> None:
        """Start the thread; the database is connected by :meth:`connect`."""
        self.database = Database(original.url, **original.options)
        # A service may want many warm connections; a sandbox needs one.
        self.database._pool_options = self.database._pool_options._replace(min_size=1)
        self.loop = asyncio.new_event_loop()
        self._original = weakref.ref(original)
        self._process = os.getpid()
        self._connecting = asyncio.Lock()
        self._thread = threading.Thread(
            target=_run_loop, args=(self.loop,), name="fastdb-sandbox", daemon=True
        )
        self._thread.start()
        # Also at the end of the interpreter; the thread does not refer to the original.
        self._finalizer = weakref.finalize(original, _end, self)

    @property
    def is_running(self) -> bool:
        """Whether work can be done; never in a process that was forked."""
        return self._finalizer.alive and self._process == os.getpid()

    def is_here(self) -> bool:
        """Return whether the caller runs in the host's thread."""
        return threading.current_thread() is self._thread

    async def connect(self) -> None:
        """Connect the database, if it is not; on the host's loop."""
        async with self._connecting:
            original = self._original()
            if original is not None:
                await original._make_ready()
            await self.database.connect()

    async def run(
        self,
        run: Coroutine[Any, Any, T],
        *,
        undo: Callable[[], Coroutine[Any, Any, Any]] | None = None,
        cancellable: bool = True,
    ) -> T:
        """Run a coroutine on the host's loop, and wait for its end in any case.

        Args:
            run: The coroutine; it sees the caller's context variables.
            undo: Run where `run` has succeeded, but the caller was cancelled meanwhile.
            cancellable: Whether a cancellation of the caller cancels `run`.

        Raises:
            OwnershipError: The host has ended.
        """
        self._check(run)
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return await run
        call = Call(self, run)
        self.loop.call_soon_threadsafe(call.start)
        cancellation: BaseException | None = None
        while not call.is_done:
            if call.waiter.done():
                call.waiter = loop.create_future()
            try:
                await call.waiter
            except asyncio.CancelledError as error:
                # A second one would cut the connection, and the whole sandbox with it.
                if cancellable and cancellation is None:
                    self.loop.call_soon_threadsafe(call.cancel)
                cancellation = error
            except BaseException:
                # The caller's task is thrown away: nobody is there to wait.
                with contextlib.suppress(RuntimeError):  # the host has ended
                    self.loop.call_soon_threadsafe(call.cancel)
                raise
        if cancellation is None:
            result: T = call.result()
            return result
        if undo is not None and call.has_succeeded:
            await self.run(undo(), cancellable=False)
        raise cancellation

    def call(self, run: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the host's loop, and block the calling thread until its end.

        Raises:
            OwnershipError: The host has ended.
        """
        self._check(run)
        return asyncio.run_coroutine_threadsafe(run, self.loop).result()

    async def end(self) -> None:
        """Close the connections, and end the thread."""
        if self.is_running:
            await self.run(self.database.disconnect(), cancellable=False)
            self._stop()

    def end_from_thread(self) -> None:
        """Do :meth:`end` where no event loop runs, or where it may be blocked."""
        if self.is_running:
            self.call(self.database.disconnect())
            self._stop()
            self._thread.join()

    def _stop(self) -> None:
        if self._finalizer.detach() is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)

    def _check(self, run: Coroutine[Any, Any, Any]) -> None:
        if not self.is_running:
            run.close()
            raise OwnershipError(_ENDED)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, then close it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(asyncio.sleep(0))  # what was posted while it stopped
        while left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _end(host: Host) -> None:
    """End a host whose database is gone, in whatever thread that is noticed."""
    if host._process != os.getpid() or host.loop.is_closed():
        return

    async def close() -> None:
        with contextlib.suppress(Exception):
            await host.database.disconnect(timeout=END_SECONDS)
        host.loop.stop()

    asyncio.run_coroutine_threadsafe(close(), host.loop)
    if threading.current_thread() is not host._thread:
        host._thread.join(END_SECONDS)
