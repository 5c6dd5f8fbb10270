"""What one task awaits, and goes on with in the very turn of the event loop that brings it."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context
    from typing import NoReturn

__all__ = ["Wakeup"]


class Wakeup:
    """Stand for a future to the one task that awaits it, once.

    A future has its task wait for the next turn of the event loop, and a turn costs as much as a
    driver takes for a row by its key. To the task this looks like a future: it follows the protocol
    of https://docs.python.org/3/library/asyncio-extending.html.

    Attributes:
        done: Whether what is awaited has happened.
        error: What the task is to be told of it, if that is an error.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancellation",
        "_context",
        "_loop",
        "_wake",
        "done",
        "error",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make what a task of `loop` may await."""
        self._loop = loop
        self.done = False
        self.error: BaseException | None = None
        # Not yet False: ensure_future() is to wrap it in a task, and not to take it for a future.
        self._asyncio_future_blocking: bool | None = None
        self._wake: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancellation: asyncio.CancelledError | None = None

    def __await__(self) -> Generator[Any, None, None]:
        """Wait until it is finished; raise what it was finished with."""
        if not self.done:
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise the error, once."""
        error, self.error = self.error, None
        assert error is not None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def finish(self, error: BaseException | None = None) -> None:
        """Let the task go on; at once, where no other one runs."""
        self.done = True
        if error is not None:
            self.error = error
        wake, self._wake = self._wake, None
        if wake is None:
            return
        assert self._context is not None
        if asyncio.current_task(self._loop) is not None:
            self._loop.call_soon(wake, self, context=self._context)
            return
        try:
            self._context.run(wake, self)
        except (SystemExit, KeyboardInterrupt) as raised:
            # Out of the task; these end the event loop. A transport would take them for its own.
            self._loop.call_soon(_raise, raised)

    # -- what a task expects of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the task's event loop."""
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Take how the task is woken."""
        self._wake = callback
        self._context = copy_context() if context is None else context

    def cancel(self, msg: Any = None) -> bool:
        """Wake the task with a cancellation; return whether it was still to be woken."""
        wake, self._wake = self._wake, None
        if wake is None:
            return False
        self._cancellation = (
            asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        )
        self._loop.call_soon(wake, self, context=self._context)
        return True

    def result(self) -> None:
        """Tell a task that is woken whether it is cancelled."""
        cancellation, self._cancellation = self._cancellation, None
        if cancellation is not None:
            raise cancellation


def _raise(error: BaseException) -> NoReturn:
    raise error
