"""The options of the SQLite driver."""

from __future__ import annotations

import os
import re
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from fastdb.exceptions import OptionError
from fastdb.options import unknown_option

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["OPTION_NAMES", "Settings", "read_options"]

#: Milliseconds to wait for a lock where no option says so; also what sqlite3 does.
_BUSY_TIMEOUT = 5000

_URI_OPTIONS = frozenset({"cache", "immutable", "mode", "modeof", "nolock", "psow", "vfs"})
_JOURNAL_MODES = ("delete", "truncate", "persist", "memory", "wal", "off")
_SYNCHRONOUS = ("off", "normal", "full", "extra")
#: What the driver takes beside the pool's options.
OPTION_NAMES = _URI_OPTIONS | {
    "busy_timeout",
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "factory",
    "foreign_keys",
    "init",
    "isolation_level",
    "iter_chunk_size",
    "journal_mode",
    "synchronous",
    "timeout",
    "uri",
    "wal",
}


class Settings(NamedTuple):
    """How connections are opened.

    Attributes:
        name: The database, for messages.
        path: Its file; of a URI, the part between ``file:`` and ``?``.
        is_uri: Whether `path` comes from a URI and is quoted.
        uri_options: The query of the URI.
        memory: Whether it is in memory, where nobody else can lock it.
        shared_cache: Whether connections share a cache.
        connect: Arguments of ``sqlite3.connect`` but the path.
        pragmas: Names and values, in order.
        chunk_size: Rows that aiosqlite's own cursors fetch at once.
        init: Awaited with each new connection of aiosqlite's.
    """

    name: str
    path: str
    is_uri: bool
    uri_options: dict[str, str]
    memory: bool
    shared_cache: bool
    connect: dict[str, Any]
    pragmas: tuple[tuple[str, str], ...]
    chunk_size: int
    init: Callable[[Any], Awaitable[None]] | None

    @property
    def is_relative(self) -> bool:
        """Whether `path` is one from the current directory."""
        return not self.memory and not self.path.startswith("/")

    def address(self, directory: str) -> str:
        """Return what ``sqlite3.connect`` opens; a relative path is one from `directory`."""
        path = self.path
        if self.is_relative:
            path = os.path.join(_quoted(directory) if self.is_uri else directory, path)
        if not self.is_uri and not self.uri_options:
            return path
        query = urlencode(self.uri_options)
        return f"file:{path if self.is_uri else _quoted(path)}{'?' if query else ''}{query}"


def _quoted(path: str) -> str:
    return quote(os.fsencode(path))


def read_options(database: str, options: Mapping[str, Any]) -> Settings:
    """Return the settings that `options` make for `database`.

    Raises:
        OptionError: An option is unknown, or its value is none that it takes.
    """
    _check_names(options)
    take = _Options(options)
    take.isolation_level()
    uri = take.boolean("uri")
    path = database or ":memory:"
    uri_options = {
        name: take.uri_value(name)
        for name in sorted(_URI_OPTIONS & set(options))
        if options[name] is not None
    }
    is_uri = path.startswith("file:") and uri is not False
    if is_uri:
        path, _, query = path.removeprefix("file:").partition("?")
        uri_options = dict(parse_qsl(query)) | uri_options
    return Settings(
        name=database or ":memory:",
        path=path,
        is_uri=is_uri,
        uri_options=uri_options,
        memory=path == ":memory:" or uri_options.get("mode") == "memory",
        shared_cache=uri_options.get("cache") == "shared",
        connect={
            "timeout": take.busy_timeout() / 1000,
            "uri": is_uri or bool(uri_options),
            "detect_types": take.integer("detect_types", 0),
            "cached_statements": take.integer("cached_statements", 128),
            "check_same_thread": bool(take.boolean("check_same_thread")),
            "factory": take.factory(),
        },
        pragmas=take.pragmas(),
        chunk_size=take.integer("iter_chunk_size", 64),
        init=take.callable("init"),
    )


def _check_names(options: Mapping[str, Any]) -> None:
    if options.get("ssl") is not None:
        raise OptionError("SQLite takes no option 'ssl': it opens a file, not a connection")
    for name in options:
        if name not in OPTION_NAMES and name != "ssl":
            raise unknown_option(name, OPTION_NAMES)


class _Options:
    """Read options whose values may be strings out of a URL."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    def uri_value(self, name: str) -> str:
        value = self._options[name]
        return str(int(value)) if isinstance(value, bool) else str(value)

    def boolean(self, name: str) -> bool | None:
        value = self._options.get(name)
        if value is None or isinstance(value, bool):
            return value
        text = str(value).lower()
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off"):
            return False
        raise OptionError(f"{name} is {value!r}; it must be true or false")

    def integer(self, name: str, default: int) -> int:
        value = self._options.get(name)
        if value is None:
            return default
        number = int(value) if re.fullmatch(r"[0-9]{1,10}", str(value)) else -1
        if not 0 <= number < 2**31:
            raise OptionError(f"{name} is {value!r}; it must be a whole number from 0 to 2**31")
        return number

    def busy_timeout(self) -> float:
        """Return the milliseconds to wait for a lock."""
        timeout = self._options.get("timeout")
        if timeout is None:
            return self.integer("busy_timeout", _BUSY_TIMEOUT)
        if self._options.get("busy_timeout") is not None:
            raise OptionError(
                "timeout (seconds) and busy_timeout (milliseconds) mean the same; give one of them"
            )
        try:
            seconds = float(timeout)
        except (TypeError, ValueError):
            seconds = -1
        if isinstance(timeout, bool) or not 0 <= seconds < 2e6:
            raise OptionError(f"timeout is {timeout!r}; it must be a number of seconds, 0 or more")
        return seconds * 1000

    def callable(self, name: str) -> Callable[[Any], Awaitable[None]] | None:
        value = self._options.get(name)
        if value is not None and not callable(value):
            raise OptionError(f"{name} is {value!r}; it must be an async callable")
        return value

    def factory(self) -> type[sqlite3.Connection]:
        value = self._options.get("factory") or sqlite3.Connection
        if not (isinstance(value, type) and issubclass(value, sqlite3.Connection)):
            raise OptionError(f"factory is {value!r}; it must be a class of sqlite3.Connection")
        return value

    def isolation_level(self) -> None:
        value = self._options.get("isolation_level")
        if value is not None and str(value).lower() != "none":
            raise OptionError(
                f"isolation_level is {value!r}; it can only be None, as fastdb begins and ends"
                " transactions itself: use transaction(begin='deferred' | 'immediate' |"
                " 'exclusive')"
            )

    def pragmas(self) -> tuple[tuple[str, str], ...]:
        pragmas = []
        journal_mode = self._choice("journal_mode", _JOURNAL_MODES)
        wal = self.boolean("wal")
        if wal and journal_mode not in (None, "wal"):
            raise OptionError(f"wal=True and journal_mode={journal_mode!r} contradict each other")
        if wal or journal_mode:
            pragmas.append(("journal_mode", journal_mode or "wal"))
        synchronous = self._choice("synchronous", _SYNCHRONOUS)
        if synchronous:
            pragmas.append(("synchronous", synchronous))
        foreign_keys = self.boolean("foreign_keys")
        if foreign_keys is not None:
            pragmas.append(("foreign_keys", "1" if foreign_keys else "0"))
        return tuple(pragmas)

    def _choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = self._options.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or value.lower() not in choices:
            raise OptionError(f"{name} is {value!r}; it is one of {', '.join(map(repr, choices))}")
        return value.lower()
