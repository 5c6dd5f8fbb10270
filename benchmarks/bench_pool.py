"""The pool: lending a connection that is idle, and taking it back, with nobody else about.

The connection is one of SQLite in memory, which only has to be looked at. The floor is what a
program would write for itself: a queue of connections.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.operations import EITHER, Form, Loop, Measure, Operation

if TYPE_CHECKING:
    from collections.abc import Iterable

    import fastdb

SUBJECT = "Pool"


def lease(form: Form) -> Loop:
    database = form.runner.run(connect())
    form.closing.callback(lambda: form.runner.run(database.disconnect()))

    async def work(inputs: Iterable[object]) -> None:
        pool = database.pool
        for _ in inputs:
            await pool.release(await pool.acquire())

    return lambda inputs: form.runner.run(work(inputs))


async def connect() -> fastdb.Database:
    """Return a connected database."""
    from fastdb import Database

    database = Database("sqlite://")
    await database.connect()
    return database


def queue(form: Form) -> Loop:
    async def work(inputs: Iterable[object]) -> None:
        idle: asyncio.Queue[object] = asyncio.Queue()
        idle.put_nowait(object())
        for _ in inputs:
            idle.put_nowait(await idle.get())

    return lambda inputs: form.runner.run(work(inputs))


OPERATIONS = (
    Operation(
        "acquire and release",
        lease,
        "asyncio.Queue",
        queue,
        turns=2_000,
        wanted_seconds=2e-6,
        forms=(EITHER,),
    ),
)


def bench_pool(operation: Operation, form: str, measure: Measure) -> None:
    measure(SUBJECT, operation, form)
