"""The query cache in plain Python; see :mod:`fastdb._speedups.query_cache`."""

from __future__ import annotations

import contextlib
import weakref
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdb._fallback.plans import QueryPlan
from fastdb.exceptions import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fastdb.compiler import Compiler
    from fastdb.compiler_columns import ResultColumns
    from fastdb.compiler_expression import CompiledExpression, Variant
    from fastdb.compiler_text import CompiledText

__all__ = ["CacheInfo", "QueryCache"]


class CacheInfo(NamedTuple):
    """How a query cache has fared."""

    hits: int
    misses: int
    evictions: int
    maxsize: int
    currsize: int


class _Entry:
    """What was compiled, and whether it was used since it was last looked at."""

    __slots__ = ("compiled", "plan", "recent", "used")

    def __init__(self, compiled: Any, plan: Any) -> None:
        self.compiled = compiled
        self.plan = plan
        # The expression that was last found to be equal.
        self.recent: weakref.ref[Any] | None = None
        self.used = False


class _Same:
    """What is known of one expression object that was run before."""

    __slots__ = ("collected", "expression", "extracted", "plans", "reference", "result", "used")

    def __init__(
        self,
        reference: weakref.ref[Any],
        expression: CompiledExpression,
        extracted: Any,
        collected: Any,
        result: ResultColumns | None,
    ) -> None:
        self.reference = reference
        self.expression = expression
        self.extracted = extracted
        self.collected = collected
        self.result = result
        self.plans: dict[Variant, QueryPlan] = {}
        self.used = False


#: SQL texts kept per expression object for lists of different lengths.
_MAX_PLANS = 64


