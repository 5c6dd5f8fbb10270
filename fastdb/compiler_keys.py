"""Where the key of an inserted row comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.sql.elements import ClauseElement

from fastdb.compiler_columns import unlabelled
from fastdb.compiler_parts import MISSING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastdb.compiler_parts import KeySource

__all__ = [
    "Extras",
    "can_return",
    "client_defaults",
    "has_key",
    "is_expression",
    "key_extras",
    "needs_server",
    "wants_returning",
]


class Extras(NamedTuple):
    """What is known of a statement beyond SQLAlchemy's compiled form."""

    column_keys: frozenset[str] = frozenset()
    implicit_returning: bool = False
    key_sources: tuple[KeySource, ...] | None = None
    # The bind name of each key column, or None where the client has no value.
    given: tuple[str | None, ...] | None = None
    # The sources where the client's value is None, which asks for a generated key.
    fallback_sources: tuple[KeySource, ...] | None = None


def is_expression(value: Any) -> bool:
    """Return whether a value is a SQL expression rather than a value to bind."""
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


def client_defaults(compiled: Any) -> tuple[tuple[Any, str, Any], ...]:
    """Return the columns whose default the client makes: column, bind name, description."""
    if compiled.insert_prefetch:
        name_of = compiled._within_exec_param_key_getter
        return tuple(
            (column, name_of(column), column._default_description_tuple)
            for column in compiled.insert_prefetch
        )
    if compiled.update_prefetch:
        name_of = compiled._within_exec_param_key_getter
        return tuple(
            (column, name_of(column), column._onupdate_description_tuple)
            for column in compiled.update_prefetch
        )
    return ()


def has_key(query: Any) -> bool:
    """Return whether an insert is into a table with a primary key."""
    from sqlalchemy.schema import Table

    return isinstance(query.table, Table) and bool(len(query.table.primary_key))


def needs_server(compiled: Any) -> bool:
    """Return whether SQLAlchemy would run a query of its own for a default first."""
    return any(
        not (is_scalar or is_callable or is_sentinel)
        for _, _, (_, is_scalar, is_callable, is_sentinel) in client_defaults(compiled)
    )


def can_return(query: Any, dialect: Any) -> bool:
    """Return whether RETURNING may be added to an insert."""
    return bool(dialect.insert_returning and query.table.implicit_returning)


def wants_returning(query: Any, extras: Extras, dialect: Any) -> bool:
    """Return whether the key can be had by RETURNING only, where SQLAlchemy adds none."""
    sources = extras.key_sources or ()
    if ("none",) in sources:
        return True
    if ("lastrowid",) not in sources:
        return False
    # An upsert that updates makes no row id; of several rows SQLite tells the last one's.
    if query._post_values_clause is not None:
        return True
    several = bool(getattr(query, "_multi_values", ())) or query.select is not None
    return several and dialect.name == "sqlite"


def key_extras(
    query: Any, compiled: Any, column_keys: frozenset[str], dialect: Any, returning: Sequence[Any]
) -> Extras:
    """Work out where each column of the key comes from.

    Args:
        query: The insert.
        compiled: What SQLAlchemy made of it.
        column_keys: The columns that the user's values are for.
        dialect: SQLAlchemy's dialect.
        returning: The columns that the statement returns, in order.
    """
    table = query.table
    places: dict[Any, int] = {}
    for place, column in enumerate(returning):
        for element in unlabelled(column):
            places.setdefault(element, place)
    if returning and len(places) < len(returning):
        places = {}
    autoincrement = table._autoincrement_column
    sources: list[KeySource] = []
    fallbacks: list[KeySource] = []
    given: list[str | None] = []
    for column in table.primary_key:
        name = _client_name(query, compiled, column, column_keys)
        if column in places:
            fallback: KeySource = ("returning", places[column])
        elif column is autoincrement and dialect.postfetch_lastrowid:
            fallback = ("lastrowid",)
        else:
            fallback = ("none",)
        given.append(name)
        fallbacks.append(fallback)
        sources.append(fallback if name is None else ("given",))
    return Extras(
        column_keys,
        bool(compiled.implicit_returning),
        tuple(sources),
        tuple(given),
        tuple(fallbacks),
    )


def _client_name(query: Any, compiled: Any, column: Any, column_keys: frozenset[str]) -> str | None:
    """Return the bind name that holds the client's value of a key column, or None."""
    if query.select is not None:
        return None
    state = compiled.compile_state
    several = bool(state._has_multi_parameters)
    own = state._dict_parameters or {}
    stated = own.get(column, own.get(column.key, MISSING))
    prefetched = any(each is column for each in compiled.insert_prefetch or ())
    if stated is MISSING and column.key not in column_keys and not prefetched:
        return None
    name = compiled._get_bind_name_for_col(column)
    candidates = [f"{name}_m0"] if several and not prefetched else [name]
    key = getattr(stated, "key", None)
    if key is not None and getattr(stated, "_is_bind_parameter", False):
        candidates.append(key)
    elif stated is not MISSING and is_expression(stated):
        return None
    for candidate in candidates:
        bind = compiled.binds.get(candidate)
        if bind is not None:
            found: str | None = compiled.bind_names.get(bind)
            return found
    return None  # pragma: no cover: other SQLAlchemy
