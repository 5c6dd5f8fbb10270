"""The connection that users see as ``raw_connection``: asyncpg's, with a memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg import connection as asyncpg_connection
from asyncpg.connection import Connection as _Bare

from fastdb.drivers.postgresql_wakeup import PromptLoop, PromptProtocol

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractContextManager

from fastdb._speedups import (
    decode_timestamp,
    decode_timestamptz,
    encode_timestamp,
    encode_timestamptz,
)

__all__ = ["EncodedText", "TaggedConnection"]

#: What asyncpg.Connection.reset() leaves behind. DISCARD ALL would drop asyncpg's statements too.
_FURTHER_RESET: Final = """
SET SESSION AUTHORIZATION DEFAULT;
RESET ROLE;
DISCARD TEMP;
DISCARD SEQUENCES;
DO $$
DECLARE statement text;
BEGIN
    FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
        EXECUTE 'DEALLOCATE ' || pg_catalog.quote_ident(statement);
    END LOOP;
END $$;
"""

#: Types whose values are asyncpg's, made sooner: oid, name, encoder and decoder.
_TIMES: Final = (
    (1114, "timestamp", encode_timestamp, decode_timestamp),
    (1184, "timestamptz", encode_timestamptz, decode_timestamptz),
)


def _execute_of_known_layers() -> object:
    """Return asyncpg's ``_execute``, where the installed one is built as :meth:`prepared` expects.

    None where it is not, also where a tool that traces queries has put methods of its own in the
    place of asyncpg's.
    """
    known = asyncpg.__version__.startswith(("0.30.", "0.31.", "0.32.")) and all(
        getattr(getattr(asyncpg.Connection, name, None), "__globals__", None)
        is vars(asyncpg_connection)
        for name in ("_execute", "execute", "fetch", "fetchrow")
    )
    return asyncpg.Connection._execute if known else None


#: What all statements with arguments pass, where it is known and does nothing else.
_EXECUTE: Final = _execute_of_known_layers()


class EncodedText(str):
    """Mark a value that SQLAlchemy's type has encoded: the user's codec is not to do it again."""

    __slots__ = ()


class TaggedConnection(asyncpg.Connection):  # type: ignore[misc]
    """Remember what asyncpg forgets: the last command's tag, and codecs that were set.

    Attributes:
        last_tag: What the server said of the last ``execute``, such as ``UPDATE 3``.
        codecs: The types that have a codec of the user's, by name and schema.
        exclusive: The block in which a statement has to run: no two overlap.
        run: Called with a statement that is :meth:`prepared`, its arguments, "", the number of
            rows to return (0 for all), whether to return the tag, too, and None; awaited, it
            gives the rows, or a tuple of them and the tag, as bytes.
    """

    __slots__ = ("codecs", "exclusive", "last_tag", "run")

    def __init__(
        self, protocol: Any, transport: asyncio.Transport, loop: PromptLoop, *args: Any
    ) -> None:
        """Take what asyncpg gives, and let its answers be gone on with at once."""
        super().__init__(protocol, transport, loop.real, *args)
        transport.set_protocol(PromptProtocol(protocol, loop))
        self.last_tag = ""
        self.codecs: set[tuple[str, str]] = set()
        self.exclusive: AbstractContextManager[None] = self._stmt_exclusive_section
        self.run: Callable[..., Coroutine[Any, Any, Any]] = self._protocol.bind_execute

    # -- statements that are prepared already

    # Between fetchrow() and the protocol lie four coroutines of asyncpg's and a fifth that looks
    # the statement up: a fifth of all that a row by its key costs. Where the statement is there
    # and nobody listens, they have nothing to do.

    def prepared(self, sql: str) -> Any:
        """Return asyncpg's statement for `sql` where :attr:`run` can run it, otherwise None."""
        if self._query_loggers or self._aborted or _Bare._execute is not _EXECUTE:
            return None
        return self._stmt_cache.get((sql, self._protocol.get_record_class(), False))

    def forget_statements(self) -> None:
        """Make asyncpg prepare every statement anew, as it does itself when one has changed."""
        self._drop_global_statement_cache()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, also where asyncpg has given it up."""
        transport: asyncio.Transport = self._transport
        return transport

    def is_ready(self) -> bool:
        """Return whether it is open, and no cancelled statement is not yet known to have ended."""
        return not (
            self._aborted
            or self._cancellations
            or self._transport.is_closing()
            or not self._protocol.is_connected()
        )

    def is_idle(self) -> bool:
        """Return whether it is ready and in no transaction."""
        return self.is_ready() and not self._protocol.is_in_transaction()

    def take_cancellations(self) -> list[asyncio.Task[None]]:
        """Return the requests to cancel a statement that are on their way.

        They go on when the connection is closed, which would stop them: the statement would not.
        """
        requests: list[asyncio.Task[None]] = list(self._cancellations)
        self._cancellations.clear()
        return requests

    def speed_up(self) -> None:
        """Make timestamps with codecs of ours, where this asyncpg has them as it is known to.

        It is what ``set_type_codec`` does, without asking the server for an oid that is the same
        everywhere. A codec of the user's takes the place of ours; to reset it brings asyncpg's
        own back.
        """
        settings = self.get_settings()
        try:
            for oid, name, encoder, decoder in _TIMES:
                settings.add_python_codec(
                    oid, name, "pg_catalog", [], "scalar", encoder, decoder, "binary"
                )
        except (AttributeError, TypeError):  # another asyncpg, whose own codecs stay
            for oid, name, _, _ in _TIMES:
                with contextlib.suppress(AttributeError, TypeError):
                    settings.remove_python_codec(oid, name, "pg_catalog")

    def forget_transaction(self) -> None:
        """Make asyncpg forget a transaction that failed to begin: it takes it for begun."""
        self._top_xact = None  # type: ignore[misc]

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Execute a command as asyncpg does, and remember its tag."""
        self.last_tag = ""
        tag: str = await super().execute(query, *args, timeout=timeout)
        self.last_tag = tag
        return tag

    async def set_type_codec(
        self,
        typename: str,
        *,
        schema: str = "public",
        encoder: Callable[[Any], Any],
        decoder: Callable[[Any], Any],
        format: str = "text",
    ) -> None:
        """Set a codec as asyncpg does; what SQLAlchemy has encoded passes it untouched."""
        version = b"\1" if typename == "jsonb" else b""
        encoder = _passing_encoded(encoder, version, format)
        await super().set_type_codec(
            typename, schema=schema, encoder=encoder, decoder=decoder, format=format
        )
        self.codecs.add((typename, schema))

    async def set_builtin_type_codec(
        self, typename: str, *, schema: str = "public", codec_name: str, format: str | None = None
    ) -> None:
        """Set a codec as asyncpg does."""
        await super().set_builtin_type_codec(
            typename, schema=schema, codec_name=codec_name, format=format
        )
        self.codecs.add((typename, schema))

    async def reset_type_codec(self, typename: str, *, schema: str = "public") -> None:
        """Return to asyncpg's own codec for a type."""
        await super().reset_type_codec(typename, schema=schema)
        self.codecs.discard((typename, schema))

    def get_reset_query(self) -> str:
        """Return what brings the session back to its beginning.

        Servers that are no PostgreSQL get only what asyncpg knows them to understand.
        """
        query: str = super().get_reset_query()
        return query + _FURTHER_RESET if "UNLISTEN" in query and "CLOSE ALL" in query else query


def _passing_encoded(
    encoder: Callable[[Any], Any], version: bytes, format: str
) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        if type(value) is not EncodedText:
            return encoder(value)
        return version + value.encode() if format == "binary" else str(value)

    return encode
