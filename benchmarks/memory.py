"""What rows that a program holds cost in memory."""

from __future__ import annotations

import gc
import sys
from types import ModuleType
from typing import Any

from fastdb import Record

__all__ = ["held_bytes"]


def held_bytes(rows: Any) -> int:
    """Return the bytes of `rows` and of all that they refer to, each object counted once.

    Values count, on both sides alike, and so do the list of the rows and what the rows share (the
    names of the columns); classes and modules do not, which are there without any row. Sizes are
    ``sys.getsizeof``'s. What ``tracemalloc`` sees would be less than what is held: rows, tuples and
    floats come out of free lists that earlier results have filled.
    """
    seen: dict[int, Any] = {}
    waiting = [rows]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType):
            seen[id(each)] = each
            waiting.extend(gc.get_referents(each))
            if isinstance(each, Record):
                waiting.extend(each)  # of which the collector knows nothing where all are atomic
    return sum(map(sys.getsizeof, seen.values()))
