"""Errors of a driver as errors of ours, so that handlers written for either catch them."""

from __future__ import annotations

from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import Error, with_builtin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["from_driver"]

_merged: dict[tuple[type[Error], type[BaseException]], type[Error]] = {}

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set on classes that Python code made


def from_driver(kind: type[Error], error: BaseException) -> Error:
    """Return `error` as an instance of both `kind` and its own class.

    Raise the result ``from error``. Its class is made once per pair. It carries the driver's
    attributes and methods, reads as the original does (``str``, ``args``), and pickles.

    The class has the driver's ``__name__``, since programs and error trackers look for
    ``"UniqueViolationError"``, and shows both parents in a traceback:
    ``fastdb.exceptions.IntegrityError[asyncpg.exceptions.UniqueViolationError]``. An error of
    fastdb's own keeps its class; one that `kind` derives from becomes plain `kind`.

    Args:
        kind: The class of :mod:`fastdb.exceptions` that fits best.
        error: The driver's exception.
    """
    state = _state(error)
    state.pop("__notes__", None)  # they are shown with the cause
    if isinstance(error, Error):
        return _rebuild_as(type(error), error.args, state)
    return _rebuild(kind, type(error), error.args, state)


def _merged_class(kind: type[Error], driver_class: type[BaseException]) -> type[Error]:
    merged = _merged.get((kind, driver_class))
    if merged is None:
        # Of two threads that come here at once, both take what the first one stored.
        merged = _merged.setdefault((kind, driver_class), _merge(kind, driver_class))
    return merged


def _merge(kind: type[Error], driver_class: type[BaseException]) -> type[Error]:
    first = with_builtin(kind)
    if issubclass(first, driver_class):
        return first
    metaclass: Callable[..., Any] = type(driver_class)
    for base in first.__mro__:
        # Where layouts or method orders conflict, the built-in that `kind` has gives way.
        if not issubclass(base, Error):
            continue
        namespace: dict[str, Any] = {
            # asyncpg's metaclass refuses a class of a known name in a module of asyncpg's.
            "__module__": Error.__module__,
            "__qualname__": f"{base.__qualname__}[{_full_name(driver_class)}]",
            "__doc__": driver_class.__doc__,
            "__reduce_ex__": _reduce_ex,
            # OSError's, which some kinds have, would come before that of a driver without one.
            "__str__": driver_class.__str__,
            "_origin": (kind, driver_class),
        }
        try:
            # The driver's class comes first: its methods are those that its users know.
            merged: type[Error] = metaclass(driver_class.__name__, (driver_class, base), namespace)
            return merged
        except Exception:  # a metaclass or __init_subclass__ may refuse in its own way
            continue
    return first


def _full_name(driver_class: type[BaseException]) -> str:
    if driver_class.__module__ == "builtins":
        return driver_class.__qualname__
    return f"{driver_class.__module__}.{driver_class.__qualname__}"


def _state(error: BaseException) -> dict[str, Any]:
    """Return every attribute, those in slots and in C structures (``errno``) included."""
    state = {}
    for cls in type(error).__mro__[:-1]:
        if cls is BaseException:  # its members are args, and what belongs to the raised instance
            continue
        for name, member in vars(cls).items():
            if (
                isinstance(member, MemberDescriptorType | GetSetDescriptorType)
                and name not in ("__dict__", "__weakref__")
                and name not in state
            ):
                with suppress(Exception):  # an attribute that was never set
                    value = member.__get__(error, type(error))
                    # None is what a C structure shows for unset, and is not to be set: an OSError
                    # whose filename was set to None says so.
                    if value is not None or cls.__flags__ & _HEAP_TYPE:
                        state[name] = value
    return state | vars(error)


def _rebuild(
    kind: type[Error],
    driver_class: type[BaseException],
    args: tuple[Any, ...],
    state: dict[str, Any],
) -> Error:
    return _rebuild_as(_merged_class(kind, driver_class), args, state)


def _rebuild_as(cls: type[Error], args: tuple[Any, ...], state: dict[str, Any]) -> Error:
    # The driver's __new__ and __init__ may want other arguments than `args`: neither is run again.
    builtin: type[BaseException] = cls
    while builtin.__flags__ & _HEAP_TYPE and builtin.__base__ is not None:
        builtin = builtin.__base__
    # Without arguments OSError does not take the driver's for an errno; groups insist on theirs.
    group = issubclass(cls, BaseExceptionGroup)
    error = builtin.__new__(cls, *args) if group else builtin.__new__(cls)
    # BaseException's own setter: a driver's class may refuse changes (asyncpg's warnings do).
    BaseException.__setattr__(error, "args", args)
    for name, value in state.items():
        with suppress(AttributeError, TypeError):  # read-only
            BaseException.__setattr__(error, name, value)
    return error


def _reduce_ex(self: Any, protocol: int) -> tuple[Any, ...]:
    kind, driver_class = self._origin
    return _rebuild, (kind, driver_class, self.args, _state(self))
