"""Constraints that PostgreSQL checks at COMMIT, in a sandbox, where none comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb.drivers.base import to_its_end

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastdb._speedups import QueryPlan
    from fastdb.drivers.postgresql_connection import PostgreSQLConnection
    from fastdb.sql_text import Classification

__all__ = ["DeferredConstraints"]

_NAMES = """
SELECT string_agg(DISTINCT format('%I.%I', nspname, conname), ', ')
FROM pg_catalog.pg_constraint AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
WHERE condeferred AND NOT pg_is_other_temp_schema(n.oid) AND has_schema_privilege(n.oid, 'USAGE')
"""


class DeferredConstraints:
    """Defer constraints for as long as a transaction of the application's is open.

    What the application does outside of its transactions is checked at once, and at its commit all
    is checked. Most databases have no such constraint, and pay one look at the catalog for a
    sandbox.
    """

    def __init__(self) -> None:
        """Know nothing of the database yet."""
        self._names: str | None = None
        self._is_known = False

    def note_statement(self, kind: QueryPlan | Classification) -> None:
        """Look at the catalog again after a statement that may change it, or what is deferred."""
        if kind.kind == "ddl" or kind.verb in ("SET", "DO", "CALL"):
            self._is_known = False

    def forget(self) -> None:
        """Look at the catalog again: something unknown was run."""
        self._is_known = False

    async def check_always(self, connection: PostgreSQLConnection) -> None:
        """Check constraints at once from now on."""
        await self._look(connection)
        if self._names:
            await _run(connection, connection.control("SET CONSTRAINTS ALL IMMEDIATE"))

    async def defer(self, connection: PostgreSQLConnection) -> None:
        """Defer what is deferred at the beginning of a transaction."""
        await self._look(connection)
        if self._names:
            await _run(connection, connection.control(f"SET CONSTRAINTS {self._names} DEFERRED"))

    async def check(self, connection: PostgreSQLConnection) -> None:
        """Check what a COMMIT would check."""
        if self._names or not self._is_known:
            await _run(connection, connection.control("SET CONSTRAINTS ALL IMMEDIATE"))

    async def _look(self, connection: PostgreSQLConnection) -> None:
        if not self._is_known:
            await _run(connection, self._fetch_names(connection))

    async def _fetch_names(self, connection: PostgreSQLConnection) -> None:
        self._names = await connection.raw.fetchval(_NAMES)
        self._is_known = True


async def _run(connection: PostgreSQLConnection, run: Coroutine[Any, Any, None]) -> None:
    """Await what must not be cut off half-way: the whole transaction would have failed."""
    cancellation = await to_its_end(run, connection)
    if cancellation is not None:
        raise cancellation
