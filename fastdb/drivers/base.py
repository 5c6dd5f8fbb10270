"""The only interface that a driver fulfils.

A :class:`Driver` belongs to one Database: it knows the URL and the options and opens connections.
A :class:`DriverConnection` wraps one connection of the driver's package. Its operations take a
:class:`~fastdb.compiler.QueryPlan` with the positional arguments for it, and give records.

Three rules hold for every operation:

* Failures of the driver or the server are raised as :mod:`fastdb.exceptions`, made by
  :func:`fastdb.exceptions_driver.from_driver`; exceptions of the user's code pass unchanged.
* An operation that is cancelled leaves the connection ready for the next one, or closed
  (:meth:`DriverConnection.is_alive` tells). No later operation ever sees its answer, and the
  statement does not go on running on the server.
* Operations on one connection never overlap; the caller sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from sqlalchemy.engine import Dialect

    from fastdb._speedups import QueryPlan, Record
    from fastdb.sql_text import Lexical
    from fastdb.url import DatabaseURL

    Args = tuple[Any, ...]
    Batch = tuple[QueryPlan, list[Args]]


#: So many seconds ago a connection worked: the server has hardly hung up since. A look at the
#: socket is a system call, which costs as much as all else that the pool does for a query.
RECENTLY: Final = 0.001

#: Seconds that go on being given to a command which must not be cut off, once it was cancelled;
#: where a network is between, CANCEL_SECONDS.
PATIENCE: Final = 1.0

#: Seconds that a cancelled caller waits for a connection to be brought in order. Where the network
#: is silent, it is cut then, or cleaned without the caller.
CANCEL_SECONDS: Final = 0.12

#: Seconds that undoing may take after any other error.
UNDO_SECONDS: Final = 5.0


class Outcome(NamedTuple):
    """What one executed statement gave.

    Attributes:
        rows: The records, where the statement returns rows; otherwise empty.
        rowcount: Rows matched or changed, -1 where the driver does not know.
        lastrowid: The key that the server generated for *this* statement, else None.
    """

    rows: list[Record]
    rowcount: int
    lastrowid: int | None


class TransactionOptions(NamedTuple):
    """How a transaction begins. None is the server's default."""

    isolation: str | None = None
    readonly: bool | None = None
    deferrable: bool | None = None
    begin: str | None = None


#: A transaction as the server begins it when nothing is asked for.
DEFAULT_OPTIONS: Final = TransactionOptions()


class Driver(ABC):
    """Open connections to one database.

    Attributes:
        dialect: SQLAlchemy's name of the dialect: ``postgresql``, ``mysql`` or ``sqlite``.
        package: The driver's package.
        paramstyle: SQLAlchemy's name of how parameters stand in the SQL that the driver takes.
        streams_apart: Whether an iteration outside a transaction takes a connection of its own.
        survives_forks: Whether a forked process can open connections where its parent has some.
        single_connection: Whether the database lives on one connection (SQLite in memory).
    """

    dialect: ClassVar[str]
    package: ClassVar[str]
    paramstyle: ClassVar[str]
    streams_apart: ClassVar[bool] = True
    survives_forks: ClassVar[bool] = True
    single_connection: bool = False

    @abstractmethod
    def __init__(self, url: DatabaseURL, options: Mapping[str, Any]) -> None:
        """Check `options` (the URL's own, overlaid by the caller's; the pool's are taken out).

        Values out of a URL are strings. Nothing is connected yet.

        Raises:
            OptionError: An option is unknown, or its value is none that it takes.
        """

    @classmethod
    @abstractmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names of the options that the driver takes."""

    @abstractmethod
    def lexical(self) -> Lexical:
        """Return the lexical rules of the server's SQL, known once a connection was made."""

    @abstractmethod
    def sqlalchemy_dialect(self) -> Dialect:
        """Return the dialect that compiles expressions; imports SQLAlchemy at the first call."""

    @classmethod
    def dialect_parts(cls, base: type[Any]) -> dict[str, Any]:
        """Return what differs in SQLAlchemy's own dialect of the package, over our connections.

        Args:
            base: That dialect.
        """
        return {}

    @abstractmethod
    async def connect(self) -> DriverConnection:
        """Open a connection; cancelled or failed half-way, it leaves none behind."""


