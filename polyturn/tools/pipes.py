"""Letting go of a child that was killed, without taking its exit status from who waits for it."""

from __future__ import annotations

import asyncio


def close_pipes(process: asyncio.subprocess.Process) -> None:
    """Closes our ends of a killed child's pipes, so that who holds the other ends does not hold us.

    ``transport.close()`` would close them too, but it also asks the kernel for the exit status while asyncio's own
    watcher waits for it. Whoever comes second says "Unknown child process" and knows no status. With the pipes closed,
    the transport closes itself once the watcher has seen the end.
    """
    for number in (0, 1, 2):
        pipe = process._transport.get_pipe_transport(number)  # type: ignore[attr-defined]
        if pipe is not None:
            pipe.close()