class QueryCache:
    """Turn queries and values into SQL and arguments, compiling each query once.

    Args:
        compiler: Compiles what is not in the cache.
        maxsize: Queries kept; 0 keeps none.
    """

    def __init__(self, compiler: Compiler, maxsize: int = 1024) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0:
            raise OptionError(
                f"the size of the query cache is {maxsize!r}; it must be a whole number from 0 on"
            )
        self._compiler = compiler
        self._maxsize = maxsize
        self._hits = self._misses = self._evictions = 0
        # SQL text, or the fingerprint of an expression, to what was compiled.
        self._entries: dict[Any, _Entry] = {}
        # The same expression object again.
        self._same: dict[Any, _Same] = {}
        # What is found needs no lock. It may be taken again by what the collector runs meanwhile.
        self._lock = RLock()

    def prepare(
        self, query: Any, values: Mapping[Any, Any] | None = None
    ) -> tuple[QueryPlan, tuple[Any, ...], tuple[Any, ...] | None]:
        """Return the plan of a query, the arguments for it, and the given key of an insert.

        Raises:
            EmptyQueryError: There is no statement in the query.
            QueryTypeError: The query or the values are of a wrong type.
            MissingParameterError: A parameter has no value.
            UnknownParameterError: A value has no parameter.
            ProgrammingError: SQLAlchemy cannot compile the query.
        """
        if isinstance(query, str):
            plan, text = self._text(query)
            return plan, text.arguments(values), None
        same, values, _ = self._look_up(query, values, False)
        return self._bound(same, values)

    def prepare_many(
        self, query: Any, rows: Iterable[Mapping[Any, Any]], batch_size: int
    ) -> Iterator[tuple[QueryPlan, list[tuple[Any, ...]]]]:
        """Yield batches of rows that share one SQL text, each of at most `batch_size` rows.

        Nothing is read of `rows` before the first batch is asked for, nor ahead of it.
        """
        from fastdb.compiler_parts import check_row, name_row

        batch: list[tuple[Any, ...]] = []
        current: QueryPlan | None = None
        same: _Same | None = None
        keys: tuple[str, ...] | None = None
        plain_types: frozenset[type] = frozenset()
        for number, row in enumerate(rows):
            if type(row) is not dict:
                check_row(row, number)
            try:
                if isinstance(query, str):
                    plan, text = self._text(query)
                    args = text.arguments(row)
                elif (
                    same is not None
                    and type(row) is dict
                    and tuple(row) == keys
                    and plain_types.issuperset(map(type, row.values()))
                ):
                    # The names are most often those of the row before, and no value an expression.
                    self._hits += 1
                    plan, args, _ = self._bound(same, row)
                else:
                    same, values, keys = self._look_up(query, row, True)
                    plan, args, _ = self._bound(same, values)
                    if values is not None and len(values) == len(row):
                        plain_types = _plain_types()
                    else:
                        same = None  # what is not in `values` is in the statement
            except Exception as exc:
                name_row(exc, number)
                raise
            if current is not None and (plan.sql != current.sql or len(batch) >= batch_size):
                yield current, batch
                batch = []
            current = plan
            batch.append(args)
        if current is not None:
            yield current, batch

    def info(self) -> CacheInfo:
        """Return how the cache has fared."""
        return CacheInfo(
            self._hits, self._misses, self._evictions, self._maxsize, len(self._entries)
        )

    def clear(self) -> None:
        """Forget every query; the counts start again."""
        with self._lock:
            self._entries.clear()
            self._same.clear()
            self._hits = self._misses = self._evictions = 0

    def _store(self, key: Any, entry: _Entry) -> None:
        entries = self._entries
        if not self._maxsize:
            return
        with self._lock:
            entries[key] = entry
            # Second chance: what was used since it was last looked at goes to the end of the
            # queue, so that a look-up has no more to do than to set a flag.
            while len(entries) > self._maxsize:
                oldest = next(iter(entries))
                found = entries.pop(oldest)
                if found.used:
                    found.used = False
                    entries[oldest] = found
                else:
                    self._evictions += 1

    def _text(self, query: str) -> tuple[QueryPlan, CompiledText]:
        if type(query) is not str:
            query = str.__str__(query)  # it might equal the key of an expression
        entry = self._entries.get(query)
        if entry is not None:
            self._hits += 1
            entry.used = True
            return entry.plan, entry.compiled
        self._misses += 1
        text = self._compiler.compile_text(query)
        plan = QueryPlan(text.parts)
        self._store(query, _Entry(text, plan))
        return plan, text

    def _look_up(
        self, query: Any, values: Any, many: bool
    ) -> tuple[_Same, Any, tuple[str, ...] | None]:
        """Return what is known of an expression, and its values with their names."""
        original = query
        query, values, keys = self._compiler.adapt(query, values)
        same_key = (id(query), keys, many)
        same = self._same.get(same_key)
        if same is not None and same.reference() is query:
            self._hits += 1
            same.used = True
        else:
            same = self._find(query, keys, many, query is original, same_key)
        return same, values, keys

    def _bound(
        self, same: _Same, values: Any
    ) -> tuple[QueryPlan, tuple[Any, ...], tuple[Any, ...] | None]:
        variant, args, given = same.expression.arguments(values, same.extracted, same.collected)
        plan = variant.plan
        if plan is None:
            plan = variant.plan = QueryPlan(variant.parts)
        if same.result is not None:
            own = same.plans.get(variant)
            if own is None:
                if len(same.plans) >= _MAX_PLANS:
                    same.plans.clear()
                own = same.plans[variant] = plan.for_columns(same.result)
            plan = own
        return plan, args, given

    def _find(
        self, query: Any, keys: tuple[str, ...] | None, many: bool, keep: bool, same_key: Any
    ) -> _Same:
        from fastdb.compiler_fingerprint import fingerprint

        extracted = collected = None
        mark = fingerprint(query)
        entry: _Entry | None = None
        result: ResultColumns | None = None
        key: Any = None
        if mark is not None:
            extracted, collected = mark.binds, mark.collected
            key = (mark.key, keys, many)
            entry = self._entries.get(key)
        if entry is None:
            self._misses += 1
            expression: CompiledExpression = self._compiler.compile_expression(
                query, keys, many, None if mark is None else mark.cache_key
            )
            if expression.shared:
                self._store(key, _Entry(expression, None))
            else:
                extracted = collected = None
        else:
            self._hits += 1
            entry.used = True
            expression = entry.compiled
            # Most expressions are made anew for each call; one that comes again is worth keeping.
            keep = keep and entry.recent is not None and entry.recent() is query
            # An expression class may be without weak references.
            with contextlib.suppress(TypeError):
                entry.recent = weakref.ref(query)
            if expression.result is not None and not expression.result.plain:
                result = expression.result.for_query(query, at_once=keep)
        same = _Same(_no_reference, expression, extracted, collected, result)
        if keep and self._maxsize:
            self._remember(query, same, same_key)
        return same

    def _remember(self, query: Any, same: _Same, same_key: Any) -> None:
        known = self._same

        def forget(reference: weakref.ref[Any]) -> None:
            found = known.get(same_key)
            if found is not None and found.reference is reference:
                known.pop(same_key, None)  # another thread may have been quicker

        try:
            same.reference = weakref.ref(query, forget)
        except TypeError:  # pragma: no cover: expressions without weak references
            return
        with self._lock:
            known[same_key] = same
            while len(known) > self._maxsize:
                try:
                    oldest = next(iter(known))
                    oldest_same = known.pop(oldest, None)
                except (RuntimeError, StopIteration):  # pragma: no cover: a race
                    continue
                if oldest_same is not None and oldest_same.used:
                    oldest_same.used = False
                    known[oldest] = oldest_same


def _plain_types() -> frozenset[type]:
    from fastdb.compiler_statement import PLAIN_TYPES

    return PLAIN_TYPES


class _Nothing:
    """An object that is gone at once."""


_no_reference: weakref.ref[Any] = weakref.ref(_Nothing())
