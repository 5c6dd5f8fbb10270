"""What the core does without a database, in pieces small enough to be timed by themselves.

``bench_cache.py`` and its like list the operations of one subject as ``OPERATIONS``. Pytest times
them beside their floors (``conftest.py``); :mod:`benchmarks.instructions` counts their
instructions, on this checkout and on an earlier one. So they use little of fastdb: names that an
earlier checkout is likely to have, too.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from types import ModuleType
from typing import Any

__all__ = ["EITHER", "Form", "Loop", "Measure", "Operation", "all_operations", "statement"]

#: The modules that list operations.
MODULES = ("bench_cache", "bench_records", "bench_mysql_rows", "bench_pool")

#: The form of what is plain Python, whichever form of the core is in use.
EITHER = "either"

Loop = Callable[[Iterable[Any]], object]
"""Does one thing for each of its inputs."""


class Form:
    """One form of the core, and what has to be closed in the end.

    Attributes:
        name: ``compiled``, ``pure``, or `EITHER`, which has no modules.
        closing: Closed when the operation has been measured.
    """

    def __init__(self, name: str, closing: ExitStack) -> None:
        """Choose the form; nothing is imported yet."""
        self.name = name
        self.closing = closing

    def module(self, name: str) -> ModuleType:
        """Return a module of this form, such as ``records``."""
        package = {"compiled": "_speedups", "pure": "_fallback"}[self.name]
        return importlib.import_module(f"fastdb.{package}.{name}")

    @cached_property
    def runner(self) -> asyncio.Runner:
        """An event loop, for what is asynchronous."""
        return self.closing.enter_context(asyncio.Runner())


@dataclass(frozen=True)
class Operation:
    """One thing that the core does, and the least that it could cost.

    Attributes:
        name: What is done.
        ours: Makes the loop that does it.
        floor_name: What does the like without fastdb.
        floor: Makes the loop of that.
        fresh: Makes the input of one turn, where each needs one that was not used before. This
            is never measured, and not taken off afterwards either: what a query costs is less
            than the noise of building it.
        turns: How many turns of the loop make a round.
        size: How often it is done in one turn.
        wanted_seconds: What it may take at most, compiled.
        wanted_ratio: What it may take at most, compiled, as a part of the floor.
        forms: Those that differ.
    """

    name: str
    ours: Callable[[Form], Loop]
    floor_name: str
    floor: Callable[[Form], Loop]
    fresh: Callable[[], Any] | None = None
    turns: int = 1_000
    size: int = 1
    wanted_seconds: float | None = None
    wanted_ratio: float | None = None
    forms: tuple[str, ...] = ("compiled", "pure")

    def inputs(self, turns: int) -> Iterable[Any]:
        """Return the inputs of `turns` turns."""
        if self.fresh is None:
            return repeat(None, turns)
        return [self.fresh() for _ in range(turns)]


Measure = Callable[[str, Operation, str], None]
"""Measures an operation of a subject in a form, and reports it."""


def all_operations() -> dict[str, Operation]:
    """Return the operations of all subjects by name."""
    modules = [importlib.import_module(f"benchmarks.{name}") for name in MODULES]
    return {each.name: each for module in modules for each in module.OPERATIONS}


def statement(code: str, **names: Any) -> Loop:
    """Return a loop of `code`, in which `names` and ``given``, the input, are local variables."""
    lines = [
        f"def loop(inputs, {', '.join(f'{name}={name}' for name in names)}):",
        "    for given in inputs:",
        *(f"        {line}" for line in code.strip().splitlines()),
    ]
    namespace = dict(names)
    exec("\n".join(lines), namespace)
    loop: Loop = namespace["loop"]
    return loop
