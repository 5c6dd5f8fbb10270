"""Count the queries of a Database, wherever they run: the fixture ``query_counter``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastdb.exceptions import OptionError
from fastdb.sql_text import transaction_control

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from fastdb._speedups import QueryCache, QueryPlan
    from fastdb.database import Database
    from fastdb.drivers.base import Batch

__all__ = ["CountedQueries", "QueryCounter", "counted"]


class QueryCounter:
    """A ``with`` block that counts the queries of a database, of every task, thread and loop.

    What begins and ends transactions and savepoints does not count, nor does what runs through
    ``run_sync``. ``execute_many`` and ``iterate`` are one query each.

    Attributes:
        queries: The SQL of the queries so far, in order.
    """

    def __init__(self, databases: tuple[Database, ...], expected: int | None) -> None:
        """Describe a block.

        Args:
            databases: Whose queries to count.
            expected: How many there must be at the end; None counts only.
        """
        self.queries: list[str] = []
        self._databases = databases
        self._expected = expected
        self._seen: list[CountedQueries] = []

    def __repr__(self) -> str:
        """Show the number of queries."""
        return f"<QueryCounter of {self.count} queries>"

    @property
    def count(self) -> int:
        """How many queries there were so far."""
        return len(self.queries)

    def __enter__(self) -> QueryCounter:
        """Count from now on."""
        for database in self._databases:
            queries = counted(database)
            queries.add(self)
            self._seen.append(queries)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count no longer.

        Raises:
            AssertionError: There were more or fewer queries than expected.
        """
        __tracebackhide__ = True
        while self._seen:
            self._seen.pop().remove(self)
        if exc_type is None and self._expected is not None and self.count != self._expected:
            raise AssertionError(self._difference())

    def _difference(self) -> str:
        ran = "1 query ran" if self.count == 1 else f"{self.count} queries ran"
        lines = [f"{ran}, {self._expected} expected" + (":" if self.queries else "")]
        for number, sql in enumerate(self.queries, 1):
            lines.append(f"  {number}. " + sql.strip().replace("\n", "\n     "))
        return "\n".join(lines)


class CountedQueries:
    """The query cache of a Database, which tells counters what is run."""

    def __init__(self, database: Database) -> None:
        """Stand for the cache of `database`."""
        self._lexical = database._lexical
        self._cache: QueryCache = database.query_cache
        self._counters: tuple[QueryCounter, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def add(self, counter: QueryCounter) -> None:
        """Tell `counter`, too."""
        self._counters = (*self._counters, counter)

    def remove(self, counter: QueryCounter) -> None:
        """Tell `counter` no more."""
        self._counters = tuple(other for other in self._counters if other is not counter)

    def _note(self, plan: QueryPlan) -> None:
        # What a shared sandbox asks at a commit is none of the application's queries.
        if "$fastdb$" in plan.sql or transaction_control(plan.sql, self._lexical()):
            return
        for counter in self._counters:
            counter.queries.append(plan.sql)

    def prepare(
        self, query: Any, values: Mapping[Any, Any] | None = None
    ) -> tuple[QueryPlan, tuple[Any, ...], tuple[Any, ...] | None]:
        """Prepare a query, which is run next."""
        prepared = self._cache.prepare(query, values)
        if self._counters:
            self._note(prepared[0])
        return prepared

    def prepare_many(self, query: Any, rows: Any, batch_size: int) -> Iterator[Batch]:
        """Prepare batches of a query, which count as one."""
        is_first = True
        for plan, batch in self._cache.prepare_many(query, rows, batch_size):
            if is_first and self._counters:
                self._note(plan)
            is_first = False
            yield plan, batch


def counted(database: Database) -> CountedQueries:
    """Return the counted queries of `database`, which has them from the first time on.

    They take the place of its query cache and cost little; sandboxes that are open by then have
    that already, and are not seen.

    Raises:
        OptionError: `database` is none.
    """
    from fastdb.database import Database

    if not isinstance(database, Database):
        raise OptionError(f"query_counter counts the queries of a Database, not of {database!r}")
    present: Any = database.query_cache
    if isinstance(present, CountedQueries):
        return present
    queries = CountedQueries(database)
    database.query_cache = cast("QueryCache", queries)
    return queries
