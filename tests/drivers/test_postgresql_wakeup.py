"""Tasks that go on in the turn of the event loop that brings an answer of asyncpg's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fastdb.drivers.postgresql_wakeup import PromptFuture, PromptLoop, PromptProtocol


class Answers(asyncio.Protocol):
    """A protocol that does what it is told with what it receives."""

    def __init__(self, receive: Callable[[bytes], object]) -> None:
        self.receive = receive
        self.told: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.receive(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


async def wait_for(future: asyncio.Future[Any], steps: list[object]) -> None:
    """Await `future` and note what it gives."""
    steps.append(await future)


async def begin_to_wait(future: PromptFuture, steps: list[object]) -> asyncio.Task[None]:
    """Return a task that waits for `future`."""
    task = asyncio.create_task(wait_for(future, steps))
    await asyncio.sleep(0)
    return task


async def test_a_task_goes_on_once_all_is_read() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    prompt = PromptLoop(loop)
    future = prompt.create_future()
    future.add_done_callback(lambda _: steps.append("first callback"))
    task = await begin_to_wait(future, steps)

    def receive(data: bytes) -> None:
        future.set_result(data)
        steps.append("read")

    protocol = PromptProtocol(Answers(receive), prompt)
    loop.call_soon(protocol.data_received, b"answer")
    loop.call_soon(steps.append, "next callback")
    await task
    assert steps == ["read", "first callback", b"answer", "next callback"]


async def test_a_task_goes_on_later_where_another_one_reads() -> None:
    steps = list[object]()
    prompt = PromptLoop(asyncio.get_running_loop())
    future = prompt.create_future()
    task = await begin_to_wait(future, steps)
    PromptProtocol(Answers(future.set_result), prompt).data_received(b"answer")
    assert steps == []
    await task
    assert steps == [b"answer"]


async def test_what_is_finished_elsewhere_is_told_as_by_any_future() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    future = PromptLoop(loop).create_future()
    task = await begin_to_wait(future, steps)
    loop.call_soon(future.set_result, "result")
    loop.call_soon(steps.append, "next callback")
    await task
    assert steps == ["next callback", "result"]
    assert future.get_loop() is loop


async def test_a_cancelled_task_hears_of_no_answer() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    prompt = PromptLoop(loop)
    future = prompt.create_future()
    task = await begin_to_wait(future, steps)
    task.cancel()

    def receive(data: bytes) -> None:
        if not future.cancelled():
            future.set_result(data)

    PromptProtocol(Answers(receive), prompt).data_received(b"answer")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()
    assert steps == []


async def test_a_task_that_is_answered_and_then_cancelled_is_cancelled() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    prompt = PromptLoop(loop)
    future = prompt.create_future()
    task = await begin_to_wait(future, steps)

    def receive(data: bytes) -> None:
        future.set_result(data)
        task.cancel()

    loop.call_soon(PromptProtocol(Answers(receive), prompt).data_received, b"answer")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == []


async def test_errors_of_callbacks_are_reported_and_stop_nobody() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    prompt = PromptLoop(loop)
    future = prompt.create_future()
    future.add_done_callback(lambda _: [][0])
    task = await begin_to_wait(future, steps)
    loop.call_soon(PromptProtocol(Answers(future.set_result), prompt).data_received, b"answer")
    await task
    assert steps == [b"answer"]
    assert [type(report["exception"]) for report in reports] == [IndexError]


def test_an_exit_of_a_task_ends_the_loop() -> None:
    async def leave(future: PromptFuture) -> None:
        await future
        raise SystemExit(3)

    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        prompt = PromptLoop(loop)
        future = prompt.create_future()
        tasks.append(asyncio.create_task(leave(future)))
        await asyncio.sleep(0)
        protocol = PromptProtocol(Answers(future.set_result), prompt)
        loop.call_soon(protocol.data_received, b"answer")
        await asyncio.sleep(60)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert isinstance(tasks[0].exception(), SystemExit)


async def test_what_a_protocol_raises_is_raised_and_answers_are_told() -> None:
    loop, steps = asyncio.get_running_loop(), list[object]()
    prompt = PromptLoop(loop)
    future = prompt.create_future()
    task = await begin_to_wait(future, steps)
    raised: list[BaseException] = []

    def receive(data: bytes) -> None:
        future.set_result(data)
        raise LookupError("broken")

    def transport() -> None:
        try:
            PromptProtocol(Answers(receive), prompt).data_received(b"answer")
        except LookupError as error:
            raised.append(error)

    loop.call_soon(transport)
    await task
    assert len(raised) == 1
    assert not prompt.reading


async def test_all_that_a_transport_says_is_handed_on() -> None:
    answers = Answers(print)
    protocol = PromptProtocol(answers, PromptLoop(asyncio.get_running_loop()))
    error = OSError("gone")
    protocol.pause_writing()
    protocol.resume_writing()
    assert protocol.eof_received() is True
    protocol.connection_lost(error)
    assert answers.told == ["pause", "resume", "eof", error]
