"""SQLAlchemy's MySQL compiler with literals that mean the same under every sql_mode and charset.

Literals in an expression (``literal_execute``, ``literal()`` under ``literal_binds``, an escape
character) are compiled for the sql_mode of the first connection, and kept. A session that was told
``SET sql_mode`` would read their backslashes otherwise. Imported only through
:func:`fastdb.compiler.mysql_statement_compiler`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

__all__ = ["safe_literals"]

_STRING = re.compile(r"'((?:[^']|'')*+)'")


@cache
def safe_literals(base: Any) -> Any:
    """Return a class like `base`, a ``MySQLCompiler``, that writes backslashes in hexadecimal."""

    class SafeLiterals(base):  # type: ignore[misc]
        def render_literal_value(self, value: Any, type_: Any) -> Any:
            literal = super().render_literal_value(value, type_)
            # Without a statement it is DDL, whose comments and defaults must be plain strings.
            if "\\" not in literal or self.statement is None:
                return literal
            match = _STRING.fullmatch(literal)
            if match is None:  # of a type of the user's
                return literal
            text = match[1].replace("''", "'")
            if self.dialect._backslash_escapes:
                text = text.replace("\\\\", "\\")
            text = text.replace("%%", "%")  # doubled for the paramstyle of both packages
            return f"_utf8mb4 X'{text.encode().hex()}'"

    return SafeLiterals
