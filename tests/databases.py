"""Make, empty and drop the databases that the tests run in, with the bare drivers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

DIALECTS = ("postgresql", "mysql")

#: What PostgreSQL shows as the application of a Session, which is none of a test's connections.
OWN_NAME = "fastdb-tests"


class ServerError(Exception):
    """Report that a server cannot be had."""


def dialect_of(url: str) -> str:
    """Return ``postgresql``, ``mysql`` or whatever else the scheme of `url` names."""
    scheme = url.split(":", 1)[0].split("+", 1)[0]
    return {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)


def masked(url: str) -> str:
    """Return `url` without its password, for people."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:********@", url)


def with_database(url: str, name: str) -> str:
    """Return the administrator's `url` for another database, under the scheme's plain name."""
    return urlunsplit(urlsplit(url)._replace(scheme=dialect_of(url), path=f"/{name}"))


class Session:
    """An auto-committing connection for set-up and clean-up, usable from synchronous code.

    It works in a thread of its own, so that it does not matter whether the caller's thread runs
    an event loop.
    """

    def __init__(self, url: str) -> None:
        self.dialect = dialect_of(url)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None
        connect = self._connect_postgresql if self.dialect == "postgresql" else self._connect_mysql
        try:
            self._connection = self._thread.submit(connect, urlsplit(url)).result()
        except BaseException:
            self.close()
            raise

    def _connect_postgresql(self, parts: SplitResult) -> Any:
        import asyncpg

        dsn = urlunsplit(parts._replace(scheme="postgresql"))
        # A DROP waits for the locks of other connections, by default for ever.
        settings = {"lock_timeout": "20s", "application_name": OWN_NAME}
        connecting = asyncpg.connect(dsn, timeout=10, server_settings=settings)
        return self._loop.run_until_complete(connecting)

    def _connect_mysql(self, parts: SplitResult) -> Any:
        import pymysql

        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        return pymysql.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            database=parts.path.lstrip("/") or None,
            unix_socket=query.get("unix_socket"),
            connect_timeout=10,
            # As above; by default for a day.
            init_command="SET lock_wait_timeout = 20",
            autocommit=True,
        )

    def run(self, sql: str, *more: str) -> list[tuple[Any, ...]]:
        """Run statements one by one and return the rows of the last."""
        return self._thread.submit(self._run, (sql, *more)).result()

    def _run(self, statements: tuple[str, ...]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for sql in statements:
            if self.dialect == "postgresql":
                records = self._loop.run_until_complete(self._connection.fetch(sql))
                rows = [tuple(record) for record in records]
            else:
                with self._connection.cursor() as cursor:
                    cursor.execute(sql)
                    rows = list(cursor.fetchall())
        return rows

    def close(self) -> None:
        """End the connection and its thread."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                closing = self._connection.close()
                if closing is not None:
                    self._loop.run_until_complete(closing)
        self._loop.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check(url: str) -> str:
    """Return the server's name and version, once it has let us make and drop a database.

    Raises:
        ServerError: It did not.
    """
    name = f"fastdb_test_probe_{os.getpid()}"
    try:
        with Session(url) as session:
            session.run(f"CREATE DATABASE {name}", f"DROP DATABASE {name}")
            ((version,),) = session.run("SELECT version()")
    except Exception as exc:
        raise ServerError(f"{masked(url)}: {str(exc) or type(exc).__name__}") from exc
    text = str(version)
    if dialect_of(url) == "postgresql":
        return " ".join(text.split()[:2])
    return f"{'MariaDB' if 'MariaDB' in text else 'MySQL'} {text.split('-')[0]}"


class ServerDatabase:
    """A database of our own on a server, and the way to empty it again and again.

    Attributes:
        url: Its URL, for the tests.
    """

    def __init__(self, admin_url: str, name: str) -> None:
        self._name = name
        self._is_postgresql = dialect_of(admin_url) == "postgresql"
        self.url = with_database(admin_url, name)
        with Session(admin_url) as session:
            session.run(self._create())
        # PostgreSQL's schemas can be seen from inside only.
        self._session = Session(self.url if self._is_postgresql else admin_url)

    def _create(self) -> str:
        charset = "" if self._is_postgresql else " CHARACTER SET utf8mb4"
        return f"CREATE DATABASE {self._name}{charset}"

    def empty(self) -> None:
        """End the connections that are still open, and drop all that was made."""
        end_connections(self._session, self._name)
        if self._is_postgresql:
            self._empty_postgresql()
        else:
            self._empty_mysql()

    def _empty_postgresql(self) -> None:
        used = self._session.run(
            """
            SELECT quote_ident(nspname) FROM pg_namespace AS n
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
            AND (nspname <> 'public'
                 OR EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid)
                 OR EXISTS (SELECT FROM pg_type WHERE typnamespace = n.oid)
                 OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid))
            """
        )
        if used:
            schemas = ", ".join(name for (name,) in used)
            self._session.run(
                f"DROP SCHEMA {schemas} CASCADE", "CREATE SCHEMA IF NOT EXISTS public"
            )

    def _empty_mysql(self) -> None:
        ((tables, routines),) = self._session.run(
            f"""
            SELECT
            (SELECT count(*) FROM information_schema.tables WHERE table_schema = '{self._name}'),
            (SELECT count(*) FROM information_schema.routines WHERE routine_schema = '{self._name}')
            """
        )
        if tables or routines:
            self._session.run(f"DROP DATABASE {self._name}", self._create())

    def close(self) -> None:
        """End our connection; the database stays."""
        self._session.close()


def end_connections(session: Session, database: str) -> None:
    """End every connection to `database` but `session`, whatever it waits for."""
    if session.dialect == "postgresql":
        session.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
        return
    for (connection,) in session.run(
        f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
    ):
        with contextlib.suppress(Exception):  # it has ended by itself meanwhile
            session.run(f"KILL {connection}")


def drop_databases(admin_url: str, prefix: str) -> None:
    """Drop every database whose name begins with `prefix`, whoever is still connected to it."""
    pattern = prefix.replace("_", r"\_") + "%"
    with Session(admin_url) as session:
        if session.dialect == "postgresql":
            names = session.run(f"SELECT datname FROM pg_database WHERE datname LIKE '{pattern}'")
        else:
            names = session.run(f"SHOW DATABASES LIKE '{pattern}'")
        for (name,) in names:
            end_connections(session, name)
            session.run(f"DROP DATABASE {name}")
