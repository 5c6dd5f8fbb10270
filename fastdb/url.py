"""DatabaseURL: where a database is and how to get in, as an immutable value.

A URL is ``dialect[+driver]://[user[:password]@][host[:port][,host[:port]...]][/database][?options]``.
It is taken apart as SQLAlchemy and libpq do it: a ``#`` means nothing, the host part begins after
the last ``@`` and ends at the first ``/`` or ``?``. Everything but those is kept as it was written.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import SplitResult

from fastdb.exceptions import URLTypeError
from fastdb.url_secrets import hiding_frames
from fastdb.url_text import (
    CONTROL,
    MASK,
    URL,
    URL_OPTIONS,
    check_netloc,
    join,
    masked,
    pair,
    read_hosts,
    refuse_text,
    unquoted,
)

if TYPE_CHECKING:
    import sqlalchemy

    from fastdb.url_text import Hosts

__all__ = ["URL_OPTIONS", "DatabaseURL"]


class DatabaseURL:
    """Name a database, with the credentials and options to connect to it.

    Equal to another of the same text and to that text itself, hashable, picklable. ``str(url)``
    is the real URL; ``repr(url)`` and every error hide the password.

    Args:
        url: A string, a DatabaseURL or a ``sqlalchemy.URL``. White space around a string is
            dropped.

    Raises:
        InvalidURLError: The string is no database URL. The message does not quote it.
        URLTypeError: `url` is something else.
    """

    __slots__ = ("_hosts", "_netloc", "_pairs", "_path", "_port", "_query", "_scheme", "_text")

    _text: str
    _scheme: str
    _netloc: str
    _path: str
    _query: str
    _pairs: tuple[tuple[str, str], ...]
    _hosts: tuple[tuple[str, int | None], ...]
    _port: int | None

    @hiding_frames
    def __init__(self, url: str | DatabaseURL | sqlalchemy.URL) -> None:
        """Read `url`; nothing is connected and no driver is looked for."""
        text = _text_of(url)
        match = URL.fullmatch(text)
        if match is None or CONTROL.search(text):
            refuse_text(text)
        scheme, netloc, path, query = match.group("scheme", "netloc", "path", "query")
        path, query = path or "", query or ""
        pairs = tuple(pair(piece) for piece in query.split("&") if piece)
        check_netloc(scheme, netloc, path)
        hosts, port = read_hosts(scheme, netloc.rpartition("@")[2], pairs)
        for name, value in (
            ("_text", text),
            ("_scheme", scheme),
            ("_netloc", netloc),
            ("_path", path),
            ("_query", query),
            ("_pairs", pairs),
            ("_hosts", hosts),
            ("_port", port),
        ):
            object.__setattr__(self, name, value)

    # -- the parts

    @property
    def components(self) -> SplitResult:
        """The raw parts, still quoted; the fragment is always empty."""
        return SplitResult(self.scheme, self._netloc, self._path, self._query, "")

    @property
    def scheme(self) -> str:
        """``dialect+driver`` or ``dialect``, as written but in lower case."""
        return self._scheme.lower()

    @property
    def dialect(self) -> str:
        """The scheme before the ``+``: ``postgresql``."""
        return self.scheme.partition("+")[0]

    @property
    def driver(self) -> str:
        """The scheme after the ``+``: ``asyncpg``; empty where none is named."""
        return self.scheme.partition("+")[2]

    @property
    def netloc(self) -> str:
        """Everything between ``://`` and the path, still quoted."""
        return self._netloc

    @property
    def userinfo(self) -> bytes | None:
        """``user:password`` as it stands before the host, still quoted, in UTF-8."""
        userinfo, at, _ = self._netloc.rpartition("@")
        return userinfo.encode("utf-8", "surrogateescape") if at and userinfo else None

    @property
    def username(self) -> str | None:
        """The user's name, from before the host or from the query (``user=``, ``username=``)."""
        user = unquoted(self._netloc.rpartition("@")[0].partition(":")[0])
        options = self.options
        return user or options.get("user") or options.get("username") or None

    @property
    def password(self) -> str | None:
        """The password, from before the host or from the query; empty is not absent."""
        _, colon, password = self._netloc.rpartition("@")[0].partition(":")
        return unquoted(password) if colon else self.options.get("password")

    @property
    def hostname(self) -> str | None:
        """The first host, or the path of a unix socket (``%2Fvar%2Frun`` or ``?host=/var/run``)."""
        return (self._hosts[0][0] or None) if self._hosts else None

    @property
    def port(self) -> int | None:
        """The first host's port."""
        return self._hosts[0][1] if self._hosts else self._port

    @property
    def hosts(self) -> Hosts:
        """Every host with its port, in order; empty where the URL names none."""
        return list(self._hosts)

    @property
    def database(self) -> str:
        """The path without its first slash: ``sqlite:////tmp/x.db`` is at ``/tmp/x.db``."""
        return unquoted(self._path[1:])

    @property
    def options(self) -> dict[str, str]:
        """The query's parameters (see also :data:`URL_OPTIONS`); of equal names the last counts."""
        return dict(self._pairs)

    # -- as text

    @property
    def obscure_password(self) -> str:
        """The URL with ``********`` for every password, also those in the query."""
        userinfo, at, hosts = self._netloc.rpartition("@")
        user, colon, password = userinfo.partition(":")
        netloc = f"{user}{colon}{MASK if password else ''}{at}{hosts}"
        query = "&".join(map(masked, self._query.split("&")))
        if (netloc, query) == (self._netloc, self._query):
            return self._text
        return join(self._scheme, netloc, self._path, query)

    def __str__(self) -> str:
        """Return the real URL, password and all."""
        return self._text

    def __repr__(self) -> str:
        """Return the URL with the password masked."""
        return f"{type(self).__name__}({self.obscure_password!r})"

    # -- as a value

    def __eq__(self, other: object) -> bool:
        """Compare by the text, also with a str."""
        if isinstance(other, DatabaseURL):
            return self._text == other._text
        if isinstance(other, str):
            return self._text == other
        return NotImplemented

    def __hash__(self) -> int:
        """Return the hash of the text, which an equal str has too."""
        return hash(self._text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: the value is immutable."""
        raise AttributeError(f"a DatabaseURL is immutable; use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: the value is immutable."""
        raise AttributeError("a DatabaseURL is immutable; use replace()")

    def __reduce__(self) -> tuple[type[DatabaseURL], tuple[str]]:
        """Pickle and copy by the text."""
        return type(self), (self._text,)

    @hiding_frames
    def replace(self, **changes: Any) -> DatabaseURL:
        """Return the URL with some parts changed; the others keep their very text.

        Values are given as they are read from the attributes, unquoted, and are quoted here;
        ``netloc``, ``userinfo``, ``path`` and ``query`` are raw and taken as they are. None removes
        a part. A new ``hostname`` keeps the port and stands for all hosts; a new ``port`` is every
        host's. What the query said of a part that is replaced is dropped.

        Args:
            **changes: Any of scheme, dialect, driver, netloc, userinfo, username, password, hosts,
                hostname, port, path, database, query, options.

        Raises:
            URLTypeError: A keyword is unknown, or its value of a wrong type.
            InvalidURLError: The result would be no database URL.
        """
        from fastdb.url_changes import changed

        return changed(self, changes)

    # -- for SQLAlchemy and its tools

    @property
    @hiding_frames
    def sqlalchemy_url(self) -> sqlalchemy.URL:
        """The same as a ``sqlalchemy.URL``, with every option; imports SQLAlchemy."""
        from fastdb.url_sqlalchemy import to_sqlalchemy

        return to_sqlalchemy(self)

    @property
    @hiding_frames
    def sync_url(self) -> str:
        """The URL for ``create_engine()``: a synchronous driver, none of fastdb's options.

        It names psycopg2 or psycopg, whichever is installed, pymysql or pysqlite, unless the URL
        names a synchronous driver already. ``ssl=`` is said in that driver's words. SQLAlchemy is
        imported: how it quotes depends on its version.

        Raises:
            InvalidURLError: This version of SQLAlchemy cannot read such a URL from text.
        """
        from fastdb.url_sqlalchemy import sync_text

        return sync_text(self)

    @property
    def alembic_url(self) -> str:
        """:attr:`sync_url` for Alembic's ``set_main_option()``, which wants ``%`` doubled."""
        return self.sync_url.replace("%", "%%")


def _text_of(url: object) -> str:
    if isinstance(url, DatabaseURL):
        return str(url)
    if isinstance(url, str):
        return str(url).strip(" \t\r\n")
    # An instance of the class can only be there where its module was imported.
    module = sys.modules.get("sqlalchemy.engine.url")
    if module is not None and isinstance(url, module.URL):
        from fastdb.url_sqlalchemy import from_sqlalchemy

        return from_sqlalchemy(url)
    hint = "; is a variable of the environment not set?" if url is None else ""
    found = "None" if url is None else repr(type(url).__qualname__)
    raise URLTypeError(
        f"a database URL is a str, a DatabaseURL or a sqlalchemy.URL, not {found}{hint}"
    )
