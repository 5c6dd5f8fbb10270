"""The code blocks of a document, and how their statements run.

``expression  # -> value`` is checked against ``repr(expression)``, after awaiting it.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple


class Block(NamedTuple):
    """A block of code.

    Attributes:
        language: What stands behind the opening fence.
        line: The number of the line before its first.
        source: The code.
    """

    language: str
    line: int
    source: str


def blocks(document: Path) -> list[Block]:
    """Return the blocks that name a language, in order."""
    text = document.read_text()
    return [
        Block(match[1], text.count("\n", 0, match.start(2)), match[2])
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


async def run(block: Block, document: Path, namespace: dict[str, Any]) -> None:
    """Run statements, which may await, one by one."""
    lines = block.source.splitlines()
    for statement in ast.parse(block.source).body:
        line = statement.end_lineno or 1
        where = f"{document.name}:{block.line + line}"
        expression = isinstance(statement, ast.Expr)
        tree = ast.Expression(statement.value) if isinstance(statement, ast.Expr) else None
        code = compile(
            tree or ast.Module([statement], []),
            where,
            "eval" if expression else "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        found = eval(code, namespace)
        if inspect.iscoroutine(found):
            found = await found
        _, arrow, expected = lines[line - 1].partition("  # -> ")
        if arrow:
            assert repr(found) == expected, where
