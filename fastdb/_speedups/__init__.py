"""Choose the compiled core or the pure one; every other module imports it from here.

``FASTDB_NO_EXTENSIONS=1`` takes the pure form, ``FASTDB_REQUIRE_EXTENSIONS=1`` the compiled one or
fails. Neither: the compiled form where it can be imported, else the pure one. The two are never
mixed: one missing module makes all of them pure.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__all__ = [
    "COMPILED",
    "CacheInfo",
    "QueryCache",
    "QueryPlan",
    "Record",
    "RecordLayout",
    "ResultReader",
    "StatementWriter",
    "decode_timestamp",
    "decode_timestamptz",
    "encode_timestamp",
    "encode_timestamptz",
]

COMPILED: bool
"""Whether the compiled form is in use."""


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


_refused = _is_set("FASTDB_NO_EXTENSIONS")
_required = _is_set("FASTDB_REQUIRE_EXTENSIONS")

if _refused and _required:
    raise ImportError(
        "FASTDB_NO_EXTENSIONS and FASTDB_REQUIRE_EXTENSIONS are both set; unset one of them"
    )

if TYPE_CHECKING:
    from fastdb._speedups.mysql_literals import StatementWriter
    from fastdb._speedups.mysql_rows import ResultReader
    from fastdb._speedups.plans import QueryPlan
    from fastdb._speedups.postgresql_times import (
        decode_timestamp,
        decode_timestamptz,
        encode_timestamp,
        encode_timestamptz,
    )
    from fastdb._speedups.query_cache import CacheInfo, QueryCache
    from fastdb._speedups.records import Record, RecordLayout
else:
    COMPILED = False
    if not _refused:
        try:
            from fastdb._speedups.mysql_literals import StatementWriter
            from fastdb._speedups.mysql_rows import ResultReader
            from fastdb._speedups.plans import QueryPlan
            from fastdb._speedups.postgresql_times import (
                decode_timestamp,
                decode_timestamptz,
                encode_timestamp,
                encode_timestamptz,
            )
            from fastdb._speedups.query_cache import CacheInfo, QueryCache
            from fastdb._speedups.records import Record, RecordLayout
        except ImportError as exc:
            if _required:
                raise ImportError(
                    f"FASTDB_REQUIRE_EXTENSIONS is set but the compiled form of fastdb cannot be "
                    f"imported ({exc}); install a wheel for this Python, build with a C compiler, "
                    f"or unset the variable"
                ) from exc
        else:
            COMPILED = True
    if not COMPILED:
        from fastdb._fallback.mysql_literals import StatementWriter
        from fastdb._fallback.mysql_rows import ResultReader
        from fastdb._fallback.plans import QueryPlan
        from fastdb._fallback.postgresql_times import (
            decode_timestamp,
            decode_timestamptz,
            encode_timestamp,
            encode_timestamptz,
        )
        from fastdb._fallback.query_cache import CacheInfo, QueryCache
        from fastdb._fallback.records import Record, RecordLayout


def restore_record(names: tuple[str, ...], values: tuple[Any, ...]) -> Record:
    """Make the record that a pickle describes; pickles of both forms name this function."""
    return RecordLayout(names).record(values)
