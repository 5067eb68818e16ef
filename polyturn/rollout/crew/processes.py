"""Workers as spawned processes of this machine, each at one end of a pair of sockets."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import socket
import struct
import threading
from typing import Any, Final

from polyturn.errors import BadInput
from polyturn.rollout.crew.hand import Link
from polyturn.rollout.crew.lines import FRAME_BYTES
from polyturn.rollout.crew.member import work
from polyturn.rollout.worker import kill_tree, watch
from polyturn.waits import GRACE_S, Waiting

_LENGTH: Final = struct.Struct("!I")


async def begin(index: int) -> Link:
    """A worker in a fresh process, which ends with this one."""
    from multiprocessing import get_context

    ours, theirs = socket.socketpair()
    process = get_context("spawn").Process(
        target=live, args=(theirs, os.getpid()), name=f"polyturn-worker-{index}")
    try:
        await asyncio.to_thread(process.start)
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    return Wire(f"{index}", process, reader, writer)


class Wire:
    """A :class:`polyturn.rollout.crew.hand.Link` to a process."""

    def __init__(self, name: str, process: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name, self.process = name, process
        self._reader, self._writer = reader, writer
        atexit.register(self._kill)

    def send(self, data: bytes) -> None:
        """Puts the frame on its way; a hung worker lets it lie here."""
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> bytes:
        """The next frame. Raises: EOFError with the exit code, BadInput for one that is too long."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > FRAME_BYTES:
                raise BadInput(f"a frame of {length} bytes; the longest that is read has {FRAME_BYTES}")
            return await self._reader.readexactly(length)
        except (EOFError, OSError) as error:
            await self._ended(1.0)
            raise EOFError(f"ended (exit code {self.process.exitcode})") from error

    async def kill(self) -> None:
        """Ends the process with all that it started."""
        await asyncio.to_thread(self._kill)
        self._writer.close()

    async def end(self) -> None:
        """Waits for its end, then kills it."""
        with Waiting("the crew", f"worker {self.name}", "its end", 2 * GRACE_S):
            await self._ended(2 * GRACE_S)
        await self.kill()

    async def _ended(self, seconds: float) -> None:
        await asyncio.to_thread(self.process.join, seconds)

    def _kill(self) -> None:
        atexit.unregister(self._kill)
        if self.process.is_alive():  # the number of one that has ended may be another's by now
            kill_tree(self.process.pid)
            self.process.join(GRACE_S)


# ---------------------------------------------------------------- in the process


def live(own: socket.socket, parent: int) -> None:
    """The life of the process: a worker until its leader is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, args=(parent,), daemon=True).start()
    work(Ends(own))


class Ends:
    """A :class:`polyturn.rollout.crew.member.Pipe` over a socket."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._sending = threading.Lock()

    def send(self, data: bytes) -> None:
        """Sends a frame; the leader always reads."""
        with self._sending:
            self._own.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> bytes | None:
        """The next frame; None when the other end is closed."""
        head = self._exactly(_LENGTH.size)
        return None if head is None else self._exactly(_LENGTH.unpack(head)[0])

    def _exactly(self, count: int) -> bytes | None:
        parts = []
        while count:
            try:
                part = self._own.recv(min(count, 2**20))
            except OSError:
                return None
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
