"""Waits are there while they last, in order, whatever ends them; and threads tell where they are."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from polyturn.waits import Expired, Waiting, places, unless_idle, waited, waits, within


def named(prefix: str) -> list[str]:
    return [wait.whom for wait in waits() if wait.who == prefix]


async def test_a_wait_lasts_as_long_as_it_is_entered() -> None:
    async def one(whom: str, seconds: float) -> None:
        with Waiting("here", whom, "", seconds):
            async with asyncio.timeout(seconds):
                await asyncio.sleep(60)

    tasks = [asyncio.create_task(one(whom, seconds)) for whom, seconds in (("a", 60.0), ("b", 0.05), ("c", 60.0))]
    await asyncio.sleep(0)
    assert named("here") == ["a", "b", "c"]
    with pytest.raises(TimeoutError):
        await tasks[1]
    assert named("here") == ["a", "c"]
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert named("here") == ["c"]
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    assert named("here") == []


def test_one_within_another_and_again() -> None:
    with Waiting("here", "outer", ""), Waiting("here", "inner", ""):
        assert named("here") == ["outer", "inner"]
    wait = Waiting("here", "twice", "")
    for _ in range(2):
        with wait:
            assert named("here") == ["twice"]
    assert named("here") == []


def test_a_function_waits_while_it_computes() -> None:
    @waited("here", "the sum", "a sum")
    def added(a: int, *, b: int) -> list[str]:
        assert a + b == 3
        return named("here")

    assert added(1, b=2) == ["the sum"] and named("here") == [] and added.__name__ == "added"


def test_a_thread_tells_where_it_hangs() -> None:
    go = threading.Event()

    def hanging_here() -> None:
        go.wait(30)

    thread = threading.Thread(target=hanging_here, name="stuck")
    thread.start()
    time.sleep(0.05)
    told = places()
    go.set()
    thread.join()
    assert any("waits_test.py" in place and "hanging_here" in place for place in told["stuck"])
    assert threading.current_thread().name not in told and "stuck" not in places()


def test_a_wait_costs_less_than_the_smallest_step() -> None:
    """A step of an environment takes 100 microseconds and more, a reply milliseconds."""
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for number in range(2000):
            with Waiting("here", f"number {number}", "", 60.0):
                pass
        best = min(best, (time.perf_counter() - begun) / 2000)
    assert best < 20e-6


async def test_what_never_waits_is_handed_on_and_what_waits_is_awaited() -> None:
    async def at_once() -> int:
        return 3

    async def later() -> int:
        await asyncio.sleep(0.001)
        return await at_once() + 1

    assert await within(at_once(), 0.0) == 3
    assert await within(later(), 5.0) == 4
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 5)
    assert await within(future, 5.0) == 5


async def test_a_deadline_ends_the_wait_inside() -> None:
    ended: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("closed")

    with pytest.raises(Expired, match=r"nothing came within 0\.01 s"):
        await within(hangs(), 0.01)
    assert ended == ["closed"]


async def test_errors_come_through_as_they_are_also_timeouts_of_the_answer_itself() -> None:
    async def fails(*, waits: bool, error: Exception) -> None:
        if waits:
            await asyncio.sleep(0)
        raise error

    for first in (False, True):
        with pytest.raises(TimeoutError, match="own"):
            await within(fails(waits=first, error=TimeoutError("own")), 5.0)
        with pytest.raises(ValueError, match="other"):
            await within(fails(waits=first, error=ValueError("other")), 5.0)


async def test_a_cancelled_wait_is_cancelled_inside() -> None:
    ended: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    task = asyncio.ensure_future(within(hangs(), 60.0))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]


async def test_idle_time_ends_it_and_named_waits_do_not() -> None:
    async def works() -> str:
        for _ in range(4):
            with Waiting("it", "another", "an answer", 60.0):
                await asyncio.sleep(0.08)
            await asyncio.sleep(0.01)
        return "done"

    async def hangs(before: bool) -> None:
        if before:
            await works()
        await asyncio.sleep(60)

    assert await unless_idle(works(), 0.1) == "done"
    for before in (False, True):
        began = time.monotonic()
        with pytest.raises(Expired, match=r"nothing came within 0\.1 s"):
            await unless_idle(hangs(before), 0.1)
        assert time.monotonic() - began >= 0.1 + 0.32 * before
    assert await unless_idle(asyncio.sleep(0, "at once"), 0.0) == "at once"


async def test_a_named_wait_in_a_task_or_thread_of_its_own_counts() -> None:
    def slow() -> None:
        with Waiting("it", "a thread", "", 60.0):
            time.sleep(0.3)

    async def both() -> str:
        await asyncio.gather(asyncio.to_thread(slow), asyncio.create_task(asyncio.sleep(0.3)))
        return "done"

    assert await unless_idle(both(), 0.15) == "done"
