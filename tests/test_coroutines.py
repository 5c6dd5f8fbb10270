"""What returns a coroutine is taken for a coroutine function, by whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

import fastdb
from fastdb.coroutines import coroutine_function
from fastdb.testing import DatabaseTestClient


@pytest.mark.parametrize(
    "method",
    [
        *(fastdb.Database.connect, fastdb.Database.disconnect),
        *(fastdb.Transaction.start, fastdb.Transaction.commit, fastdb.Transaction.rollback),
        *(
            getattr(owner, name)
            for owner in (fastdb.Database, fastdb.Connection)
            for name in (
                *("fetch_all", "fetch_one", "fetch_val", "execute", "execute_result"),
                *("execute_many", "run_sync", "create_all", "drop_all"),
            )
        ),
        *(DatabaseTestClient.is_database_exist, DatabaseTestClient.database_exists),
    ],
)
def test_methods_that_are_awaited(method: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(method)


async def test_a_marked_function_is_run_when_it_is_called() -> None:
    async def work(number: int) -> asyncio.Task[Any] | int | None:
        return number

    @coroutine_function
    def call(number: int) -> Any:
        seen.append(number)
        return work(number)

    seen: list[int] = []
    coroutine = call(3)
    assert seen == [3]
    assert inspect.iscoroutine(coroutine)
    assert await coroutine == 3


def test_unittest_awaits_what_it_is_to_clean_up(database_url: str) -> None:
    database = fastdb.Database(database_url)

    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            await database.connect()
            self.addAsyncCleanup(database.disconnect)

        async def test(self) -> None:
            transaction = await database.transaction()
            self.addAsyncCleanup(transaction.rollback)
            self.addAsyncCleanup(database.execute, "CREATE TABLE made (a INTEGER)")

    result = unittest.TestResult()
    unittest.TestLoader().loadTestsFromTestCase(Case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert not database.is_connected


async def test_a_mock_in_its_place_is_awaited(database: fastdb.Database) -> None:
    with mock.patch.object(database, "fetch_all", return_value=["a row"]):
        assert await database.fetch_all("SELECT 1") == ["a row"]
    double = mock.create_autospec(database)
    double.fetch_val.return_value = 7
    assert await double.fetch_val("SELECT 1") == 7
    double.disconnect.assert_not_called()


async def test_an_exit_stack_disconnects(database_url: str) -> None:
    database = fastdb.Database(database_url)
    async with contextlib.AsyncExitStack() as stack:
        await database.connect()
        stack.push_async_callback(database.disconnect, timeout=5)
    assert not database.is_connected
