"""Copy a database on MySQL or MariaDB, which have no statement for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb.testing.databases import _admin, _quoted

if TYPE_CHECKING:
    from fastdb.connection import Connection
    from fastdb.url import DatabaseURL

__all__ = ["copy_database"]


def _name(text: str) -> str:
    return "`" + text.replace("`", "``") + "`"


async def copy_database(source: DatabaseURL, target: DatabaseURL, without: set[str]) -> None:
    """Copy tables with their rows, sequences, views, triggers, routines and events.

    Args:
        source: Of a database that nobody changes meanwhile.
        target: Of an empty one on the same server.
        without: Names of procedures that are not copied.
    """
    async with (
        _admin(target, {}, target.database) as database,
        database.connection() as connection,
    ):
        copying = _Copying(connection, source, target)
        for setting in ("foreign_key_checks = 0", "unique_checks = 0"):
            await connection.execute(f"SET SESSION {setting}")
        await copying.tables()
        await copying.routines(without)
        await copying.views()
        await copying.triggers()
        await copying.events()


class _Copying:
    """The steps of one copy."""

    def __init__(self, connection: Connection, source: DatabaseURL, target: DatabaseURL) -> None:
        self._connection = connection
        self._from = source.database
        self._source, self._target = _quoted(source), _quoted(target)

    async def _rows(self, query: str) -> list[Any]:
        return await self._connection.fetch_all(query, {"source": self._from})

    async def _run(self, sql: str) -> None:
        # What SHOW gives names the database where it must; its name is like nothing else.
        sql = sql.replace(f"{self._source}.", f"{self._target}.")
        # Colons that are no parameters are few, and stand in texts. Still, nothing is read there.
        await self._connection.execute(sql)

    async def _shown(self, kind: str, name: str, column: str) -> Any:
        query = f"SHOW CREATE {kind} {self._source}.{_name(name)}"
        record = await self._connection.fetch_one(query)
        assert record is not None
        if "sql_mode" in record:
            mode = record["sql_mode"]
            await self._connection.execute("SET SESSION sql_mode = :mode", {"mode": mode})
        return record[column]

    async def tables(self) -> None:
        """Copy tables, with rows, and sequences."""
        kinds = await self._rows(
            "SELECT table_name AS name, table_type AS kind FROM information_schema.tables "
            "WHERE table_schema = :source AND table_type <> 'VIEW'"
        )
        modes = await self._connection.fetch_val("SELECT @@SESSION.sql_mode")
        # A column that was made under other modes has its default, and zero its row.
        await self._connection.execute(
            "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'"
        )
        # Sequences first: columns have them as defaults.
        for name, kind in sorted(kinds, key=lambda found: found.kind != "SEQUENCE"):
            if kind == "SEQUENCE":
                await self._run(await self._shown("SEQUENCE", name, "Create Table"))
                await self._set_sequence(name)
            else:
                await self._run(await self._shown("TABLE", name, "Create Table"))
        for name, kind in kinds:
            if kind != "SEQUENCE":
                await self._copy_rows(name)
        await self._connection.execute("SET SESSION sql_mode = :modes", {"modes": modes})

    async def _set_sequence(self, name: str) -> None:
        value = await self._connection.fetch_val(
            f"SELECT next_not_cached_value FROM {self._source}.{_name(name)}"
        )
        await self._connection.execute(f"ALTER SEQUENCE {_name(name)} RESTART WITH {int(value)}")

    async def _copy_rows(self, table: str) -> None:
        columns = await self._connection.fetch_all(
            "SELECT column_name AS name FROM information_schema.columns "
            "WHERE table_schema = :source AND table_name = :table "
            "AND coalesce(generation_expression, '') = '' ORDER BY ordinal_position",
            {"source": self._from, "table": table},
        )
        names = ", ".join(_name(column.name) for column in columns)
        await self._connection.execute(
            f"INSERT INTO {_name(table)} ({names}) "
            f"SELECT {names} FROM {self._source}.{_name(table)}"
        )

    async def routines(self, without: set[str]) -> None:
        """Copy functions and procedures."""
        for name, kind in await self._rows(
            "SELECT routine_name, routine_type FROM information_schema.routines "
            "WHERE routine_schema = :source AND routine_type IN ('FUNCTION', 'PROCEDURE')"
        ):
            if name not in without:
                await self._run(await self._shown(kind, name, f"Create {kind.capitalize()}"))

    async def views(self) -> None:
        """Copy views, those first that others read."""
        left = [
            await self._shown("VIEW", name, "Create View")
            for (name,) in await self._rows(
                "SELECT table_name FROM information_schema.views WHERE table_schema = :source"
            )
        ]
        while left:
            refused = []
            for sql in left:
                try:
                    await self._run(sql)
                except Exception:
                    refused.append(sql)
            if len(refused) == len(left):
                await self._run(refused[0])  # it says why
            left = refused

    async def triggers(self) -> None:
        """Copy triggers, in the order in which they run."""
        for (name,) in await self._rows(
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = :source "
            "ORDER BY event_object_table, action_timing, event_manipulation, action_order"
        ):
            await self._run(await self._shown("TRIGGER", name, "SQL Original Statement"))

    async def events(self) -> None:
        """Copy events."""
        for (name,) in await self._rows(
            "SELECT event_name FROM information_schema.events WHERE event_schema = :source"
        ):
            await self._run(await self._shown("EVENT", name, "Create Event"))
