"""What our decoder must know of aiomysql to take its place, and whether it does."""

from __future__ import annotations

import inspect
import logging

import aiomysql
import pymysql.converters
from aiomysql.connection import TEXT_TYPES, Connection
from pymysql.constants import CLIENT

__all__ = ["CONVERTERS", "UNKNOWN_HOOK"]

_log = logging.getLogger("fastdb")

_DEPRECATE_EOF = 1 << 24

#: PyMySQL's own converters, whose values our decoder makes itself.
CONVERTERS = (
    (pymysql.converters.through, "as is"),
    (int, "int"),
    (float, "float"),
    (pymysql.converters.convert_datetime, "datetime"),
    (pymysql.converters.convert_date, "date"),
    (pymysql.converters.convert_timedelta, "time"),
)
_TEXT_TYPES = frozenset((15, 16, 249, 250, 251, 252, 253, 254, 255))


def _unknown_hook() -> str:
    """Return what about the installed aiomysql our decoder does not know, or nothing."""
    version = str(aiomysql.__version__)
    if not version.startswith(("0.2.", "0.3.")):
        return f"its version is {version}"
    if frozenset(TEXT_TYPES) != _TEXT_TYPES:
        return "it decodes other types as texts"
    if CLIENT.CAPABILITIES & _DEPRECATE_EOF:
        return "it asks for results without EOF packets"
    for name, used in (
        ("_connect", "_reader"),
        ("_execute_command", "_next_seq_id"),
        ("_read_bytes", "readexactly"),
        ("_read_packet", "_next_seq_id"),
        ("_read_query_result", "init_unbuffered_query"),
        ("next_result", "_read_query_result"),
    ):
        function = getattr(Connection, name, None)
        if not inspect.iscoroutinefunction(function) or used not in function.__code__.co_names:
            return f"its Connection.{name}() does not use {used}"
    for name, used in (("_ensure_alive", "_writer"), ("_close_on_cancel", "close")):
        code = getattr(getattr(Connection, name, None), "__code__", None)
        if code is None or used not in code.co_names:
            return f"its Connection.{name}() does not use {used}"
    return ""


#: What about this aiomysql our decoder does not know; it is not used then.
UNKNOWN_HOOK = _unknown_hook()
if UNKNOWN_HOOK:
    _log.warning(
        "aiomysql decodes rows itself, which takes longer: fastdb's decoder does not know this"
        " aiomysql: %s",
        UNKNOWN_HOOK,
    )
