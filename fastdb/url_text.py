"""The text of database URLs: taking it apart and putting it together.

Messages quote no part of a URL but its scheme: a password that was not quoted may stand anywhere.
"""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import quote, unquote, unquote_plus

from fastdb.exceptions import InvalidURLError

Hosts = list[tuple[str, int | None]]

#: Query parameters that say user, password, host or port: DatabaseURL reads them. They stand in
#: its ``options`` too, and are none that a driver has to know.
URL_OPTIONS = frozenset({"host", "password", "port", "unix_sock", "user", "username"})

#: Dialects that have two names in URLs -> the one that drivers know them by.
_DIALECTS = {"mariadb": "mysql", "postgres": "postgresql"}

MASK = "********"
# `re` compiles those that few URLs need when they are first used, and keeps them.
_SECRET = r"(?i)passw(or)?d|pwd|secret|token"

SCHEME = re.compile(r"[A-Za-z][\w+.-]*", re.ASCII)
URL = re.compile(
    rf"(?P<scheme>{SCHEME.pattern})://(?P<netloc>[^/?]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?",
    re.ASCII,
)
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
IPV6 = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%.+)?"
_SQLITE = r"(?i)sqlite3?(\+\w+)?:"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# Left as they are in a database's name; "@" and "?" would be taken for something else.
PATH_SAFE = "/:~!$&'()*+,;=\\"


def driver_dialect(dialect: str) -> str:
    """Return the dialect of a URL as its driver names it: ``postgresql`` for ``postgres``."""
    return _DIALECTS.get(dialect, dialect)


def refuse_text(text: str) -> NoReturn:
    """Say what is wrong without quoting any of it: a password may stand anywhere in it."""
    form = "a database URL looks like 'postgresql://user:password@host:5432/database'"
    if re.match(_SQLITE, text):
        form = (
            "an SQLite URL looks like 'sqlite:///relative.db' or 'sqlite:////absolute.db';"
            " 'sqlite://' is a database in memory"
        )
    if not text:
        raise InvalidURLError(f"the database URL is empty; {form}")
    if CONTROL.search(text):
        raise InvalidURLError(
            "the database URL contains a line break or another control character;"
            " such characters must be percent-quoted"
        )
    raise InvalidURLError(f"the database URL does not begin with a scheme and '://'; {form}")


def check_netloc(scheme: str, netloc: str, path: str) -> None:
    """Refuse a host where the dialect has none, and a cut password that would look like one."""
    _, at, hosts = netloc.rpartition("@")
    if hosts and scheme.lower().partition("+")[0] == "sqlite":
        raise InvalidURLError(
            "an SQLite URL has no host; 'sqlite:///file.db' is a relative path,"
            " 'sqlite:////tmp/file.db' an absolute one, 'sqlite://' a database in memory"
        )
    if not at and ":" in hosts and "@" in path:
        # "user:12/34@host": to go on would show half of the password as a database's name.
        _refuse_hosts(scheme)


def _refuse_hosts(scheme: str) -> NoReturn:
    raise InvalidURLError(
        f"cannot read the host and port of the {scheme!r} URL; a port is a number from 0 to 65535,"
        " an IPv6 address stands in [brackets], and a '/' or '?' in a user name or password and an"
        " '@' in a database name must be percent-quoted (urllib.parse.quote(part, safe=''))"
    )


def read_hosts(
    scheme: str, netloc: str, pairs: tuple[tuple[str, str], ...]
) -> tuple[tuple[tuple[str, int | None], ...], int | None]:
    """Return the hosts, and the port that stands without one."""
    parts = [_read_host(scheme, part) for part in netloc.split(",")]
    hosts = [(unquoted(host), port) for host, port in parts]
    ports: list[int | None] = [
        _read_port(scheme, port) for port in _values(pairs, "port") for port in port.split(",")
    ]
    if hosts[0][0] == "" and len(hosts) == 1:
        lone = hosts[0][1]
        hosts = [
            (host, port if port is not None else lone)
            for value in _values(pairs, "host", "unix_sock")
            for host, port in _read_query_hosts(scheme, value)
        ]
        if not hosts:
            return (), lone if lone is not None else (ports or [None])[0]
    if len(ports) == 1:  # libpq: a single port is every host's
        ports *= len(hosts)
    elif not ports:
        ports = [None] * len(hosts)
    elif len(ports) != len(hosts):
        raise InvalidURLError(
            f"the {scheme!r} URL names {len(hosts)} hosts but {len(ports)} ports in its query"
        )
    return tuple(
        (host, own if own is not None else port)
        for (host, own), port in zip(hosts, ports, strict=True)
    ), None


def _read_host(scheme: str, part: str) -> tuple[str, int | None]:
    match = _HOST.fullmatch(part)
    if match is None:
        _refuse_hosts(scheme)
    return match["ipv6"] or match["name"], _read_port(scheme, match["port"] or "")


def _read_query_hosts(scheme: str, value: str) -> Hosts:
    if value.startswith("/"):
        return [(value, None)]
    parts = value.split(",") if value else []
    # An IPv6 address needs no brackets here; the value is unquoted already.
    return [
        (part, None)
        if re.fullmatch(IPV6, part) and part.count(":") > 1
        else _read_host(scheme, part)
        for part in parts
    ]


def _read_port(scheme: str, port: str) -> int | None:
    if not port:
        return None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        _refuse_hosts(scheme)
    return int(port)


def _values(pairs: tuple[tuple[str, str], ...], *names: str) -> list[str]:
    return [value for name, value in pairs if name in names]


def pair(piece: str) -> tuple[str, str]:
    """Return the name and the value that `piece` of a query holds, unquoted."""
    name, _, value = piece.partition("=")
    return (
        unquote_plus(name, errors="surrogateescape"),
        unquote_plus(value, errors="surrogateescape"),
    )


def unquoted(text: str) -> str:
    """Undo :func:`quoted`."""
    # A file's name may hold bytes that are no UTF-8: os.fsencode() finds them again.
    return unquote(text, errors="surrogateescape")


# -- writing


def join(scheme: str, netloc: str, path: str, query: str) -> str:
    """Put raw parts together; white space at the end would be dropped in reading it again."""
    text = f"{scheme}://{netloc}{path}{'?' if query else ''}{query}"
    kept = text.rstrip()
    return kept + quoted(text[len(kept) :])


def quoted(text: str, safe: str = "") -> str:
    """Percent-quote everything but letters, digits, ``_.-~`` and `safe`."""
    return quote(text, safe, errors="surrogateescape")


def is_secret_name(name: str) -> bool:
    """Return whether an option of that name is a password, or the like."""
    return re.search(_SECRET, name) is not None


def masked(piece: str) -> str:
    """Return `piece` of a query, a password in it hidden."""
    name, _, value = piece.partition("=")
    return f"{name}={MASK}" if value and is_secret_name(unquote_plus(name)) else piece
