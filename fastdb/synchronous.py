"""SQLAlchemy's synchronous tools over fastdb's own driver connections.

``metadata.create_all()``, ``sqlalchemy.inspect()`` and Alembic want a synchronous Connection of
SQLAlchemy. They get one that runs over the connection of the driver that fastdb leases: in a
greenlet, as SQLAlchemy's asyncio extension does it, with SQLAlchemy's own adapter of the driver.
Transactions are fastdb's: what SQLAlchemy begins, commits and rolls back is a transaction of the
driver connection, or a savepoint where one is open already, whose end decides on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdb.drivers.base import DEFAULT_OPTIONS, TransactionOptions
from fastdb.exceptions import DriverNotInstalledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastdb.drivers.base import Driver, DriverConnection

__all__ = ["Bridge", "run_over"]


class Bridge:
    """Begin, commit and roll back for SQLAlchemy on a driver connection."""

    def __init__(self, connection: DriverConnection, *, joins: bool) -> None:
        """Stand between SQLAlchemy and `connection`, which is the caller's alone.

        Args:
            connection: The driver connection.
            joins: Whether a transaction is open on it, in which all of it takes place.
        """
        self._connection = connection
        self._joins = joins
        self._open = False
        self._options: TransactionOptions | None = DEFAULT_OPTIONS

    def isolate(self, level: str) -> None:
        """Take note of an isolation level for what is begun next; AUTOCOMMIT begins nothing."""
        name = level.upper().replace("_", " ")
        self._options = None if name == "AUTOCOMMIT" else TransactionOptions(isolation=name)

    def reset_isolation(self) -> None:
        """Go back to the server's own isolation level."""
        self._options = DEFAULT_OPTIONS

    def begin(self) -> None:
        """Begin a transaction, or open a savepoint."""
        if self._joins:
            self._await(self._connection.savepoint())
        elif self._options is not None:
            self._await(self._connection.begin(self._options))
        else:
            return
        self._open = True

    def commit(self) -> None:
        """Commit what :meth:`begin` began, if it is still open."""
        if not self._open:
            return
        self._open = False
        committed = self._connection.note_implicit_commit()
        if not self._joins:
            self._await(self._connection.commit())
        elif not committed:
            self._await(self._connection.release_savepoint())

    def roll_back(self) -> None:
        """Roll back what :meth:`begin` began, if it is still open."""
        if not self._open:
            return
        self._open = False
        if not self._joins:
            self._await(self._connection.rollback())
        elif not self._connection.note_implicit_commit():
            self._await(self._connection.rollback_to_savepoint())

    def _await(self, awaitable: Awaitable[None]) -> None:
        """Await from within the greenlet."""
        from sqlalchemy.util import await_only

        await_only(awaitable)


async def run_over(
    driver: Driver,
    connection: DriverConnection,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    joins: bool,
) -> Any:
    """Call ``function(sqlalchemy_connection, *args)`` in a greenlet; return what it returns.

    What `function` leaves uncommitted is committed, or rolled back where it raises.

    Args:
        driver: Made `connection`.
        connection: A driver connection that the caller has for itself until this returns.
        function: A synchronous function.
        args: Its further arguments.
        joins: Whether a transaction is open on `connection`, in which all of it takes place.

    Raises:
        DriverNotInstalledError: The package greenlet is missing.
    """
    try:
        import greenlet  # noqa: F401
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import StaticPool
    except ImportError as error:
        raise DriverNotInstalledError(
            "SQLAlchemy's synchronous tools need the package greenlet; "
            "install it with `pip install fastdb-sql[migrations]`"
        ) from error
    from fastdb.synchronous_dialects import register

    async def creator() -> Any:
        return connection.raw

    # Made for this call: an engine keeps the connection that it has adapted.
    engine = create_async_engine(
        f"{register(type(driver))}://",
        async_creator=creator,
        poolclass=StaticPool,
        pool_reset_on_return=None,
    )
    engine.dialect.bridge = Bridge(connection, joins=joins)  # type: ignore[attr-defined]
    engine.dialect.codecs = driver  # type: ignore[attr-defined]
    async with engine.connect() as synchronous:
        result = await synchronous.run_sync(function, *args)
        await synchronous.commit()
    return result
