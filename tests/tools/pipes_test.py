from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess

import pytest

from polyturn.tools.pipes import close_pipes
from polyturn.tools.sandbox.interpreter import Sandbox


def asked(*given: object) -> None:
    raise AssertionError("the exit status was asked for beside asyncio's watcher")


async def test_a_killed_child_is_reaped_by_asyncio_alone_though_another_holds_its_pipes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 30 & echo $!; wait", stdin=pipe, stdout=pipe, start_new_session=True)
    assert process.stdout is not None
    other = int(await process.stdout.readline())
    monkeypatch.setattr(subprocess.Popen, "poll", asked)
    with caplog.at_level(logging.WARNING, "asyncio"):
        os.kill(process.pid, signal.SIGKILL)
        close_pipes(process)
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL
    assert not caplog.records
    os.kill(other, signal.SIGKILL)


async def test_a_sandbox_takes_no_exit_status_from_asyncio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else asyncio says "Unknown child process pid N" in between."""
    monkeypatch.setattr(subprocess.Popen, "poll", asked)
    with caplog.at_level(logging.WARNING, "asyncio"):
        async with Sandbox() as sandbox:
            await sandbox.run("x = 1")
            process = sandbox._process
    assert process is not None and process.returncode == -signal.SIGKILL
    assert not caplog.records