class DriverCursor(ABC):
    """A result that is read piece by piece."""

    @abstractmethod
    async def fetch(self, size: int) -> list[Record]:
        """Return up to `size` further records; an empty list at the end."""

    @abstractmethod
    async def close(self) -> None:
        """Give the result up; the connection is then ready for other statements."""


class DriverConnection(ABC):
    """One connection of the driver.

    Attributes:
        raw: The driver's own connection object.
        dirty: Whether the session may differ from a fresh one; the pool then resets it.
        suspect: Whether something failed unexpectedly; the pool then checks it.
        used_at: ``time.monotonic()`` when it was opened, or was last known to work.
        uses: How often it was lent (the pool's).
        expires_at: ``time.monotonic()`` after which it is replaced (the pool's).
        holder: Who has leased it for more than one query, for messages.
        counts_inserts: Whether a raw insert without a generated key gives the number of rows.
        errors_spoil_transactions: Whether a failed statement spoils the transaction around it.
        remote: Whether a network is between, which may let nothing through and say nothing of it.
        irreplaceable: Whether the database itself ends with the connection.
        precious: Whether all that a test has done ends with it (``force_rollback``, a sandbox): it
            is given more time before it is cut.
    """

    counts_inserts: ClassVar[bool] = False
    errors_spoil_transactions: ClassVar[bool] = False
    remote: ClassVar[bool] = True
    irreplaceable: bool = False

    __slots__ = (
        "dirty",
        "expires_at",
        "holder",
        "precious",
        "raw",
        "suspect",
        "used_at",
        "uses",
    )

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.dirty = False
        self.suspect = False
        self.used_at = 0.0
        self.uses = 0
        self.expires_at = float("inf")
        self.holder: object | None = None
        self.precious = False

    def cancel_seconds(self, usual: float | None = None) -> float:
        """Return the seconds that a cancelled caller waits for it to be brought in order.

        Args:
            usual: Of a connection that is not precious; CANCEL_SECONDS, if it is left out.
        """
        seconds = CANCEL_SECONDS if usual is None else usual
        return max(seconds, UNDO_SECONDS) if self.precious else seconds

    def patience(self, error: BaseException | None) -> float | None:
        """Return the seconds that undoing may take after `error`; None is without end.

        After them the connection is cut, which undoes everything, too.
        """
        if not self.remote or error is None:
            return None
        cancelled = isinstance(error, asyncio.CancelledError)
        return self.cancel_seconds() if cancelled else UNDO_SECONDS

    # -- queries

    @abstractmethod
    def fetch_all(self, plan: QueryPlan, args: Args) -> Awaitable[list[Record]]:
        """Return every row."""

    @abstractmethod
    def fetch_one(self, plan: QueryPlan, args: Args) -> Awaitable[Record | None]:
        """Return the first row, or None; the rest of the result is discarded."""

    @abstractmethod
    def execute(self, plan: QueryPlan, args: Args) -> Awaitable[Outcome]:
        """Run one statement, whether it returns rows or not."""

    @abstractmethod
    async def execute_many(self, batches: Iterator[Batch]) -> None:
        """Run every batch, all or nothing.

        Outside a transaction the batches make one of their own; inside one they make a savepoint
        of their own. `batches` runs the user's code: take the next one on the event loop only
        (never in a thread), and hold no more than one or two at a time.
        """

    @abstractmethod
    async def open_cursor(self, plan: QueryPlan, args: Args, *, hold: bool) -> DriverCursor:
        """Start a result that is read in pieces, in constant memory.

        Args:
            plan: The query.
            args: Its arguments.
            hold: No transaction is open and none may be opened (a connection that the user
                holds): the cursor lives outside one. Statements run while it is open are
                committed one by one.
        """

    # -- transactions; the caller nests them properly

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether the session is in a transaction, known without a round trip."""

    @abstractmethod
    async def begin(self, options: TransactionOptions) -> None:
        """Begin the outermost transaction.

        Raises:
            NotSupportedError: This database cannot honour one of `options`.
        """

    @abstractmethod
    def commit(self) -> Awaitable[None]:
        """Commit the outermost transaction; a COMMIT that became a ROLLBACK raises."""

    @abstractmethod
    async def rollback(self) -> None:
        """Roll back the outermost transaction and every savepoint in it; none open: do nothing."""

    @abstractmethod
    async def savepoint(self) -> None:
        """Open a savepoint inside the innermost one."""

    @abstractmethod
    async def release_savepoint(self) -> None:
        """Keep what happened since the innermost savepoint.

        It has ended then in any case: where that fails, what happened since is undone, if the
        server has not undone more.
        """

    @abstractmethod
    async def rollback_to_savepoint(self) -> None:
        """Undo what happened since the innermost savepoint, and end it."""

    @property
    def ended_by(self) -> str:
        """What ended the open transaction behind our back, in words; "" where that is unknown."""
        return ""

    def note_implicit_commit(self) -> bool:
        """Return whether a statement that others ran has committed the transaction implicitly.

        Where the server does so (MySQL, at DDL), commit() then passes, as after one of ours.
        """
        return False

    # -- the connection's life

    def abandon_raw(self) -> None:
        """Give the connection up on whose `raw` a statement of somebody else's was cancelled."""
        self.terminate()

    @abstractmethod
    def is_alive(self, *, look: bool = True) -> bool:
        """Return whether the connection can be used, as far as can be told without a round trip.

        True only if it is open, idle, and the peer has neither closed it nor sent anything that
        announces its end.

        Args:
            look: Whether to look at the socket, too, without waiting; otherwise only what is
                known already counts.
        """

    def is_still_alive(self) -> bool:
        """Return :meth:`is_alive`, without a look at the socket where it was used just now."""
        return self.is_alive(look=monotonic() - self.used_at > RECENTLY)

    def is_idle(self) -> bool:
        """Return whether it can be used and is in no transaction, without a look at the socket."""
        return self.is_alive(look=False) and not self.in_transaction

    @abstractmethod
    async def check(self) -> None:
        """Ask the server with a round trip; raise where it does not answer as it should."""

    @abstractmethod
    async def reset(self) -> None:
        """Bring the session back to what it was after :meth:`Driver.connect`, `init` included."""

    @abstractmethod
    async def close(self) -> None:
        """Close in good order. Never raises for a connection that is already gone."""

    @abstractmethod
    def terminate(self) -> None:
        """Close at once, without awaiting anything; what is not committed is lost."""

    def descriptors(self) -> list[int]:
        """Return the descriptors of sockets through which a fork could disturb its parent."""
        return []


