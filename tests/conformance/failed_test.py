"""The traps by themselves: network, generators, what is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import threading

import numpy as np
import pytest

from polyturn.conformance.failed import CheckFailed, check_nothing_left, demand, no_network, own_generators, running
from polyturn.errors import PolyturnError


def test_a_failed_check_is_an_assertion_and_ours() -> None:
    demand(True, "fine")
    with pytest.raises(CheckFailed, match="not fine") as failure:
        demand(False, "not fine")
    assert isinstance(failure.value, AssertionError) and isinstance(failure.value, PolyturnError)


def test_this_machine_may_be_talked_to_and_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, no_network("x"):
        socket.create_connection(server.getsockname()).close()
    kept = socket.socket.connect
    with pytest.raises(CheckFailed, match=r"x used the network \(198.51.100.7:9\)"), no_network("x"):
        with socket.socket() as client, pytest.raises(OSError, match="x may not use the network"):
            client.connect(("198.51.100.7", 9))
        with socket.socket() as client, pytest.raises(OSError, match="may not"):
            client.connect_ex(("198.51.100.7", 9))
    assert socket.socket.connect is kept


def test_the_global_generators_are_watched_and_put_back() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random()
    with own_generators("x"):
        pass
    with pytest.raises(CheckFailed, match="x drew from, or seeded, Python's"), own_generators("x"):
        random.random()
    with pytest.raises(CheckFailed, match="x drew from, or seeded, numpy's"), own_generators("x"):
        np.random.random()
    with pytest.raises(KeyError), own_generators("x"):
        raise KeyError("what happens inside comes out")
    assert random.random() == expected


async def test_what_still_runs_is_named_and_what_ends_in_time_is_not() -> None:
    before = running()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="slow")
    thread.start()
    asyncio.get_running_loop().call_later(0.1, done.set)
    await check_nothing_left(before, "x")
    assert not thread.is_alive()
    before = running()
    task = asyncio.create_task(asyncio.sleep(5), name="sleeper")
    with pytest.raises(CheckFailed, match=r"x left asyncio tasks running: \['sleeper'\]"):
        await check_nothing_left(before, "x", grace_s=0.05)
    task.cancel()
