"""Passwords that no ``repr`` and no traceback shows.

Error reports show the local variables of each frame, and what stands in dicts among them. So
passwords travel as :class:`Secret` between our functions, and what takes a URL or options apart
lets no frame that saw them stand in a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from fastdb.exceptions import Error
from fastdb.url_text import MASK, is_secret_name

__all__ = ["Secret", "concealed", "hiding_frames", "revealed"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Secret(str):
    """A string whose ``repr`` does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show that it is there."""
        return repr(MASK)


class SecretBytes(bytes):
    """Bytes whose ``repr`` does not show them."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show that they are there."""
        return f"b{MASK!r}"


def concealed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` with what is named as a password concealed."""
    return {
        name: _conceal(value) if is_secret_name(name) else value for name, value in options.items()
    }


def _conceal(value: Any) -> Any:
    if isinstance(value, str):
        return Secret(value)
    return SecretBytes(value) if isinstance(value, bytes) else value


def revealed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` as packages take them that want strings and nothing derived from them."""
    return {
        name: str(value) if isinstance(value, Secret) else value for name, value in options.items()
    }


def hiding_frames(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let the errors that `function` raises show none of its frames, nor its arguments."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except Error as error:
            args, kwargs = (), {}  # type: ignore[assignment]
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    return call
