"""Answers of asyncpg's that a task goes on with in the turn of the event loop that brings them.

A future has its task wait for the next turn of the loop, which costs as much as all that fastdb
does for a row by its key. asyncpg makes its futures with the ``create_future`` of the loop that it
is given, and finishes them while it reads what came. So it is given a :class:`PromptLoop`, and its
protocol stands behind a :class:`PromptProtocol`, which calls those who wait once all is read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

__all__ = ["PromptFuture", "PromptLoop", "PromptProtocol"]


class PromptLoop:
    """Stand for an event loop whose futures call back in the turn in which they are finished.

    Attributes:
        real: The event loop itself.
        reading: Whether :class:`PromptProtocol` is handing data on, outside of any task.
        due: What is to be called once that is over, in this order.
    """

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        """Stand for `real`."""
        self.real = real
        self.reading = False
        self.due: list[tuple[Callable[[Any], object], Any, Context]] = []
        # Every future asks for it; __getattr__() would have it looked for in vain first.
        self.get_debug = real.get_debug

    def create_future(self) -> PromptFuture:
        """Return a future that is finished by what is read."""
        return PromptFuture(loop=self)  # type: ignore[arg-type]

    def call_soon(self, callback: Callable[[Any], object], future: Any, context: Context) -> None:
        """Call `callback` once all is read, where something is, otherwise as the loop does.

        None but futures call this.
        """
        if self.reading:
            self.due.append((callback, future, context))
        else:
            self.real.call_soon(callback, future, context=context)

    def call_due(self) -> None:
        """Call what is due; called by the event loop, not within a task."""
        due, self.due = self.due, []
        for callback, future, context in due:
            try:
                context.run(callback, future)
            except (SystemExit, KeyboardInterrupt) as error:
                # Out of a task; these end the event loop. A transport takes them for its own.
                self.real.call_soon(_raise, error)
            except BaseException as error:
                self.real.call_exception_handler(
                    {"message": f"Exception in callback {callback!r}", "exception": error}
                )

    def __getattr__(self, name: str) -> Any:
        """Do everything else as the loop itself does."""
        return getattr(self.real, name)


class PromptFuture(asyncio.Future[Any]):
    """A future of a :class:`PromptLoop`, which tasks take for one of the loop itself."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop itself."""
        real: asyncio.AbstractEventLoop = self._loop.real  # type: ignore[attr-defined]
        return real


class PromptProtocol(asyncio.Protocol):
    """Hand on to a protocol of asyncpg's what a transport brings; then let tasks go on."""

    def __init__(self, protocol: asyncio.Protocol, prompt: PromptLoop) -> None:
        """Stand before `protocol`, whose futures `prompt` makes."""
        self._protocol = protocol
        self._prompt = prompt

    def data_received(self, data: bytes) -> None:
        """Let asyncpg read; then call those for whom there was an answer."""
        prompt = self._prompt
        # A transport may hand data on within a task, which no other may interrupt.
        prompt.reading = asyncio.current_task(prompt.real) is None
        try:
            self._protocol.data_received(data)
        finally:
            prompt.reading = False
            if prompt.due:
                prompt.call_due()

    def eof_received(self) -> bool | None:
        """Hand on that the server sends no more."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on that the connection is gone."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on that the transport takes no more."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the transport takes more."""
        self._protocol.resume_writing()


def _raise(error: BaseException) -> NoReturn:
    raise error
