"""Jobs, their queue and the mailbox: the way to a thread, and back to the tasks that wait."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from fastdb.drivers import base_wakeup
from fastdb.drivers.sqlite_mailbox import JobQueue, Mailbox
from fastdb.drivers.sqlite_worker import Worker
from tests.descriptors import open_descriptors


@pytest.fixture(params=["by descriptor", "by call_soon_threadsafe"])
async def worker(request: pytest.FixtureRequest) -> AsyncIterator[Worker]:
    """Return a worker that has started, on a thread without a database."""
    mailbox = Mailbox(asyncio.get_running_loop(), by_descriptor=request.param == "by descriptor")
    worker = Worker(mailbox, persistent=False)
    worker.start()
    yield worker
    await worker.stop()
    assert mailbox.members == 0


class Gate:
    """A job that lasts until it is let go on."""

    def __init__(self) -> None:
        """Start shut."""
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        """Wait for the gate to be opened."""
        self.entered.set()
        assert self.opened.wait(10)
        return "through"


def fail() -> None:
    """Raise."""
    raise ValueError("it failed")


async def test_job_gives_what_its_call_gives(worker: Worker) -> None:
    assert await worker.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ValueError, match="it failed"):
        await worker.run(fail)


async def test_jobs_of_aiosqlites_without_a_session(worker: Worker) -> None:
    future = asyncio.get_running_loop().create_future()
    worker.queue.put_nowait((future, lambda: "done"))
    assert await future == "done"


@pytest.mark.skipif("not hasattr(os, 'eventfd')", reason="the system has no descriptors for this")
async def test_without_further_descriptors_the_loop_is_woken_all_the_same() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    mailbox = Mailbox(asyncio.get_running_loop(), by_descriptor=True)
    worker = Worker(mailbox, persistent=False)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await worker.run(divmod, 7, 2) == (3, 1)
    await worker.stop()
    assert mailbox.members == 0


async def test_job_that_is_done_is_awaited_at_once(worker: Worker) -> None:
    job = worker.run(divmod, 7, 2)
    while not job.done:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    awaiting = job.__await__()
    with pytest.raises(StopIteration) as stop:
        next(awaiting)
    assert stop.value.value == (3, 1)


@pytest.mark.parametrize(
    "wrap",
    [
        asyncio.ensure_future,
        lambda job: asyncio.wait_for(job, 5),
        lambda job: asyncio.gather(job),
        lambda job: asyncio.shield(job),
    ],
    ids=["ensure_future", "wait_for", "gather", "shield"],
)
async def test_asyncio_takes_a_job_for_an_awaitable(
    worker: Worker, wrap: Callable[[Any], Coroutine[Any, Any, Any]]
) -> None:
    assert await wrap(worker.run(divmod, 7, 2)) in ((3, 1), [(3, 1)])


async def test_task_goes_on_in_the_turn_in_which_its_job_is_collected(worker: Worker) -> None:
    gate = Gate()
    steps: list[str] = []

    async def wait() -> None:
        await worker.run(gate)
        steps.append("went on")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    gate.opened.set()
    while not worker.mailbox._finished:
        time.sleep(0.001)  # noqa: ASYNC251
    worker.mailbox.loop.call_soon(worker.mailbox.collect)
    worker.mailbox.loop.call_soon(steps.append, "next callback")
    await task
    await asyncio.sleep(0)
    assert steps == ["went on", "next callback"]


async def test_task_goes_on_in_its_own_context(worker: Worker) -> None:
    variable = contextvars.ContextVar("variable", default="none")

    async def wait(name: str) -> tuple[str, str, asyncio.Task[Any] | None]:
        variable.set(name)
        await worker.run(time.sleep, 0.001)
        return name, variable.get(), asyncio.current_task()

    tasks = [asyncio.create_task(wait(f"task {n}")) for n in range(5)]
    for task, (name, seen, running) in zip(tasks, await asyncio.gather(*tasks), strict=True):
        assert name == seen
        assert running is task
    assert variable.get() == "none"


async def test_cancelled_before_it_waits(worker: Worker) -> None:
    calls: list[int] = []

    async def wait() -> None:
        own = asyncio.current_task()
        assert own is not None
        own.cancel("first")
        await worker.run(calls.append, 1)

    task = asyncio.create_task(wait())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.run(len, calls) in (0, 1)  # whole or not at all, and nothing is owed


async def test_cancelled_while_it_waits_ends_with_the_job(worker: Worker) -> None:
    gate = Gate()

    async def wait() -> None:
        await worker.run(gate)

    task = asyncio.create_task(wait())
    await asyncio.to_thread(gate.entered.wait)
    task.cancel("no longer wanted")
    await asyncio.sleep(0.01)
    assert not task.done()  # the job is running, and nothing of it may come after
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError, match="no longer wanted"):
        await task


async def test_cancelled_and_collected_in_one_turn(worker: Worker) -> None:
    gate = Gate()

    async def wait() -> str:
        result: str = await worker.run(gate)
        return result

    task = asyncio.create_task(wait())
    await asyncio.to_thread(gate.entered.wait)
    gate.opened.set()
    while not worker.mailbox._finished:
        time.sleep(0.001)  # noqa: ASYNC251
    task.cancel()
    worker.mailbox.collect()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.run(divmod, 7, 2) == (3, 1)


async def test_collected_and_then_cancelled_keeps_its_result(worker: Worker) -> None:
    gate = Gate()

    async def wait() -> str:
        result: str = await worker.run(gate)
        return result

    task = asyncio.create_task(wait())
    await asyncio.to_thread(gate.entered.wait)
    gate.opened.set()
    assert await task == "through"
    assert not task.cancel()


async def test_callback_that_ends_the_program_leaves_no_job_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(job: Any) -> None:
        raise SystemExit(3)

    served: list[Any] = []
    worker.mailbox._signalled = True  # it is collected here, and nowhere else
    jobs = [worker.run(divmod, 7, 2), worker.run(divmod, 9, 2)]
    while len(worker.mailbox._finished) < len(jobs):
        time.sleep(0.001)  # noqa: ASYNC251
    for job, callback in zip(jobs, (leave, served.append), strict=True):
        job.add_done_callback(callback)
    raised: list[BaseException] = []
    monkeypatch.setattr(base_wakeup, "_raise", raised.append)  # else the loop would end here
    asyncio.get_running_loop().call_soon(worker.mailbox.collect)
    await asyncio.sleep(0)
    assert served == [jobs[1]]
    await asyncio.sleep(0)
    assert [type(error) for error in raised] == [SystemExit]


async def test_collecting_leaves_the_loop_to_others(worker: Worker) -> None:
    """Tasks that always have a further job do not keep the event loop to themselves."""
    turns: list[int] = []
    steps = 0

    async def work() -> None:
        nonlocal steps
        for _ in range(2_000):
            await worker.run(int)
            steps += 1

    async def count() -> None:
        while steps < 4_000:
            turns.append(steps)
            await asyncio.sleep(0)

    await asyncio.gather(work(), work(), count())
    assert max(after - before for before, after in pairwise(turns)) <= 4


async def test_stopping_one_worker_leaves_the_jobs_of_another(worker: Worker) -> None:
    other = Worker(worker.mailbox, persistent=False)
    other.start()
    gate = Gate()
    task = asyncio.ensure_future(worker.run(gate))
    await asyncio.to_thread(gate.entered.wait)
    gate.opened.set()
    await other.stop()
    assert worker.mailbox.members == 1
    assert await task == "through"


# -- the queue


def without_eventfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")


def without_free_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)


def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    eventfd_read, calls = os.eventfd_read, iter(range(10**9))

    def read(descriptor: int) -> int:
        if next(calls) % 2 == 0:
            raise InterruptedError
        return eventfd_read(descriptor)

    monkeypatch.setattr(os, "eventfd_read", read)


# Where there is no eventfd, there is one kind of system only.
SYSTEMS = (without_eventfd, without_free_files, interrupted) if hasattr(os, "eventfd") else ()


@pytest.fixture(params=[None, *SYSTEMS])
def queue(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> JobQueue:
    """Return a queue on systems of several kinds."""
    if request.param is not None:
        request.param(monkeypatch)
    return JobQueue()


def test_queue_keeps_the_order_of_each_thread_and_loses_nothing(queue: JobQueue) -> None:
    count, writers = 2_000, 4
    taken: list[tuple[int, int]] = []

    def take() -> None:
        for _ in range(count * writers):
            taken.append(queue.get())
        queue.close()

    def put(writer: int) -> None:
        for number in range(count):
            queue.put((writer, number))
            if number % 50 == writer:
                time.sleep(0.0002)  # long enough for the reader to fall asleep

    threads = [threading.Thread(target=put, args=(writer,)) for writer in range(writers)]
    reader = threading.Thread(target=take)
    for thread in (reader, *threads):
        thread.start()
    for thread in (reader, *threads):
        thread.join(60)
        assert not thread.is_alive()
    for writer in range(writers):
        assert [number for each, number in taken if each == writer] == list(range(count))


def test_queue_that_is_closed_gives_its_descriptor_back() -> None:
    before = open_descriptors()
    queue = JobQueue()
    queue.put(1)
    assert queue.get() == 1
    queue.close()
    queue.close()
    queue.put(2)  # nobody takes it, and nothing is written to a descriptor of somebody else's
    assert open_descriptors() == before
