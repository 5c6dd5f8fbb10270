"""The connection that users see as ``raw_connection``: asyncpg's, with a memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import asyncpg

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


class EncodedText(str):
    """Mark a value that SQLAlchemy's type has encoded: the user's codec is not to do it again."""

    __slots__ = ()


class TaggedConnection(asyncpg.Connection):  # type: ignore[misc]
    """Remember what asyncpg forgets: the last command's tag, and codecs that were set.

    Attributes:
        last_tag: What the server said of the last ``execute``, such as ``UPDATE 3``.
        codecs: The types that have a codec of the user's, by name and schema.
    """

    __slots__ = ("codecs", "last_tag")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what asyncpg gives."""
        super().__init__(*args, **kwargs)
        self.last_tag = ""
        self.codecs: set[tuple[str, str]] = set()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, also where asyncpg has given it up."""
        transport: asyncio.Transport = self._transport
        return transport

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancelled statement is not yet known to have ended."""
        return bool(self._cancellations)

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
