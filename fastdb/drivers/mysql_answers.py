"""A protocol that decodes an answer as its bytes arrive, before asyncio's streams see them.

A StreamReader copies what arrives, wakes a task for each piece and leaves the decoding to it. Here
a result that somebody waits for takes the bytes where the event loop has them, and the task is
woken once, at its end, within the same turn. Everything else goes to the stream, as it did.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastdb.drivers.base_wakeup import Wakeup

if TYPE_CHECKING:
    from fastdb._speedups import ResultReader

__all__ = ["AnswerLostError", "AnswerProtocol"]


class AnswerLostError(Exception):
    """The connection ended before the answer did; the cause is what it ended with, if anything."""


class AnswerProtocol(asyncio.Protocol):
    """Stand between a transport and the protocol of its stream."""

    __slots__ = ("_ended", "_loop", "_missing", "_parts", "_result", "_stream", "_waiter")

    def __init__(
        self, stream: asyncio.StreamReaderProtocol, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Pass on to `stream` what no result takes; tasks of `loop` wait for results."""
        self._stream = stream
        self._loop = loop
        self._result: ResultReader | None = None
        self._waiter: Wakeup | None = None
        self._ended = False
        # Pieces of a packet, and how many bytes at least it lacks.
        self._parts: list[bytes] = []
        self._missing = 0

    def expect(self, result: ResultReader) -> Wakeup:
        """Have `result` read what comes; return what is finished when it has ended.

        What follows it goes to the stream. Awaiting raises an error where the connection ends
        before (:class:`AnswerLostError`) and where the answer cannot be read; what follows that
        cannot be read either. A caller who does not wait to its end calls :meth:`wait` later,
        or closes the connection.

        Raises:
            AnswerLostError: The connection has ended already.
        """
        if self._ended:
            raise AnswerLostError
        self._result = result
        return self.wait()

    def is_reading(self, result: ResultReader) -> bool:
        """Return whether `result` has not ended and takes what comes."""
        return self._result is result

    def wait(self) -> Wakeup:
        """Return what is finished when the result has ended that takes what comes."""
        self._waiter = waiter = Wakeup(self._loop)
        return waiter

    def data_received(self, data: bytes) -> None:
        """Have the result read what came, or pass it on."""
        result = self._result
        if result is None:
            self._stream.data_received(data)
            return
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._parts)
            self._parts = []
        try:
            position = result.feed(data)
        except BaseException as error:
            self._wake(error)
            return
        if result.missing:
            self._missing = result.missing
            if position < len(data):
                self._parts = [data[position:]]
            return
        if position < len(data):
            self._stream.data_received(data[position:])
        self._wake(None)

    def _wake(self, error: BaseException | None) -> None:
        waiter = self._waiter
        self._result = self._waiter = None
        assert waiter is not None
        waiter.finish(error)

    def eof_received(self) -> bool | None:
        """Tell the stream, and whoever waits."""
        stays_open = self._stream.eof_received()
        self._end(None)
        return stays_open

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the stream, and whoever waits."""
        self._stream.connection_lost(error)
        self._end(error)

    def _end(self, reason: Exception | None) -> None:
        self._ended = True
        if self._result is not None:
            lost = AnswerLostError()
            lost.__cause__ = reason
            self._wake(lost)

    def pause_writing(self) -> None:
        """Tell the stream."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """Tell the stream."""
        self._stream.resume_writing()
