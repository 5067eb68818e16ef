"""Waits are there while they last, in order, whatever ends them; and threads tell where they are."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from polyturn.waits import Waiting, places, waited, waits


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
