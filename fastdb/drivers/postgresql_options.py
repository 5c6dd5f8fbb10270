"""The options of the PostgreSQL driver: from a URL and keywords to ``asyncpg.connect``."""

from __future__ import annotations

import inspect
import os
import ssl as ssl_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import asyncpg

from fastdb.exceptions import OptionError
from fastdb.options import unknown_option
from fastdb.url_secrets import Secret

if TYPE_CHECKING:
    from fastdb.url import DatabaseURL

__all__ = ["OPTION_NAMES", "ConnectArguments", "connect_arguments"]

#: What asyncpg.connect takes and fastdb does not, with the reason.
_REFUSED = {
    "connection_class": "fastdb has a subclass of asyncpg.Connection of its own; use init=",
    "dsn": "give the URL as the first argument",
    "loop": "fastdb uses the running event loop",
    "record_class": "fastdb makes records of its own",
}
#: What asyncpg takes in a URL only.
_TLS_OPTIONS = (
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
)
_SECRETS = frozenset({"sslpassword"})
_ALIASES = {
    "connect_timeout": "timeout",
    "prepared_statement_cache_size": "statement_cache_size",
    "username": "user",
}

OPTION_NAMES = (
    frozenset(inspect.signature(asyncpg.connect).parameters)
    - frozenset(_REFUSED)
    - {"command_timeout"}
    | frozenset(_TLS_OPTIONS)
    | frozenset(_ALIASES)
    | {"application_name", "init", "options", "sslmode"}
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TARGETS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
#: ssl=True: the certificate is checked against the machine's authorities.
_SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class ConnectArguments:
    """What a connection is opened with.

    Attributes:
        keywords: The arguments of ``asyncpg.connect``.
        init: Awaited with each new connection, and again after a reset.
        requires_tls: Whether a connection without TLS is to be refused, on a unix socket too.
        target: Where and as whom, in words, without the password.
    """

    keywords: dict[str, Any]
    init: Callable[[Any], Any] | None
    requires_tls: bool
    target: str


def connect_arguments(url: DatabaseURL, options: Mapping[str, Any]) -> ConnectArguments:
    """Check `options` and return what they ask for.

    Args:
        url: Where to connect, as whom.
        options: The URL's query overlaid with the caller's keywords, which win.

    Raises:
        OptionError: An option is unknown, or has a value that it does not take.
    """
    chosen = _checked_names(url, options)
    keywords: dict[str, Any] = {
        name: _CONVERTERS[name](name, value)
        for name, value in chosen.items()
        if name in _CONVERTERS and value is not None
    }
    _add_address(keywords, url)
    password = keywords.get("password")
    if isinstance(password, str) and any("\ud800" <= letter <= "\udfff" for letter in password):
        raise OptionError("the password is no text in UTF-8")
    settings = _server_settings(chosen)
    if settings:
        keywords["server_settings"] = settings
    requires_tls = _add_tls(keywords, chosen)
    return ConnectArguments(
        keywords, _callable("init", chosen.get("init")), requires_tls, _target(keywords)
    )


def _checked_names(url: DatabaseURL, options: Mapping[str, Any]) -> dict[str, Any]:
    from_url = url.options
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        if name in _REFUSED:
            raise OptionError(f"the option {name!r} is not taken: {_REFUSED[name]}")
        # DatabaseURL has read these already, as user, password, host and port.
        if name in _URL_OPTIONS and from_url.get(name) == value:
            continue
        if name not in OPTION_NAMES:
            raise unknown_option(name, OPTION_NAMES)
        target = _ALIASES.get(name, name)
        if target in chosen:
            raise OptionError(f"the options {name!r} and {target!r} mean the same; give one")
        if name == "connect_timeout" and str(value) == "0":
            value = None  # libpq: no limit
            chosen["timeout"] = None
            continue
        chosen[target] = value
    return chosen


_URL_OPTIONS = frozenset({"host", "password", "port", "unix_sock", "user", "username"})


# -- values


def _text(name: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        shown = f"of type {type(value).__qualname__!r}" if name in _SECRETS else repr(value)
        raise OptionError(f"{name} is {shown}; it must be a string")
    return value


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, int | str) or int(value) < 0:
            raise ValueError
    except ValueError:
        raise OptionError(f"{name} is {value!r}; it must be a whole number from 0") from None
    return int(value)


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if isinstance(value, bool) or not seconds > 0:
        raise OptionError(f"{name} is {value!r}; it must be a number of seconds above 0, or None")
    return seconds


def _boolean(name: str, value: Any) -> bool:
    truth = _truth(value)
    if truth is None:
        raise OptionError(f"{name} is {value!r}; it must be true or false")
    return truth


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    lowered = value.lower() if isinstance(value, str) else ""
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    return None


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    normal = value.lower().replace("_", "-") if isinstance(value, str) else value
    if normal not in known:
        raise OptionError(f"{name} is {value!r}; it is one of {', '.join(known)}")
    return str(normal)


def _password(name: str, value: Any) -> Any:
    if not isinstance(value, str) and not callable(value):
        raise OptionError(
            f"{name} is of type {type(value).__qualname__!r}; "
            "it must be a string, or a callable that returns (or awaits) one"
        )
    return value


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise OptionError(f"{name} is {value!r}; it must be an async callable")
    return value


def _hosts(name: str, value: Any) -> list[str]:
    hosts = value.split(",") if isinstance(value, str) else value
    if not isinstance(hosts, list | tuple) or not all(isinstance(host, str) for host in hosts):
        raise OptionError(f"{name} is {value!r}; it must be a string or a list of strings")
    return [host.strip("[]") for host in hosts]


def _ports(name: str, value: Any) -> list[int]:
    ports = value.split(",") if isinstance(value, str) else value
    return [
        _integer(name, port) for port in (ports if isinstance(ports, list | tuple) else [ports])
    ]


_CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "host": _hosts,
    "port": _ports,
    "user": _text,
    "password": _password,
    "database": _text,
    "passfile": _text,
    "service": _text,
    "servicefile": _text,
    "timeout": _seconds,
    "statement_cache_size": _integer,
    "max_cached_statement_lifetime": _integer,
    "max_cacheable_statement_size": _integer,
    "direct_tls": _boolean,
    "target_session_attrs": lambda name, value: _one_of(name, value, _TARGETS),
    "krbsrvname": _text,
    "gsslib": lambda name, value: _one_of(name, value, ("gssapi", "sspi")),
}


