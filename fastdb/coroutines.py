"""Functions that return coroutines, known as such to whoever asks before the call."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Function = TypeVar("Function", bound=Callable[..., Coroutine[Any, Any, Any]])

__all__ = ["coroutine_function"]


def coroutine_function(function: Function) -> Function:
    """Mark a plain function that returns a coroutine, for ``inspect.iscoroutinefunction()``.

    Web frameworks ask it of their shutdown handlers, unittest of what ``addAsyncCleanup()`` was
    given, and ``unittest.mock`` of what it replaces: what they take for a plain function is called
    and never awaited. A plain one it is where the calling task matters: under ``wait_for()`` the
    body of an ``async def`` may run in another.
    """
    if sys.version_info >= (3, 12):  # pragma: no cover: what is measured is 3.11
        return inspect.markcoroutinefunction(function)
    # There the flag of the code is all that is looked at; what a call does, its bytecode says.
    code = function.__code__
    function.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    return function
