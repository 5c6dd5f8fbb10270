"""The thread on which one SQLite connection lives, and the way to it and back.

A user of ``raw_connection`` and SQLAlchemy post jobs to the ``_tx`` queue of an
``aiosqlite.Connection``. In its place stands our :class:`Worker`'s own queue, with our jobs in it,
too: one ``sqlite3`` connection, one thread, one order. Where the installed aiosqlite is built
otherwise than the one known here, its own thread serves the queue and runs our jobs among its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import weakref
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from fastdb.drivers.sqlite_mailbox import Job, JobQueue
from fastdb.exceptions import (
    DatabaseError,
    DriverNotInstalledError,
    NotConnectedError,
)
from fastdb.exceptions_driver import from_driver

try:
    import aiosqlite
    from aiosqlite import core
except ImportError as error:
    raise DriverNotInstalledError(
        "SQLite needs the package aiosqlite; install it with: pip install aiosqlite"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastdb.drivers.sqlite_mailbox import Mailbox
    from fastdb.drivers.sqlite_session import Session

__all__ = ["KNOWN_LAYOUT", "RawConnection", "Worker", "closed_error", "open_unknown"]

#: SQLite's virtual machine takes so many steps (about a millisecond) between two looks at whether
#: the job is cancelled, where ``interrupt()`` would reach others' statements.
_PROGRESS_STEPS = 50_000

#: Seconds that an interrupted job has to end once its task was cancelled again.
_PATIENCE = 1.0

_THREAD_NAME = "fastdb-sqlite"
_CLOSED = "the SQLite connection is closed"


def closed_error() -> NotConnectedError:
    """Return the error of using a connection that is closed."""
    return NotConnectedError(_CLOSED)


def _knows_layout() -> bool:
    """Return whether the installed aiosqlite is built as :class:`RawConnection` expects."""
    probe = aiosqlite.Connection(lambda: sqlite3.connect(":memory:"), 1)  # starts nothing
    thread = getattr(probe, "_thread", None)
    return (
        getattr(aiosqlite, "__version__", "").startswith("0.22.")
        and isinstance(getattr(probe, "_tx", None), SimpleQueue)
        and isinstance(thread, Thread)
        and thread.ident is None
        and probe.__dict__.get("_connection", probe) is None
        and probe.__dict__.get("_running") is True
        and all(
            hasattr(core, name)
            for name in ("_STOP_RUNNING_SENTINEL", "set_result", "set_exception")
        )
    )


KNOWN_LAYOUT = _knows_layout()


class RawConnection(aiosqlite.Connection):
    """The ``aiosqlite.Connection`` that users see, whose jobs our worker runs."""

    def __init__(self, worker: Worker, session: Session, chunk_size: int) -> None:
        """Wrap the connection of `session`, which is open and lives on the thread of `worker`."""
        connection = session.connection
        super().__init__(lambda: connection, chunk_size)
        self._worker = worker
        self._session = session
        self._tx = worker.queue  # type: ignore[assignment]  # with the methods that are used
        self._thread = worker.thread
        self._connection = connection
        worker.raw = weakref.ref(self)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; one that begins with the next statement counts."""
        return self._session.due is not None or super().in_transaction

    def detach(self) -> None:
        """Refuse further use; what is open is closed by others."""
        self._running = False
        self._connection = None

    @property
    def _conn(self) -> sqlite3.Connection:
        if self._connection is None:
            raise from_driver(NotConnectedError, ValueError(_CLOSED))
        return self._connection

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            raise from_driver(NotConnectedError, ValueError(_CLOSED))
        return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    def stop(self) -> asyncio.Future[Any] | None:
        """Stop the worker once all that was posted is done."""
        self._worker.closed = True  # before: nothing may be posted behind the end
        return super().stop()

    async def set_progress_handler(self, handler: Callable[[], int | None], n: int) -> None:
        """Set the user's own handler; it takes the place of ours."""
        self._worker.has_progress_handler = True
        await super().set_progress_handler(handler, n)


def _thread_of(raw: Any) -> Thread:
    thread: Thread = getattr(raw, "_thread", raw)  # up to 0.21 it is itself the thread
    return thread


async def open_unknown(path: str, **options: Any) -> Any:
    """Return an open connection of an aiosqlite that is built in an unknown way."""
    raw: Any = aiosqlite.connect(path, **options)
    thread = _thread_of(raw)
    thread.name, thread.daemon = _THREAD_NAME, True

    async def opened() -> None:
        await raw

    # Up to 0.21 a cancellation would leave the thread behind.
    opening = asyncio.ensure_future(opened())
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])
        if opening.exception() is None:
            await raw.close()
        thread.join()
        raise
    except BaseException:
        thread.join()  # it has been told to end
        raise
    return raw


