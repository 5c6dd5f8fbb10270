"""Jobs for a worker's thread, and the mailbox that brings them back to the event loop.

The loop is woken once for all jobs that have gathered in its mailbox: by a file descriptor where
the system has ``eventfd``, the cheapest way there is, otherwise by ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastdb.drivers.sqlite_worker import Worker

__all__ = ["Job", "Mailbox"]


class Job:
    """One call that the worker makes, and what came of it.

    Attributes:
        future: Done as soon as the job is; the result is here, not there.
        over: Made by who has to wait for the end after `future` was cancelled.
        cancelled: Set to keep a job from starting, or from waiting for a lock.
    """

    __slots__ = ("args", "cancelled", "done", "error", "function", "future", "over", "result")

    def __init__(
        self, future: asyncio.Future[None], function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Make a job that calls `function` with `args`."""
        self.future = future
        self.function: Callable[..., Any] = function
        self.args = args
        self.result: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.done = False
        self.over: asyncio.Future[None] | None = None

    def finish(self) -> None:
        """Tell who waits; called on the event loop."""
        self.done = True
        if not self.future.done():
            self.future.set_result(None)
        if self.over is not None and not self.over.done():
            self.over.set_result(None)

    def outcome(self) -> Any:
        """Return what the call returned, or raise what it raised."""
        if self.error is None:
            return self.result
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


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
        """Take out what has gathered; called on the event loop."""
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
        self._signalled = False
        finished = self._finished
        while finished:
            item = finished.popleft()
            if isinstance(item, Job):
                item.finish()
            else:
                self.leave(item)

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
