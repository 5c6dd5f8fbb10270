"""Changing parts of a DatabaseURL: :meth:`fastdb.url.DatabaseURL.replace`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import InvalidURLError, URLTypeError
from fastdb.url_text import IPV6, PATH_SAFE, SCHEME, join, pair, quoted

if TYPE_CHECKING:
    from fastdb.url import DatabaseURL
    from fastdb.url_text import Hosts

__all__ = ["changed", "render_host", "render_options"]

#: Keywords of replace() -> those that say the same and cannot stand beside it.
_FIELDS: dict[str, tuple[str, ...]] = {
    "scheme": ("dialect", "driver"),
    "dialect": (),
    "driver": (),
    "netloc": (),
    "userinfo": ("username", "password"),
    "username": (),
    "password": (),
    "hosts": ("hostname", "port"),
    "hostname": (),
    "port": (),
    "path": ("database",),
    "database": (),
    "query": ("options",),
    "options": (),
}

#: Driver names that people take for dialects.
_DRIVER_NAMES = frozenset(
    """
    aiomysql aiopg aiosqlite asyncmy asyncpg cymysql mysqlclient mysqlconnector mysqldb pg8000
    psycopg psycopg2 psycopg2cffi psycopg_async pymysql pysqlite
    """.split()  # noqa: SIM905
)


def changed(url: DatabaseURL, changes: dict[str, Any]) -> DatabaseURL:
    """Return the URL with some parts changed; see :meth:`fastdb.url.DatabaseURL.replace`."""
    _check_keywords(changes)
    if not changes:
        return url
    if "netloc" in changes:
        netloc = _raw("netloc", changes.pop("netloc"), "/?")
        return changed(type(url)(join(url._scheme, netloc, url._path, url._query)), changes)
    superseded: set[str] = set()
    userinfo, at, hosts = url._netloc.rpartition("@")
    if changes.keys() & {"userinfo", "username", "password"}:
        userinfo = _new_userinfo(userinfo, changes, superseded)
        at = "@" if userinfo else ""
    if changes.keys() & {"hosts", "hostname", "port"}:
        hosts = ",".join(render_host(*host) for host in _new_hosts(url, changes))
        superseded |= {"host", "unix_sock", "port"}
    path = url._path
    if "path" in changes:
        path = _raw("path", changes["path"], "?")
        path = f"/{path}" if path and not path.startswith("/") else path
    elif "database" in changes:
        database = _plain("database", changes["database"])
        path = "/" + quoted(database, PATH_SAFE) if database else ""
    query = url._query
    if "query" in changes:
        query = _raw("query", changes["query"], "").removeprefix("?")
    elif "options" in changes:
        query = render_options(changes["options"])
    elif superseded:
        pieces = query.split("&")
        query = "&".join(piece for piece in pieces if pair(piece)[0] not in superseded)
    return type(url)(join(_new_scheme(url, changes), userinfo + at + hosts, path, query))


def _new_scheme(url: DatabaseURL, changes: dict[str, Any]) -> str:
    if "scheme" in changes:
        scheme = _plain("scheme", changes["scheme"])
        if not SCHEME.fullmatch(scheme):
            raise InvalidURLError(f"{scheme!r} is no scheme; a scheme is 'dialect+driver'")
        return scheme
    if not changes.keys() & {"dialect", "driver"}:
        return url._scheme
    dialect = _plain("dialect", changes.get("dialect", url.dialect))
    driver = _plain("driver", changes.get("driver", url.driver))
    if dialect.lower() in _DRIVER_NAMES:
        raise InvalidURLError(
            f"{dialect!r} is a driver, not a dialect; use replace(driver={dialect!r})"
        )
    if "+" in dialect:
        raise InvalidURLError(f"{dialect!r} is no dialect; use replace(scheme={dialect!r})")
    scheme = f"{dialect}+{driver}" if driver else dialect
    if not SCHEME.fullmatch(scheme):
        raise InvalidURLError(f"{scheme!r} is no scheme; a scheme is 'dialect+driver'")
    return scheme


def _new_hosts(url: DatabaseURL, changes: dict[str, Any]) -> Hosts:
    if "hosts" in changes:
        try:
            pairs = [(host, port) for host, port in changes["hosts"] or ()]
        except (TypeError, ValueError):
            raise URLTypeError("hosts takes an iterable of (host, port) tuples") from None
        return [(_plain("hosts", host), _port_of(port)) for host, port in pairs]
    port = _port_of(changes["port"]) if "port" in changes else url.port
    if "hostname" in changes:
        return [(_plain("hostname", changes["hostname"]), port)]
    return [(host, port) for host, _ in url._hosts] or [("", port)]


def _new_userinfo(userinfo: str, changes: dict[str, Any], superseded: set[str]) -> str:
    if "userinfo" in changes:
        superseded |= {"user", "username", "password"}
        raw = changes["userinfo"]
        return _raw(
            "userinfo",
            raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw,
            "/?",
        )
    user, colon, password = userinfo.partition(":")
    if "username" in changes:
        superseded |= {"user", "username"}
        user = quoted(_plain("username", changes["username"]))
    if "password" in changes:
        superseded.add("password")
        password = quoted(_plain("password", changes["password"]))
        colon = "" if changes["password"] is None else ":"
    return user + colon + password


# -- checking what replace() was given; a value may be a password and is not shown


def _check_keywords(changes: dict[str, Any]) -> None:
    for name in changes:
        if name not in _FIELDS:
            raise URLTypeError(
                f"replace() takes no keyword {name!r}; it takes {', '.join(map(repr, _FIELDS))}"
            )
        for other in _FIELDS[name]:
            if other in changes:
                raise URLTypeError(f"replace() takes {name!r} or {other!r}, not both")


def _plain(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "database" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise URLTypeError(f"{name} takes a str or None, not {type(value).__qualname__!r}")
    return value


def _raw(name: str, value: object, forbidden: str) -> str:
    text = _plain(name, value)
    for character in forbidden:
        if character in text:
            raise InvalidURLError(f"{name} is taken as it is; quote the {character!r} in it")
    return text


def _port_of(port: object) -> int | None:
    if port is None:
        return None
    if isinstance(port, bool) or not isinstance(port, int | str):
        raise URLTypeError(f"port takes an int or None, not {type(port).__qualname__!r}")
    if not (str(port).isascii() and str(port).isdigit() and int(port) <= 65535):
        raise InvalidURLError(f"{port!r} is no port; a port is a number from 0 to 65535")
    return int(port)


# -- writing


def render_host(host: str, port: int | None) -> str:
    """Return ``host:port``, quoted, an IPv6 address in brackets."""
    host = f"[{quoted(host, ':')}]" if re.fullmatch(IPV6, host) else quoted(host)
    return host if port is None else f"{host}:{port}"


def render_options(options: object) -> str:
    """Return the query that says `options`; a list repeats its name."""
    if options is None:
        return ""
    if not isinstance(options, Mapping):
        raise URLTypeError(f"options takes a mapping, not {type(options).__qualname__!r}")
    pieces = []
    for name, value in options.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(name, str) or not isinstance(one, str | int | float):
                raise URLTypeError(
                    f"the option {name!r} of a URL takes a str, a number or a bool,"
                    f" not {type(one).__qualname__!r}"
                )
            text = str(one).lower() if isinstance(one, bool) else str(one)
            pieces.append(f"{quoted(name)}={quoted(text, '/:,')}")
    return "&".join(pieces)
