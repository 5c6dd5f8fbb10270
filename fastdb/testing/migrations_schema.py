"""What a database holds, as lines that can be compared: before a migration and after it.

Each dialect's own catalogue is read, since what SQLAlchemy can reflect leaves out triggers,
functions, policies and the like. The order of columns is left out: a column that a downgrade
brings back stands last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fastdb.url_text import driver_dialect

if TYPE_CHECKING:
    from fastdb.database import Database

__all__ = ["read_schema", "row_counts"]

#: Of PostgreSQL, by what they list; what belongs to an extension is the extension's matter.
_POSTGRESQL = {
    "schema": """
        SELECT nspname::text FROM pg_namespace AS n
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND {own:pg_namespace:n.oid}""",
    "extension": "SELECT extname::text FROM pg_extension",
    "relation": """
        SELECT concat_ws(' ', CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
            WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
            c.oid::regclass, CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
            pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid), c.reloptions::text,
            CASE WHEN c.relrowsecurity THEN 'row level security' END,
            CASE c.relpersistence WHEN 'u' THEN 'unlogged' END, obj_description(c.oid, 'pg_class'))
        FROM pg_class AS c JOIN schemas AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {own:pg_class:c.oid}""",
    "sequence": """
        SELECT concat_ws(' ', seqrelid::regclass, 'is of', seqtypid::regtype, seqstart,
            seqincrement, seqmin, seqmax, seqcache, seqcycle)
        FROM pg_sequence JOIN pg_class AS c ON c.oid = seqrelid
            JOIN schemas AS n ON n.oid = c.relnamespace WHERE {own:pg_class:c.oid}""",
    "column": """
        SELECT concat_ws(' ', attrelid::regclass || '.' || quote_ident(attname),
            format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
            'DEFAULT ' || pg_get_expr(adbin, adrelid), nullif(attidentity, ''),
            nullif(attgenerated, ''), CASE WHEN attcollation <> t.typcollation
            THEN attcollation::regcollation END, col_description(attrelid, attnum))
        FROM pg_attribute JOIN pg_type AS t ON t.oid = atttypid
            JOIN pg_class AS c ON c.oid = attrelid JOIN schemas AS n ON n.oid = c.relnamespace
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped AND c.relkind IN ('r', 'p', 'f', 'c')
            AND {own:pg_class:c.oid}""",
    # From version 18 on NOT NULL is one, too; columns say it already.
    "constraint": """
        SELECT concat_ws(' ', quote_ident(conname), 'of', CASE WHEN conrelid <> 0
            THEN conrelid::regclass::text ELSE contypid::regtype::text END,
            pg_get_constraintdef(x.oid))
        FROM pg_constraint AS x JOIN schemas AS n ON n.oid = connamespace
        WHERE contype NOT IN ('n', 't') AND {own:pg_class:conrelid} AND {own:pg_type:contypid}""",
    "index": """
        SELECT pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' (invalid)' END
        FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid
            JOIN schemas AS n ON n.oid = c.relnamespace WHERE {own:pg_class:indrelid}
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)""",
    "type": """
        SELECT concat_ws(' ', t.oid::regtype, CASE t.typtype WHEN 'd' THEN 'domain over'
            WHEN 'e' THEN 'enum of' WHEN 'r' THEN 'range' ELSE 'composite' END,
            CASE t.typtype WHEN 'd' THEN format_type(typbasetype, typtypmod) END,
            CASE WHEN typnotnull THEN 'NOT NULL' END, typdefault,
            (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
             FROM pg_enum WHERE enumtypid = t.oid))
        FROM pg_type AS t JOIN schemas AS n ON n.oid = typnamespace
            LEFT JOIN pg_class AS c ON c.oid = typrelid
        WHERE (typtype IN ('d', 'e', 'r') OR c.relkind = 'c') AND {own:pg_type:t.oid}""",
    "function": """
        SELECT CASE prokind WHEN 'a' THEN p.oid::regprocedure::text
            ELSE pg_get_functiondef(p.oid) END
        FROM pg_proc AS p JOIN schemas AS n ON n.oid = pronamespace
        WHERE {own:pg_proc:p.oid}""",
    "trigger": """
        SELECT pg_get_triggerdef(t.oid) || tgenabled::text FROM pg_trigger AS t
            JOIN pg_class AS c ON c.oid = tgrelid JOIN schemas AS n ON n.oid = c.relnamespace
        WHERE NOT tgisinternal AND {own:pg_class:tgrelid}""",
    "policy": """
        SELECT concat_ws(' ', policyname, 'of', schemaname || '.' || tablename, permissive, roles,
            cmd, qual, with_check)
        FROM pg_policies""",
    "rule": """
        SELECT definition FROM pg_rules JOIN schemas AS n ON n.nspname = schemaname""",
}
_SCHEMAS = """WITH schemas AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema') """

