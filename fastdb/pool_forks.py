"""What a forked process does with the connections of its parent: nothing.

A fork copies the descriptors of sockets and of the event loop's selector, but what is behind them
stays shared. Were the child to close a connection, or merely to drop the last reference to one, it
would say good-bye to the parent's server, or take the parent's socket out of the selector that both
share. So in the child those descriptors are replaced by dead ones, before any code runs there.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastdb.pool import Pool

__all__ = ["disown_in_forks"]

_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()

#: Kept, so that nothing of the parent's is ever collected here.
_inherited: Final[list[Pool]] = []


def disown_in_forks(pool: Pool) -> None:
    """Have forked processes leave the connections of `pool` alone."""
    _pools.add(pool)


def _disown_all() -> None:
    for pool in list(_pools):
        _inherited.append(pool)
        _replace_selector(getattr(pool.loop, "_selector", None))
        for connection in pool._disown():
            for descriptor in connection.descriptors():
                _replace(descriptor)
    _pools.clear()


def _replace_selector(selector: Any) -> None:
    """Give asyncio's loop a selector of its own; uvloop does so by itself."""
    epoll = getattr(selectors, "EpollSelector", None)
    if epoll is not None and isinstance(selector, epoll):
        with contextlib.suppress(OSError, ValueError), epoll() as fresh:
            os.dup2(fresh.fileno(), selector.fileno(), inheritable=False)


def _replace(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        try:
            os.dup2(null, descriptor, inheritable=False)
        finally:
            os.close(null)


if hasattr(os, "register_at_fork"):  # pragma: no branch: Windows has no forks
    os.register_at_fork(after_in_child=_disown_all)
