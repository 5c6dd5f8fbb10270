"""Database URLs as SQLAlchemy and its synchronous tools take them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import unquote

from fastdb.exceptions import InvalidURLError
from fastdb.url_changes import render_host, render_options
from fastdb.url_text import PATH_SAFE, URL_OPTIONS, join, quoted

if TYPE_CHECKING:
    import sqlalchemy

    from fastdb.url import DatabaseURL

_ALIASES = {"postgres": "postgresql"}  # SQLAlchemy does not know it any more
_ASYNC_DRIVERS = frozenset({"", "aiomysql", "aiopg", "aiosqlite", "asyncmy", "asyncpg"})
_SYNC_DRIVERS = {
    "postgresql": ("psycopg2", "psycopg"),
    "mysql": ("pymysql",),
    "mariadb": ("pymysql",),
    "sqlite": ("pysqlite",),
}

_POOL_OPTIONS = frozenset(
    """
    acquire_timeout command_timeout echo force_rollback idle_timeout init log_values max_lifetime
    max_inactive_connection_lifetime max_overflow max_queries max_size maxsize min_size minsize
    pool_recycle pool_size pool_timeout query_cache_size reset setup
    """.split()  # noqa: SIM905
)
#: What our drivers take, and the synchronous ones refuse.
_DRIVER_OPTIONS: dict[str, frozenset[str]] = {
    "postgresql": frozenset(
        {
            "direct_tls",
            "max_cacheable_statement_size",
            "max_cached_statement_lifetime",
            "prepared_statement_cache_size",
            "server_settings",
            "statement_cache_size",
            "timeout",
        }
    ),
    "mysql": frozenset({"auth_plugin", "loop"}),
    "mariadb": frozenset({"auth_plugin", "loop"}),
}
#: What SQLite's driver takes beside the parameters of a ``file:`` URI.
_SQLITE_OPTIONS = frozenset(
    {"cached_statements", "check_same_thread", "detect_types", "isolation_level", "timeout", "uri"}
)
_SQLITE_URI_OPTIONS = frozenset({"cache", "immutable", "mode", "nolock", "psow", "vfs"})

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", "disable"})


def from_sqlalchemy(url: sqlalchemy.URL) -> str:
    """Return the text of `url`, with its password."""
    userinfo = quoted(url.username or "")
    if url.password is not None:
        userinfo += ":" + quoted(str(url.password))
    # SQLAlchemy hands "a,b" on to libpq, and does not unquote hosts.
    hosts = ",".join(render_host(unquote(name), url.port) for name in (url.host or "").split(","))
    return join(
        url.drivername,
        userinfo + ("@" if userinfo else "") + hosts,
        "/" + quoted(url.database, PATH_SAFE) if url.database else "",
        render_options(url.query),
    )


def to_sqlalchemy(url: DatabaseURL) -> sqlalchemy.URL:
    """Return `url` with its driver and every option."""
    options = {name: value for name, value in url.options.items() if name not in URL_OPTIONS}
    return _create(url, url.driver, options)


def sync_text(url: DatabaseURL) -> str:
    """Return `url` for ``create_engine()``; see :attr:`fastdb.url.DatabaseURL.sync_url`."""
    from sqlalchemy.engine import make_url

    dialect, driver = _dialect(url), url.driver
    if dialect in _SYNC_DRIVERS and driver in _ASYNC_DRIVERS:
        names = _SYNC_DRIVERS[dialect]
        driver = next((name for name in names if find_spec(name)), names[0])
    converted = _create(url, driver, _sync_options(dialect, url))
    text = converted.render_as_string(hide_password=False)
    if make_url(text) != converted:  # pragma: no cover: 2.0's names of databases have no "?"
        raise InvalidURLError(
            f"this version of SQLAlchemy cannot read {url.obscure_password!r} from text;"
            " give create_engine() a sqlalchemy.URL"
        )
    return text


def _dialect(url: DatabaseURL) -> str:
    return _ALIASES.get(url.dialect, url.dialect)


def _create(url: DatabaseURL, driver: str, options: Mapping[str, str]) -> sqlalchemy.URL:
    from sqlalchemy.engine import URL

    dialect, query = _dialect(url), dict(options)
    host, port, hosts = url.hostname, url.port, url.hosts
    if len(hosts) > 1 or (host is not None and "/" in host):
        # SQLAlchemy takes several hosts, and sockets, in the query only.
        if dialect in ("mysql", "mariadb"):
            query.setdefault("unix_socket", host or "")
        else:
            query["host"] = ",".join(name for name, _ in hosts)
            ports = ["" if each is None else str(each) for _, each in hosts]
            if any(ports):
                query["port"] = ",".join(ports)
        host = port = None
    username, password = url.username, url.password
    if username is None and password is not None:
        username = ""  # without one SQLAlchemy renders no password
    drivername = f"{dialect}+{driver}" if driver else dialect
    return URL.create(drivername, username, password, host, port, url.database or None, query)


def _sync_options(dialect: str, url: DatabaseURL) -> dict[str, str]:
    # A parameter without a value is none to SQLAlchemy.
    options = {name: value for name, value in url.options.items() if value}
    if dialect == "sqlite":
        if url.database.startswith("file:"):
            options.setdefault("uri", "true")
        known = _SQLITE_OPTIONS | (_SQLITE_URI_OPTIONS if "uri" in options else frozenset())
        return {name: value for name, value in options.items() if name in known}
    dropped = URL_OPTIONS | _POOL_OPTIONS | _DRIVER_OPTIONS.get(dialect, frozenset())
    options = {name: value for name, value in options.items() if name not in dropped}
    if dialect in _SYNC_DRIVERS and "ssl" in options:
        options = _sync_ssl(dialect, options.pop("ssl")) | options
    return options


def _sync_ssl(dialect: str, ssl: str) -> dict[str, str]:
    """Say `ssl` in the words of libpq and PyMySQL, with no less protection."""
    wanted = ssl.lower()
    if dialect == "postgresql":
        if wanted in _TRUE:
            # The same as ssl.create_default_context(). libpq knows "system" from version 16 on,
            # and refuses to connect before that.
            return {"sslmode": "verify-full", "sslrootcert": "system"}
        return {"sslmode": "disable" if wanted in _FALSE else ssl}
    if wanted in _FALSE:
        return {"ssl_disabled": "true"}
    return {"ssl_verify_cert": "true", "ssl_verify_identity": "true"}