# -- where and as whom


def _add_address(keywords: dict[str, Any], url: DatabaseURL) -> None:
    if "host" not in keywords and url.hosts:
        keywords["host"] = [host for host, _ in url.hosts]
        ports = [port for _, port in url.hosts]
        if "port" not in keywords and any(ports):
            keywords["port"] = [port or 5432 for port in ports]
    if "port" not in keywords and url.port is not None and not url.hosts:
        keywords["port"] = [url.port]
    hosts, ports_given = keywords.get("host", [""]), keywords.get("port", [])
    if len(ports_given) > 1 and len(ports_given) != len(hosts):
        raise OptionError(f"there are {len(hosts)} hosts but {len(ports_given)} ports")
    for name, value in (
        ("user", url.username),
        ("password", None if url.password is None else Secret(url.password)),
        ("database", url.database or None),
    ):
        if value is not None:
            keywords.setdefault(name, value)


def _target(keywords: dict[str, Any]) -> str:
    hosts = keywords.get("host") or [os.environ.get("PGHOST") or "its default host"]
    ports = keywords.get("port") or [os.environ.get("PGPORT") or 5432]
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in zip(hosts, ports, strict=True)
    ]
    user = keywords.get("user") or os.environ.get("PGUSER")
    database = keywords.get("database") or os.environ.get("PGDATABASE") or user
    who = f" as user {user!r}" if user else ""
    where = f" to database {database!r}" if database else ""
    return f"PostgreSQL at {', '.join(places)}{who}{where}"


def _server_settings(chosen: Mapping[str, Any]) -> dict[str, str]:
    settings = chosen.get("server_settings") or {}
    if not isinstance(settings, Mapping):
        raise OptionError(
            f"server_settings is {settings!r}; it must be a mapping; "
            "in a URL use options=-c%20name%3Dvalue"
        )
    result = {}
    for name, value in settings.items():
        if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
            raise OptionError(
                f"server_settings has {name!r}: {value!r}; it maps names to strings or numbers"
            )
        result[name] = ("on" if value else "off") if isinstance(value, bool) else str(value)
    for name in ("application_name", "options"):
        if chosen.get(name) is not None:
            result[name] = _text(name, chosen[name])
    return result


# -- TLS


