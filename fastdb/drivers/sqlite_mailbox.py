"""Jobs for a worker's thread, the way there, and the mailbox that brings them back.

Both sides are woken by a file descriptor where the system has ``eventfd``. The loop is woken once
for all jobs that have gathered in its mailbox; elsewhere by ``call_soon_threadsafe``. The thread
sleeps in a system call rather than on a lock: who writes to a descriptor lets go of the GIL
meanwhile, so that the thread that wakes finds it free. A lock is released under the GIL. There the
thread wakes only to wait again, and each job costs five switches between threads instead of two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from functools import partial
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

from fastdb.drivers.base_wakeup import Wakeup

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fastdb.drivers.sqlite_worker import Worker

__all__ = ["Job", "JobQueue", "Mailbox"]


class Job(Wakeup):
    """One call that the worker makes, what came of it, and the way to await that.

    Attributes:
        over: Made by who has to wait for the end, whatever happens to the task that awaits.
        cancelled: Set to keep a job from starting, or from waiting for a lock.
    """

    __slots__ = ("_worker", "args", "cancelled", "function", "outcome", "over")

    def __init__(self, worker: Worker, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Make a job of `worker` that calls `function` with `args`."""
        super().__init__(worker.mailbox.loop)
        self._worker = worker
        self.function: Callable[..., Any] = function
        self.args = args
        self.outcome: Any = None
        self.cancelled = False
        self.over: asyncio.Future[None] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        """Return what the call gives; cancelled, it has ended or never begun when this returns."""
        if not self.done:
            self._asyncio_future_blocking = True
            try:
                yield self
            except asyncio.CancelledError:
                yield from self._worker.cancel(self).__await__()
                raise
        if self.error is not None:
            self.fail()
        return self.outcome

    def finish(self, error: BaseException | None = None) -> None:
        """Let the task go on that awaits, and who waits for the end; called on the event loop."""
        if self.over is not None and not self.over.done():
            self.over.set_result(None)
        super().finish(error)


class JobQueue:
    """Jobs on their way to one thread. Any thread may put some in; only that one takes them out.

    Attributes:
        has_foreign: Whether jobs of aiosqlite's may be in the queue, or running.
    """

    def __init__(self) -> None:
        """Make an empty queue."""
        self.has_foreign = False
        self._items: deque[Any] = deque()
        self._sleeps = False
        self._lock = Lock()
        self._descriptor: int | None = None
        tokens: SimpleQueue[None] = SimpleQueue()
        self._wake: Callable[[], object] = partial(tokens.put, None)
        self._sleep: Callable[[], object] = tokens.get
        if hasattr(os, "eventfd"):
            with contextlib.suppress(OSError):  # too many open files
                self._descriptor = os.eventfd(0, os.EFD_CLOEXEC)
                self._wake = partial(os.eventfd_write, self._descriptor, 1)
                self._sleep = partial(os.eventfd_read, self._descriptor)

    def put(self, item: Any) -> None:
        """Put an item in, and wake the thread where it sleeps."""
        self._items.append(item)
        if self._sleeps:
            with self._lock:  # so that nobody writes to a descriptor that is closed
                if self._sleeps:
                    self._sleeps = False
                    self._wake()

    def put_nowait(self, item: Any) -> None:
        """Put in a job of aiosqlite's, or of somebody who takes the queue for its own."""
        self.has_foreign = True
        self.put(item)

    def __bool__(self) -> bool:
        """Return whether there is something in the queue."""
        return bool(self._items)

    def get(self) -> Any:
        """Take the oldest item out; sleep until there is one."""
        while True:
            if self._items:
                return self._items.popleft()
            self._sleeps = True
            # It came before it could be known that somebody sleeps.
            if self._items:  # pragma: no cover: a race that cannot be forced
                self._sleeps = False
                continue
            with contextlib.suppress(InterruptedError):
                self._sleep()

    def close(self) -> None:
        """Give the descriptor back; called by the thread, which takes nothing out any more."""
        with self._lock:
            self._sleeps = False
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class Mailbox:
    """Carry finished jobs from the workers of one event loop to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, by_descriptor: bool) -> None:
        """Make the mailbox; nothing is watched before the first :meth:`join`.

        Args:
            loop: The event loop that is woken.
            by_descriptor: Whether a file descriptor wakes it, where the system has ``eventfd``:
                every thread that posts must be one that can be joined before it is closed.
        """
        self.loop = loop
        self._by_descriptor = by_descriptor and hasattr(os, "eventfd")
        self.members = 0
        self._finished: deque[Job | Worker] = deque()
        self._signalled = False
        self._descriptor: int | None = None

    def __del__(self) -> None:
        """Close the descriptor, where the loop was closed before the connections."""
        # The last thread that could write to it holds the mailbox, so it is gone, too.
        if self._descriptor is not None:
            os.close(self._descriptor)

    def join(self) -> None:
        """Watch for jobs until as many members have left as joined."""
        self.members += 1
        if self.members > 1 or not self._by_descriptor:
            return
        try:
            descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:  # too many open files
            return
        try:
            self.loop.add_reader(descriptor, self.collect)
        except NotImplementedError:  # a loop without readers
            os.close(descriptor)
        else:
            self._descriptor = descriptor

    def post(self, item: Job | Worker) -> None:
        """Deliver a finished job, or say that a worker has ended; called on any thread."""
        self._finished.append(item)
        if self._signalled:
            return
        # In this order: collect() clears the flag before it looks, so that nothing is overlooked.
        self._signalled = True
        if self._descriptor is not None:
            os.eventfd_write(self._descriptor, 1)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self.collect)

    def collect(self) -> None:
        """Take out what has gathered; called by the event loop, not within a task."""
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
        self._signalled = False
        finished = self._finished
        # No more than there is by now: the tasks that go on post further jobs, which may be done
        # before the last of them has gone on, and the loop has others to serve. Who posts what
        # comes later signals it.
        for _ in range(len(finished)):
            item = finished.popleft()
            if isinstance(item, Job):
                item.finish()
            else:
                self.leave(item)

    def take_leave(self, worker: Worker) -> None:
        """Count `worker` out, whose thread has said that it has ended, if that is still to do."""
        with contextlib.suppress(ValueError):
            self._finished.remove(worker)
            self.leave(worker)

    def leave(self, worker: Worker) -> None:
        """Count `worker` out, whose thread has ended; behind the last one nothing is watched."""
        self.members -= 1
        if self._descriptor is not None and worker.thread.ident is not None:
            worker.thread.join()  # this was its last word; it may still have to signal it
        if self.members == 0 and self._descriptor is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
