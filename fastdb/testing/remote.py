"""Objects of a driver's that live on the host's loop, for tasks of other loops."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from fastdb.testing.host import Host

__all__ = ["Remote"]

_ASYNC_METHODS = ("__await__", "__aenter__", "__aiter__", "__anext__")


class Remote:
    """Stand for an object of the host's loop; what it does is done there.

    Plain methods are called there while the caller's thread waits, and what they return is
    awaited, entered and iterated there. Data is handed over as it is.
    """

    __slots__ = ("_fastdb_host", "_fastdb_target")

    def __init__(self, host: Host, target: Any) -> None:
        """Stand for `target`."""
        object.__setattr__(self, "_fastdb_host", host)
        object.__setattr__(self, "_fastdb_target", target)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the object, for ``isinstance()``."""
        return type(self._fastdb_target)

    def __repr__(self) -> str:
        """Show the object."""
        return f"<{self._fastdb_target!r} of a shared sandbox>"

    def __eq__(self, other: object) -> bool:
        """Compare the objects."""
        return bool(self._fastdb_target == unwrapped(other))

    def __hash__(self) -> int:
        """Hash the object."""
        return hash(self._fastdb_target)

    def __getattr__(self, name: str) -> Any:
        return wrapped(self._fastdb_host, getattr(self._fastdb_target, name))

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the object."""
        setattr(self._fastdb_target, name, unwrapped(value))

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call it; where that is more than making a coroutine, on the host's loop."""
        call = functools.partial(
            self._fastdb_target,
            *(unwrapped(arg) for arg in args),
            **{name: unwrapped(value) for name, value in options.items()},
        )
        if inspect.iscoroutinefunction(self._fastdb_target):
            return wrapped(self._fastdb_host, call())

        async def there() -> Any:
            return call()

        return wrapped(self._fastdb_host, self._fastdb_host.call(there()))

    def __await__(self) -> Generator[Any, Any, Any]:
        """Await it."""
        return self._there(_awaited(self._fastdb_target)).__await__()

    async def __aenter__(self) -> Any:
        """Enter it."""
        return await self._there(_awaited(self._fastdb_target.__aenter__()))

    async def __aexit__(self, *exc: Any) -> Any:
        """Leave it."""
        return await self._there(_awaited(self._fastdb_target.__aexit__(*exc)))

    def __aiter__(self) -> Any:
        """Iterate over it."""
        return wrapped(self._fastdb_host, self._fastdb_target.__aiter__())

    async def __anext__(self) -> Any:
        """Take the next one."""
        # StopAsyncIteration may leave a coroutine, but not through the future of a task.
        end = object()
        result = await self._there(_next(self._fastdb_target, end))
        if result is end:
            raise StopAsyncIteration
        return result

    async def _there(self, run: Any) -> Any:
        return wrapped(self._fastdb_host, await self._fastdb_host.run(run))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _next(iterator: Any, end: object) -> Any:
    return await anext(iterator, end)


def wrapped(host: Host, value: Any) -> Any:
    """Return `value`, or what stands for it where it does something on its loop."""
    if (callable(value) and not isinstance(value, type)) or _is_async(type(value)):
        return Remote(host, value)
    return value


def unwrapped(value: Any) -> Any:
    """Return what `value` stands for, if it does."""
    return value._fastdb_target if type(value) is Remote else value


def _is_async(kind: type) -> bool:
    """Return whether objects of a class have something to await."""
    return any(hasattr(kind, name) for name in _ASYNC_METHODS) or any(
        inspect.iscoroutinefunction(member)
        for each in kind.__mro__
        for member in vars(each).values()
    )