def _add_tls(keywords: dict[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Add what asyncpg is to be told of TLS; return whether a connection must have it."""
    files = {
        name: _text(name, chosen[name])
        for name in _TLS_OPTIONS
        if chosen.get(name) not in (None, "")
    }
    if "sslnegotiation" in files:
        files["sslnegotiation"] = _one_of(
            "sslnegotiation", files["sslnegotiation"], ("postgres", "direct")
        )
    given = chosen.get("ssl")
    sslmode = chosen.get("sslmode")
    if sslmode is not None:
        sslmode = _one_of("sslmode", sslmode, _SSL_MODES)
    if isinstance(given, ssl_module.SSLContext):
        return _add_context(keywords, given, sslmode, files)
    mode = _ssl_mode(given)
    if files.get("sslrootcert") == _SYSTEM:  # libpq: the machine's authorities, checked in full
        del files["sslrootcert"]
        if mode in _SSL_MODES[:-1] or sslmode in _SSL_MODES[:-1]:
            raise OptionError("sslrootcert=system needs sslmode=verify-full")
        mode = _SYSTEM
    elif mode == _SYSTEM and "sslrootcert" in files:
        mode = "verify-full"
    requires_tls = mode is not None and _rank(mode) >= _rank("require")
    mode = _agreed(mode, sslmode)
    if mode == _SYSTEM:
        if files.keys() <= {"sslnegotiation"}:
            keywords["ssl"] = True
        else:
            keywords["ssl"] = _system_context(files)
            files = {name: files[name] for name in files.keys() & {"sslnegotiation"}}
    elif mode is not None:
        keywords["ssl"] = mode
    if files:
        keywords["dsn"] = Secret(f"postgresql://?{urlencode(files)}")
    if requires_tls and not {"host", "service"} & keywords.keys() and "PGHOST" not in os.environ:
        # asyncpg would look for unix sockets first, which know no TLS.
        keywords["host"] = ["localhost"]
    return requires_tls


def _add_context(
    keywords: dict[str, Any],
    context: ssl_module.SSLContext,
    sslmode: str | None,
    files: dict[str, str],
) -> bool:
    if sslmode == "disable":
        raise OptionError("ssl asks for TLS, and sslmode='disable' forbids it")
    if files.keys() - {"sslnegotiation"}:
        raise OptionError(
            f"ssl is an SSLContext; load what {', '.join(sorted(files))} would say into it"
        )
    keywords["ssl"] = context
    if files:
        keywords["dsn"] = Secret(f"postgresql://?{urlencode(files)}")
    return True


def _ssl_mode(value: Any) -> str | None:
    if value is None:
        return None
    truth = _truth(value)
    if truth is not None:
        return _SYSTEM if truth else "disable"
    try:
        return _one_of("ssl", value, _SSL_MODES)
    except OptionError:
        raise OptionError(
            f"ssl is {value!r}; it is true, false, an ssl.SSLContext or one of "
            f"{', '.join(_SSL_MODES)}"
        ) from None


def _rank(mode: str) -> int:
    return len(_SSL_MODES) if mode == _SYSTEM else _SSL_MODES.index(mode)


def _agreed(ssl: str | None, sslmode: str | None) -> str | None:
    """Return the stricter of the two; a plain no beside anything else is a mistake."""
    if ssl is None or sslmode is None:
        return ssl or sslmode
    if ssl != sslmode and "disable" in (ssl, sslmode):
        said = "disable" if ssl == "disable" else repr(ssl)
        raise OptionError(f"ssl ({said}) and sslmode ({sslmode!r}) contradict each other")
    return max(ssl, sslmode, key=_rank)


def _system_context(files: dict[str, str]) -> ssl_module.SSLContext:
    try:
        context = ssl_module.create_default_context()
        if "sslcert" in files:
            context.load_cert_chain(
                files["sslcert"], files.get("sslkey"), files.get("sslpassword", "")
            )
        if "sslcrl" in files:
            context.load_verify_locations(cafile=files["sslcrl"])
            context.verify_flags |= ssl_module.VERIFY_CRL_CHECK_CHAIN
        for name, attribute in (("min", "minimum_version"), ("max", "maximum_version")):
            version = files.get(f"ssl_{name}_protocol_version")
            if version is not None:
                setattr(context, attribute, ssl_module.TLSVersion[version.replace(".", "_")])
        context.set_alpn_protocols(["postgresql"])
    except (OSError, KeyError, ValueError) as error:
        raise OptionError(f"cannot use {', '.join(sorted(files))}: {error}") from error
    return context