#: Of MySQL and MariaDB, beside what SHOW CREATE TABLE tells.
_MYSQL = {
    "view": """
        SELECT concat_ws(' ', table_name, view_definition, security_type)
        FROM information_schema.views WHERE table_schema = DATABASE()""",
    "trigger": """
        SELECT concat_ws(' ', trigger_name, action_timing, event_manipulation, 'on',
            event_object_table, action_statement)
        FROM information_schema.triggers WHERE trigger_schema = DATABASE()""",
    "routine": """
        SELECT concat_ws(' ', lower(routine_type), routine_name, dtd_identifier, routine_definition)
        FROM information_schema.routines WHERE routine_schema = DATABASE()""",
    "event": """
        SELECT concat_ws(' ', event_name, event_definition)
        FROM information_schema.events WHERE event_schema = DATABASE()""",
}

#: Of SQLite. The text of a table is not compared: one that was copied and renamed has another.
_SQLITE = {
    "table": """
        SELECT name || CASE WHEN sql LIKE 'CREATE VIRTUAL%' THEN ' ' || sql ELSE '' END
        FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'""",
    "column": """
        SELECT m.name || '.' || c.name || ' ' || upper(c.type)
            || CASE WHEN c."notnull" THEN ' NOT NULL' ELSE '' END
            || CASE WHEN c.pk THEN ' key ' || c.pk ELSE '' END
            || coalesce(' DEFAULT ' || c.dflt_value, '')
            || CASE WHEN c.hidden > 1 THEN ' generated' ELSE '' END
        FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS c
        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'""",
    "foreign key": """
        SELECT m.name || ' (' || group_concat(f."from", ', ') || ') to ' || f."table"
            || ' (' || coalesce(group_concat(f."to", ', '), '') || ') ON UPDATE ' || f.on_update
            || ' ON DELETE ' || f.on_delete
        FROM sqlite_master AS m, pragma_foreign_key_list(m.name) AS f
        WHERE m.type = 'table' GROUP BY m.name, f.id""",
    "index": """
        SELECT CASE i.origin WHEN 'c' THEN i.name || ' on ' ELSE '' END || m.name
            || CASE WHEN i."unique" THEN ' unique' ELSE '' END || ' ('
            || (SELECT group_concat(coalesce(x.name, 'expression')
                || CASE WHEN x."desc" THEN ' DESC' ELSE '' END, ', ')
                FROM pragma_index_xinfo(i.name) AS x WHERE x.key) || ')'
            || CASE WHEN i.partial OR EXISTS (SELECT 1 FROM pragma_index_xinfo(i.name) AS x
                WHERE x.key AND x.name IS NULL) THEN ' ' || s.sql ELSE '' END
        FROM sqlite_master AS m, pragma_index_list(m.name) AS i
            LEFT JOIN sqlite_master AS s ON s.type = 'index' AND s.name = i.name
        WHERE m.type = 'table' AND i.origin <> 'pk'""",
    "view": "SELECT name || ' ' || sql FROM sqlite_master WHERE type = 'view'",
    "trigger": "SELECT name || ' ' || sql FROM sqlite_master WHERE type = 'trigger'",
}


