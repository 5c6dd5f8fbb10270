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

__all__ = ["QueryCounter"]


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
            for behind in _behind(database):
                queries = CountedQueries.of(behind)
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
        self._stop()
        if exc_type is None and self._expected is not None and self.count != self._expected:
            raise AssertionError(self._difference())

    def _stop(self) -> None:
        while self._seen:
            self._seen.pop().remove(self)

    def _difference(self) -> str:
        ran = "1 query ran" if self.count == 1 else f"{self.count} queries ran"
        lines = [f"{ran}, {self._expected} expected" + (":" if self.queries else "")]
        for number, sql in enumerate(self.queries, 1):
            lines.append(f"  {number}. " + sql.strip().replace("\n", "\n     "))
        return "\n".join(lines)


class CountedQueries:
    """The query cache of a Database, which tells counters what is run.

    It takes that one's place while there is a counter.
    """

    def __init__(self, database: Database) -> None:
        """Stand for the cache of `database`."""
        self._database = database
        self._cache: QueryCache = database.query_cache
        self._counters: tuple[QueryCounter, ...] = ()

    @classmethod
    def of(cls, database: Database) -> CountedQueries:
        """Return the one of `database`, which is put into its place if need be."""
        present: Any = database.query_cache
        if isinstance(present, cls):
            return present
        queries = cls(database)
        database.query_cache = cast("QueryCache", queries)
        return queries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def add(self, counter: QueryCounter) -> None:
        """Tell `counter`, too."""
        self._counters = (*self._counters, counter)

    def remove(self, counter: QueryCounter) -> None:
        """Tell `counter` no more."""
        self._counters = tuple(other for other in self._counters if other is not counter)
        if not self._counters:
            self._database.query_cache = self._cache

    def _note(self, plan: QueryPlan) -> None:
        if transaction_control(plan.sql, self._database._lexical()):
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


def _behind(database: Database) -> list[Database]:
    """Return the Databases that carry out what `database` is asked for now.

    Beside itself, these are that of the loop on which shared sandboxes live, and the private
    copies of those that are open.

    Raises:
        OptionError: `database` is none.
    """
    from fastdb.database import Database
    from fastdb.testing.ownership import Choice, innermost
    from fastdb.testing.sandbox import Sandbox

    if not isinstance(database, Database):
        raise OptionError(f"query_counter counts the queries of a Database, not of {database!r}")
    found = [database]
    choice = database._choice
    if isinstance(choice, Choice):
        if choice._host is not None:
            found.append(choice._host.database)
        for box in {*choice._shared, innermost(database)}:
            if isinstance(box, Sandbox) and box._copy is not None:
                found.append(box._copy)
    return found