def hang_up(descriptor: int) -> None:
    """End a socket's connection; the socket itself is still to be closed."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as peer:
        peer.shutdown(socket.SHUT_RDWR)


def socket_descriptors(transport: Any) -> list[int]:
    """Return the descriptor of a transport's socket, if it has one that is open."""
    peer = None if transport is None else transport.get_extra_info("socket")
    return [] if peer is None or peer.fileno() < 0 else [peer.fileno()]


async def to_its_end(
    run: Awaitable[None], connection: DriverConnection, bound: float | None = None
) -> asyncio.CancelledError | None:
    """Await `run`, also when cancelled; return the cancellation, which the caller has to raise.

    A command half-way through which nobody knows what is open must not be stopped: PostgreSQL
    would count the whole transaction as failed, and a savepoint may be there or not.

    Args:
        run: A short command.
        connection: Runs it; cut where it does not end soon after the cancellation.
        bound: Seconds after which it is cut in any case; None waits for ever.
    """
    task = asyncio.ensure_future(run)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        seconds = bound
        if cancellation is not None:
            patience = connection.cancel_seconds() if connection.remote else PATIENCE
            seconds = patience if bound is None else min(bound, patience)
        try:
            if not (await asyncio.wait((task,), timeout=seconds))[0]:
                connection.terminate()
        except asyncio.CancelledError as error:
            cancellation = error
    try:
        task.result()
    except BaseException as error:
        if cancellation is None:
            raise
        raise cancellation from error
    return cancellation
