"""What one task awaits in place of a future."""

from __future__ import annotations

import asyncio

import pytest

from fastdb.drivers.base_wakeup import Wakeup


async def wait_for(wakeup: Wakeup, steps: list[str]) -> None:
    """Await `wakeup` and note it."""
    await wakeup
    steps.append("went on")


async def test_task_goes_on_within_the_callback() -> None:
    loop, steps = asyncio.get_running_loop(), list[str]()
    wakeup = Wakeup(loop)
    task = asyncio.ensure_future(wait_for(wakeup, steps))
    await asyncio.sleep(0)
    loop.call_soon(wakeup.finish)
    loop.call_soon(steps.append, "next callback")
    await task
    assert steps == ["went on", "next callback"]


async def test_task_goes_on_later_where_another_one_finishes_it() -> None:
    loop, steps = asyncio.get_running_loop(), list[str]()
    wakeup = Wakeup(loop)
    task = asyncio.ensure_future(wait_for(wakeup, steps))
    await asyncio.sleep(0)
    wakeup.finish()
    assert steps == []
    await task
    assert steps == ["went on"]


async def test_finished_before_it_is_awaited() -> None:
    wakeup, steps = Wakeup(asyncio.get_running_loop()), list[str]()
    wakeup.finish()
    await wait_for(wakeup, steps)
    assert steps == ["went on"]


async def test_error_is_raised_once_and_not_held() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    wakeup.finish(LookupError("lost"))
    with pytest.raises(LookupError, match="lost"):
        await wakeup
    assert wakeup.error is None


async def test_cancelled_and_finished_in_any_order() -> None:
    loop = asyncio.get_running_loop()
    for finish_first in (False, True):
        wakeup, steps = Wakeup(loop), list[str]()
        task = asyncio.ensure_future(wait_for(wakeup, steps))
        await asyncio.sleep(0)
        if finish_first:
            wakeup.finish()
            assert not wakeup.cancel()
        task.cancel("enough")
        if not finish_first:
            wakeup.finish()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == []


async def test_it_is_no_future_before_it_is_awaited() -> None:
    wakeup = Wakeup(asyncio.get_running_loop())
    assert not asyncio.isfuture(wakeup)
    assert not wakeup.cancel()
    task = asyncio.ensure_future(wakeup)
    await asyncio.sleep(0)
    wakeup.finish()
    await asyncio.wait_for(task, 5)
