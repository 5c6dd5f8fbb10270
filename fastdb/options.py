"""The options of the pool, taken out of a URL's query and the caller's keywords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fastdb.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

__all__ = ["Options", "boolean", "check_timeout", "split_options", "unknown_option"]

#: What users of the predecessor, of asyncpg, aiomysql and SQLAlchemy already pass.
_ALIASES = {
    "minsize": "min_size",
    "maxsize": "max_size",
    "pool_size": "max_size",
    "pool_recycle": "max_lifetime",
    "pool_timeout": "acquire_timeout",
    "max_inactive_connection_lifetime": "idle_timeout",
}

_RESETS = ("auto", "always", "never")


class Options(NamedTuple):
    """The options of every database, whatever its driver.

    Attributes:
        min_size: Connections that ``connect()`` opens; 0 still makes and checks one.
        max_size: Connections that are open at most.
        acquire_timeout: Seconds to wait for a connection, or for another task's transaction on
            one that is shared; None waits for ever.
        command_timeout: Seconds that a query may take where its call names no ``timeout``.
        max_lifetime: Seconds after which a connection is replaced; None keeps it.
        idle_timeout: Seconds after which an idle connection above `min_size` is closed.
        max_queries: Leases after which a connection is replaced; None keeps it.
        reset: When a returned session is reset: ``auto`` (where it may be dirty), ``always``,
            ``never``.
        query_cache_size: Compiled queries that are kept.
        setup: Awaited with the driver's connection at each lease.
        log_values: Whether the log shows parameter values.
        echo: Whether queries are logged at INFO rather than at DEBUG.
    """

    min_size: int = 1
    max_size: int = 10
    acquire_timeout: float | None = 30.0
    command_timeout: float | None = None
    max_lifetime: float | None = None
    idle_timeout: float | None = 300.0
    max_queries: int | None = None
    reset: str = "auto"
    query_cache_size: int = 1024
    setup: Callable[[Any], Awaitable[None]] | None = None
    log_values: bool = False
    echo: bool = False


OPTION_NAMES = frozenset(Options._fields) | frozenset(_ALIASES) | {"max_overflow"}


def unknown_option(name: str, driver_names: Iterable[str]) -> OptionError:
    """Return the error of an option that neither the driver nor the pool takes.

    Args:
        name: The option.
        driver_names: What the driver takes.
    """
    import difflib

    near = difflib.get_close_matches(name, {*OPTION_NAMES, *driver_names}, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return OptionError(
        f"unknown option {name!r}{hint}; every database takes {', '.join(sorted(OPTION_NAMES))}; "
        f"the driver takes {', '.join(sorted(driver_names))}"
    )


def check_timeout(timeout: Any) -> float | None:
    """Return the seconds of a ``timeout=``.

    Raises:
        OptionError: It is neither None nor a number of seconds.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise OptionError(f"timeout is {timeout!r}; it must be None or a number of seconds")
    return timeout


def split_options(
    url_options: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Options, dict[str, Any]]:
    """Return the pool's options, and those that are left for the driver.

    Args:
        url_options: The URL's query: values are strings.
        options: The caller's keywords, which win.

    Raises:
        OptionError: A value is none that the option takes, or an option is given twice under two
            names.
    """
    chosen: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for source in (url_options, options):
        own: dict[str, tuple[str, Any]] = {}
        overflow = 0
        for name, value in source.items():
            if name == "max_overflow":
                overflow = _integer(name, value, optional=False) or 0
                continue
            if name not in OPTION_NAMES:
                rest[name] = value
                continue
            target = _ALIASES.get(name, name)
            if target in own:
                raise OptionError(
                    f"the options {own[target][0]!r} and {name!r} mean the same; give one of them"
                )
            own[target] = (name, value)
        for target, (name, value) in own.items():
            chosen[target] = _CONVERTERS[target](name, value)
        if overflow:
            if "pool_size" not in source and "max_size" not in own:
                raise OptionError("max_overflow needs pool_size, to which it is added")
            chosen["max_size"] += overflow
    # One bound given alone moves the other's default out of its way.
    if "max_size" in chosen and "min_size" not in chosen:
        chosen["min_size"] = min(Options._field_defaults["min_size"], chosen["max_size"])
    if "min_size" in chosen and "max_size" not in chosen:
        chosen["max_size"] = max(Options._field_defaults["max_size"], chosen["min_size"])
    return _checked(Options(**chosen)), rest


def _checked(options: Options) -> Options:
    """Check what the options say of each other."""
    if options.max_size < 1:
        raise OptionError(f"max_size is {options.max_size!r}; it must be at least 1")
    if options.min_size < 0:
        raise OptionError(f"min_size is {options.min_size!r}; it must not be negative")
    if options.min_size > options.max_size:
        raise OptionError(
            f"min_size is {options.min_size!r}, more than max_size, which is {options.max_size!r}"
        )
    if options.query_cache_size < 0:
        raise OptionError(
            f"query_cache_size is {options.query_cache_size!r}; it must not be negative"
        )
    if options.reset not in _RESETS:
        raise OptionError(f"reset is {options.reset!r}; it is one of {', '.join(_RESETS)}")
    return options


def _integer(name: str, value: Any, *, optional: bool = True) -> int | None:
    if value is None and optional:
        return None
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {value!r}; it must be a whole number") from None


def _required_integer(name: str, value: Any) -> int:
    number = _integer(name, value, optional=False)
    assert number is not None
    return number


def _seconds(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {value!r}; it must be a number of seconds or None") from None
    if not seconds >= 0:
        raise OptionError(f"{name} is {value!r}; it must be 0 or more seconds")
    return seconds


def _lifetime(name: str, value: Any) -> float | None:
    # SQLAlchemy's pool_recycle and asyncpg's inactive lifetime say "never" with -1 and 0.
    if value in (-1, 0, "-1", "0"):
        return None
    return _seconds(name, value)


def boolean(name: str, value: Any) -> bool:
    """Return a truth value; strings are read as in a URL.

    Raises:
        OptionError: It is none.
    """
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        lowered = value.lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("", "0", "false", "no", "off"):
            return False
    raise OptionError(f"{name} is {value!r}; it must be true or false")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{name} is {value!r}; it must be a string")
    return value.lower()


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise OptionError(f"{name} is {value!r}; it must be an async callable")
    return value


_CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "min_size": _required_integer,
    "max_size": _required_integer,
    "acquire_timeout": _seconds,
    "command_timeout": _seconds,
    "max_lifetime": _lifetime,
    "idle_timeout": _lifetime,
    "max_queries": lambda name, value: _integer(name, value) or None,
    "reset": _text,
    "query_cache_size": _required_integer,
    "setup": _callable,
    "log_values": boolean,
    "echo": boolean,
}
