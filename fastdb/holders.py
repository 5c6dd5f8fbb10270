"""Who holds the connections of a pool, for the message that nobody else got one."""

from __future__ import annotations

import asyncio
import contextlib
import os.path
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from fastdb.drivers.base import DriverConnection

__all__ = ["describe_holders", "place_of_caller"]

#: Whose frames are passed over: fastdb's own, and those that merely call for others.
_BETWEEN: Final = (
    os.path.dirname(__file__),
    os.path.dirname(asyncio.__file__),
    contextlib.__file__,
)

#: So many tasks are looked at to name those that run a single query.
MAX_TASKS: Final = 2000


def place_of_caller() -> str:
    """Return where the application called what is running now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_between(frame):
        frame = frame.f_back
    return _place(frame)


def describe_holders(leased: Iterable[DriverConnection]) -> str:
    """Return who holds the connections of a pool, as a part of a message."""
    named = []
    anonymous = {}
    for connection in leased:
        if connection.holder is None:
            anonymous[id(connection)] = connection
        else:
            named.append(str(connection.holder))
    if anonymous:
        queries = list(_running_queries(anonymous))
        named += queries
        if len(queries) < len(anonymous):
            count = len(anonymous) - len(queries)
            named.append(f"{count} single quer{'y' if count == 1 else 'ies'}")
    return f", held by {'; '.join(named)}" if named else ""


def _running_queries(connections: dict[int, DriverConnection]) -> Iterator[str]:
    """Yield who runs a single query on one of `connections`.

    A query through the Database notes nothing at its start, which would cost every query: it is
    found in the coroutines of the tasks, once somebody has waited in vain.
    """
    tasks = asyncio.all_tasks()
    if len(tasks) > MAX_TASKS:
        return
    for task in tasks:
        coroutine: Any = task.get_coro()
        caller: FrameType | None = None
        while (frame := getattr(coroutine, "cr_frame", None)) is not None:
            if not _is_between(frame):
                caller = frame
            elif id(frame.f_locals.get("connection")) in connections:
                yield f"task {task.get_name()!r}{_place(caller)}"
                break
            coroutine = coroutine.cr_await


def _is_between(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_BETWEEN)


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    return f" (at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name})"