class Worker:
    """Run jobs on a thread of their own, in the order in which they were posted.

    Attributes:
        queue: Our jobs, and aiosqlite's ``(future, function)``.
        closed: Whether nothing may be posted any more.
        shared: Whether statements of others may be open on the connection, or cursors of ours:
            an ``interrupt()`` would reach them all.
        connection: The connection whose statements are interrupted.
        on_foreign_job: Called on the thread before each job of aiosqlite's.
        begin_due: Called on the thread after that; where it fails, so does the job.
        on_close: Called on the thread as the last job; closes what is open.
        raw: What users see, which ends with the worker.
    """

    def __init__(self, mailbox: Mailbox, *, persistent: bool) -> None:
        """Make a worker that is not started.

        Args:
            mailbox: Where finished jobs go.
            persistent: Whether the connection must outlive a job that does not end in time.
        """
        self.mailbox = mailbox
        self.persistent = persistent
        self.closed = False
        self.shared = False
        self.has_progress_handler = False
        self.connection: sqlite3.Connection | None = None
        self.on_foreign_job: Callable[[], None] | None = None
        self.begin_due: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        # Weak, so that a connection that was forgotten is collected and ends the thread.
        self.raw: weakref.ref[RawConnection] | None = None
        self.thread = Thread(target=self._serve, name=_THREAD_NAME, daemon=True)
        self._foreign_raw: aiosqlite.Connection | None = None
        self._couriers: set[asyncio.Task[Any]] = set()
        self._last: Job | None = None
        self._started = False
        self._terminated = False
        self._current: Any = None  # what may be interrupted
        self._lock = Lock()
        self._bell = Event()

    # -- on the event loop

    def start(self) -> None:
        """Start the thread."""
        self.mailbox.join()
        self.queue = JobQueue()
        try:
            self.thread.start()
        except BaseException:
            self.queue.close()
            self.mailbox.leave(self)
            raise
        self._started = True

    def adopt(self, raw: aiosqlite.Connection) -> None:
        """Run jobs on the thread of `raw`, an aiosqlite that is built in an unknown way."""
        self.mailbox.join()
        self._foreign_raw = raw
        self._started = True
        self.thread = _thread_of(raw)

    def is_alive(self) -> bool:
        """Return whether jobs can be posted."""
        raw: Any = self._foreign_raw
        return not self.closed and (raw is None or raw._connection is not None)

    def run(self, function: Callable[..., Any], *args: Any) -> Job:
        """Post a call; await the job for what it returns or raises.

        Raises:
            NotConnectedError: The connection is closed.
        """
        if self.closed:
            raise closed_error()
        job = Job(self, function, args)
        if self._foreign_raw is None:
            self.queue.put(job)
        else:
            self._put(job)
        return job

    def _put(self, job: Job) -> None:
        if self._foreign_raw is None:
            self.queue.put(job)
            return
        coroutine = self._foreign_raw._execute(self._perform, job)  # type: ignore[no-untyped-call]
        courier = self.mailbox.loop.create_task(coroutine)
        self._couriers.add(courier)
        courier.add_done_callback(lambda task: self._note_delivery(job, task))

    def _note_delivery(self, job: Job, courier: asyncio.Task[Any]) -> None:
        self._couriers.discard(courier)
        if courier.cancelled() or courier.exception() is not None:  # closed behind our back
            job.error = closed_error()
            job.finish()

    async def run_to_end(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a call that a cancellation does not stop; the cancellation is raised afterwards."""
        job = self.run(function, *args)
        over = job.over = self.mailbox.loop.create_future()
        cancellation: asyncio.CancelledError | None = None
        while not job.done:
            try:
                await asyncio.shield(over)
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            raise cancellation
        return await job

    async def cancel(self, job: Job) -> None:
        """Interrupt a job that nobody wants any more, and wait for its end."""
        job.cancelled = True
        if job.done:
            return
        job.over = self.mailbox.loop.create_future()
        pause = 0.001
        deadline = math.inf
        while not job.over.done():
            if self.mailbox.loop.time() >= deadline:
                self.terminate()
                return
            # Between two statements of a job there is nothing to interrupt: say it again.
            self._interrupt(job)
            self._bell.set()
            try:
                await asyncio.wait([job.over], timeout=pause)
            except asyncio.CancelledError:
                # Most jobs end at once. One that does not, in a function of the user's perhaps,
                # must not hold up who insists; a database in memory would be lost with it.
                if not self.persistent:
                    deadline = min(deadline, self.mailbox.loop.time() + _PATIENCE)
            pause = min(pause * 2, 0.1)

    def _interrupt(self, job: Any = None) -> None:
        with self._lock:  # so that the job that is meant cannot end meanwhile
            current, connection = self._current, self.connection
            if connection is None or (job is not None and current is not job):
                return
            if job is not None and self._is_guarded():
                return  # the progress handler sees to it
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed
                connection.interrupt()

    def _is_guarded(self) -> bool:
        return self.shared and not self.has_progress_handler

    async def stop(self) -> None:
        """Close what is open, after all that was posted, and end the thread."""
        if self.closed or not self._started:
            self.closed = True
            return
        self._detach()
        job = self._post_last()
        over = job.over = self.mailbox.loop.create_future()
        while not job.done:
            try:
                await asyncio.shield(over)
            except asyncio.CancelledError:
                self._terminated = True
                if self._foreign_raw is not None:
                    self._abandon(self._foreign_raw)
                self._nag()
                raise
        if self._foreign_raw is not None:
            self.mailbox.post(self)
            await self._foreign_raw.close()
        self.thread.join()  # it has nothing left to do
        self.mailbox.take_leave(self)

    def terminate(self) -> None:
        """End the thread at once; what runs is interrupted, what was posted never starts."""
        self._terminated = True
        if not self.closed and self._started:
            self._detach()
            if self._foreign_raw is None:
                self._post_last()
            else:
                self.closed = True
                self._abandon(self._foreign_raw)
        self._nag()

    def _abandon(self, raw: aiosqlite.Connection) -> None:
        """Have `raw` closed, behind what it still has to do."""
        self.mailbox.post(self)
        closing = self.mailbox.loop.create_task(raw.close())
        self._couriers.add(closing)
        closing.add_done_callback(self._couriers.discard)

    def _post_last(self) -> Job:
        self.closed = True
        self._last = Job(self, self._close, ())
        self._put(self._last)
        return self._last

    def _detach(self) -> None:
        raw = None if self.raw is None else self.raw()
        if raw is not None:
            raw.detach()

    def _nag(self) -> None:
        """Interrupt until the thread has ended."""
        self._bell.set()
        if self.thread.is_alive():
            self._interrupt()
            with contextlib.suppress(RuntimeError):
                self.mailbox.loop.call_later(0.02, self._nag)

    # -- on the thread

    def seal(self) -> None:
        """Keep the rest of the running job, which cleans up, from being interrupted."""
        with self._lock:
            self._current = None
            if self._is_guarded() and self.connection is not None:
                self.connection.set_progress_handler(None, 0)

    def is_cancelled(self) -> bool:
        """Return whether nobody wants the running job any more."""
        current = self._current
        return self.is_dropped() or (isinstance(current, Job) and current.cancelled)

    def is_dropped(self) -> bool:
        """Return whether the connection is being terminated."""
        return self._terminated

    def pause(self, seconds: float) -> bool:
        """Sleep; return whether the running job was cancelled by then."""
        self._bell.clear()
        if not self.is_cancelled():
            self._bell.wait(seconds)
        return self.is_cancelled()

    def _close(self) -> None:
        if self.on_close is not None:
            self.on_close()

    def _serve(self) -> None:
        get = self.queue.get
        while True:
            item = get()
            if isinstance(item, Job):
                self._perform(item)
                if item is self._last:
                    break
            elif self._perform_foreign(*item):
                break
            del item  # it may be all that keeps a connection alive that was forgotten
        self.connection = None
        self.queue.close()
        self.mailbox.post(self)

    def _perform(self, job: Job) -> None:
        self._current = job
        guarded = self.shared and job is not self._last and self._guard(job)
        try:
            if job is self._last or not (job.cancelled or self.is_dropped()):
                job.outcome = job.function(*job.args)
            else:
                job.error = closed_error()
        except BaseException as error:
            job.error = error
            if self._terminated and isinstance(error, DatabaseError):
                job.error = closed_error()  # "interrupted" would not say by whom
                job.error.__cause__ = error
        with self._lock:
            self._current = None
        if guarded and self.connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.connection.set_progress_handler(None, 0)
        # A job that is kept, by a traceback perhaps, must not keep the connection.
        del job.function
        job.args = ()
        self.mailbox.post(job)

    def _guard(self, job: Job) -> bool:
        """Let SQLite ask whether `job` is cancelled: that stops this statement and no other."""
        if self.connection is None or self.has_progress_handler:
            return False
        with contextlib.suppress(sqlite3.Error):
            self.connection.set_progress_handler(
                lambda: int(job.cancelled or self.is_dropped()), _PROGRESS_STEPS
            )
        return True

    def _is_closing(self, function: Any) -> bool:
        """Return whether a job of aiosqlite's closes: that is done where nothing can be begun."""
        if self.closed and not self.queue:
            return True
        called = getattr(function, "func", None)
        return (
            called is not None and self.connection is not None and called == self.connection.close
        )

    def _perform_foreign(
        self, future: asyncio.Future[Any] | None, function: Callable[[], Any]
    ) -> bool:
        """Run a job of aiosqlite's and return whether it ends the thread."""
        self.shared = True
        if self.on_foreign_job is not None:
            with contextlib.suppress(sqlite3.Error):
                self.on_foreign_job()
        self._current = function
        result: Any = None
        deliver: Callable[..., Any] = core.set_result
        try:
            if self.begin_due is not None and not self._is_closing(function):
                self.begin_due()
            answer = result = function()
        except BaseException as error:
            answer, deliver = error, core.set_exception
        with self._lock:
            self._current = None
        if future is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                future.get_loop().call_soon_threadsafe(deliver, future, answer)
        return result is core._STOP_RUNNING_SENTINEL