def _own(query: str) -> str:
    """Return a query of PostgreSQL's catalogue with ``{own:class:oid}`` spelled out."""
    while "{own:" in query:
        head, _, rest = query.partition("{own:")
        what, _, tail = rest.partition("}")
        catalogue, _, column = what.partition(":")
        query = (
            f"{head}NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = {column} "
            f"AND d.classid = '{catalogue}'::regclass AND d.deptype = 'e'){tail}"
        )
    return query


async def _read(database: Database, queries: dict[str, str]) -> set[str]:
    """Return a line for each record of each query."""
    found = set()
    for kind, query in queries.items():
        # Doubled colons are casts to fastdb, too, and a colon in text is none of a parameter's.
        for record in await database.fetch_all(query):
            text = " ".join(str(record[0]).split())
            found.add(text if kind == "relation" else f"{kind} {text}")
    return found


async def read_schema(database: Database) -> frozenset[str]:
    """Return all that stands in a database but rows, one line for each thing."""
    dialect = driver_dialect(database.url.dialect)
    if dialect == "postgresql":
        queries = {kind: _SCHEMAS + _own(query) for kind, query in _POSTGRESQL.items()}
        return frozenset(await _read(database, queries))
    if dialect == "sqlite":
        return frozenset(await _read(database, _SQLITE) | await _sqlite_checks(database))
    return frozenset(await _read(database, _MYSQL) | await _mysql_tables(database))


async def _sqlite_checks(database: Database) -> set[str]:
    """Return the CHECK constraints, which SQLite keeps in the text of its tables only."""
    import sqlalchemy

    def read(connection: sqlalchemy.Connection) -> set[str]:
        inspector = sqlalchemy.inspect(connection)
        return {
            f"check of {table}: {' '.join(str(check['sqltext']).split())}"
            for table in inspector.get_table_names()
            for check in inspector.get_check_constraints(table)
        }

    return await database.run_sync(read)


async def _mysql_tables(database: Database) -> set[str]:
    found = set()
    for table in await _tables(database, "'BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE'"):
        record = await database.fetch_one(f"SHOW CREATE TABLE `{table.replace('`', '``')}`")
        assert record is not None
        # Without what AUTO_INCREMENT is at.
        lines = re.sub(r" AUTO_INCREMENT=\d+", "", str(record[1])).splitlines()
        found |= {f"table {table}: {line.strip(' ,')}" for line in lines}
    return found


async def _tables(database: Database, kinds: str) -> list[str]:
    """Return the names of MySQL's tables of some kinds."""
    records = await database.fetch_all(
        "SELECT table_name FROM information_schema.tables "
        f"WHERE table_schema = DATABASE() AND table_type IN ({kinds})"
    )
    return [str(record[0]) for record in records]


async def row_counts(database: Database) -> frozenset[str]:
    """Return how many rows each table has, one line for each."""
    dialect = driver_dialect(database.url.dialect)
    if dialect == "mysql":
        names = await _tables(database, "'BASE TABLE', 'SYSTEM VERSIONED'")
        tables = [f"`{name.replace('`', '``')}`" for name in names]
    else:
        if dialect == "postgresql":
            query = _SCHEMAS + (
                "SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class AS c "
                "JOIN schemas AS n ON n.oid = relnamespace WHERE relkind IN ('r', 'p')"
            )
        else:
            query = (
                "SELECT '\"' || replace(name, '\"', '\"\"') || '\"' FROM sqlite_master "
                "WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
        tables = [str(record[0]) for record in await database.fetch_all(query)]
    return frozenset(
        [
            f"{await database.fetch_val(f'SELECT count(*) FROM {table}')} rows in {table}"
            for table in tables
        ]
    )
