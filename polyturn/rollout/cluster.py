"""Workers as actors of a Ray cluster: the same code as in a spawned process, on whatever machines the cluster has.

An actor is a mailbox around :func:`polyturn.rollout.crew.member.work`. Our frames travel as bytes in Ray's calls; Ray
itself pickles its calls between its own processes, so that a cluster has to be one's own.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import threading
from collections import deque
from typing import Any, Final

from polyturn.errors import BadInput, MissingPackage
from polyturn.rollout.crew.hand import Link
from polyturn.rollout.crew.lead import Starter
from polyturn.rollout.crew.member import work
from polyturn.waits import GRACE_S, Waiting

KNOCK_S: Final = 10.0
"""How long an address may take to answer."""
COLLECT_S: Final = 5.0
"""How long a call for frames waits for the first of them."""


def starter(address: str) -> Starter:
    """Begins workers as actors of the cluster at ``HOST:PORT``, or with ``auto`` of the one that this machine is in;
    each takes one CPU, and they are spread over the machines.

    Raises: MissingPackage, BadInput where there is no such cluster.
    """
    connect(address)
    import ray

    options = {"num_cpus": 1, "max_restarts": 0, "concurrency_groups": {"in": 1, "out": 1},
               "scheduling_strategy": "SPREAD"}
    remote: Any = ray.remote
    make = remote(**options)(Mailbox)

    async def begin(index: int) -> Link:
        return Post(f"{index} of Ray", make.remote())

    return begin


def connect(address: str) -> None:
    """Makes this process a driver of the cluster, unless it is one already. Raises: MissingPackage, BadInput."""
    try:
        import ray
    except ImportError as error:
        raise MissingPackage("ray", "ray") from error
    if ray.is_initialized():
        return
    try:
        knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"no Ray cluster at {address!r}: {error}; begin one with 'ray start --head' and give the "
                       "HOST:PORT that it says, or auto on a machine of the cluster") from error


def knock(address: str) -> None:
    """Raises OSError where nobody listens at ``HOST:PORT``: Ray itself would try for minutes. Other forms are Ray's."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        with Waiting("the run", f"Ray at {address}", "it listens", KNOCK_S):
            socket.create_connection((host, int(port)), KNOCK_S).close()


class Post:
    """A :class:`polyturn.rollout.crew.hand.Link` to an actor."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor
        self._deliver = actor.deliver.options(concurrency_group="in")
        self._collect = actor.collect.options(concurrency_group="out")
        self._came: deque[bytes] = deque()
        self._last: Any = None

    def send(self, data: bytes) -> None:
        """Calls the actor, and does not wait: calls to one group are served in their order."""
        self._last = self._deliver.remote(data)

    async def receive(self) -> bytes:
        """The next frame. Raises: EOFError for a dead actor."""
        from ray.exceptions import RayError

        while not self._came:
            try:
                self._came.extend(await self._collect.remote(COLLECT_S))
            except RayError as error:
                raise EOFError(f"ended ({type(error).__name__}: {str(error).strip().splitlines()[0]})") from error
        return self._came.popleft()

    async def kill(self) -> None:
        """Ends the actor's process."""
        import ray

        await asyncio.to_thread(ray.kill, self._actor, no_restart=True)

    async def end(self) -> None:
        """Waits until the actor says that its worker has ended, then ends it."""
        with Waiting("the crew", f"worker {self.name}", "its end", 2 * GRACE_S):
            try:
                async with asyncio.timeout(2 * GRACE_S):
                    while True:
                        await self.receive()
            except (EOFError, TimeoutError):
                await self.kill()


class Mailbox:
    """What an actor is: two queues, and a thread in which a worker lives. Its calls are Ray's."""

    def __init__(self) -> None:
        self._in: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._worker = threading.Thread(target=work, args=(self,), name="worker", daemon=True)
        self._worker.start()

    def deliver(self, data: bytes) -> None:
        """A frame for the worker."""
        self._in.put(data)

    def collect(self, seconds: float) -> list[bytes]:
        """The frames that the worker has said; waits for the first. Raises: EOFError after the last."""
        found = []
        try:
            found.append(self._out.get(timeout=seconds))
            while True:
                found.append(self._out.get_nowait())
        except queue.Empty:
            if not found and not self._worker.is_alive():
                raise EOFError("the worker has ended") from None
        return found

    def send(self, data: bytes) -> None:
        """The worker's own: says a frame."""
        self._out.put(data)

    def receive(self) -> bytes:
        """The worker's own: the next frame."""
        return self._in.get()
