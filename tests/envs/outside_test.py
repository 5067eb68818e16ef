"""A worker in a process of its own: what it sees, and that nothing it does wrong hangs or passes for an answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyturn.envs.outside import child, process
from polyturn.envs.outside.process import Outside, ask_once
from polyturn.errors import BadInput, DeadlinePassed, EnvironmentFailed

SCRIPT = """
import os, sys, time
import thing

def answer(request):
    do = request["do"]
    if do == "echo": return request["value"]
    if do == "thing": return thing.NAME
    if do == "seen": return {"variables": sorted(os.environ), "modules": [n for n in ("numpy", "polyturn") if can(n)]}
    if do == "print": print('{"id": 1, "value": "forged"}'); sys.stdout.flush(); return "said"
    if do == "refuse": raise ValueError("refused: no such task")
    if do == "fail": raise KeyError("lost")
    if do == "nan": return float("nan")
    if do == "set": return {1, 2}
    if do == "hang": time.sleep(60)
    if do == "exit": print("I leave", file=sys.stderr); sys.stderr.flush(); os._exit(3)
    if do == "forge": os.write(3, b'{"id": 999, "value": 1}\\n'); return 0
    if do == "long": return "x" * (2**24 + 1)
    if do == "memory": return len(bytearray(2**31))
    if do == "pid": return os.getpid()

def can(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True
"""


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thing.py").write_text("NAME = 'a package of its own'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    return Outside("thing", tmp_path / "site", tmp_path / "script.py", timeout_s=2.0, memory_mb=1024)


async def test_it_sees_its_packages_and_nothing_of_ours(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert await outside.ask({"do": "thing"}) == "a package of its own"
    seen = await outside.ask({"do": "seen"})
    assert seen["modules"] == []
    assert set(seen["variables"]) <= {*process.PASSED_ON, "PYTHONHASHSEED", "LC_CTYPE"}
    value = {"a": [1, 0.1, None, True, "ü\n"], "b": {}}
    assert await outside.ask({"do": "echo", "value": value}) == value
    assert outside.starts == 1
    await outside.close()


async def test_what_the_package_prints_is_no_answer(outside: Outside) -> None:
    assert await outside.ask({"do": "print"}) == "said"
    assert await outside.ask({"do": "echo", "value": 1}) == 1
    await outside.close()


@pytest.mark.parametrize(("do", "kind", "words"), [
    ("refuse", BadInput, "thing: no such task"), ("fail", EnvironmentFailed, "KeyError: 'lost'"),
    ("nan", EnvironmentFailed, "Out of range float"), ("set", EnvironmentFailed, "not JSON serializable"),
    ("memory", EnvironmentFailed, "MemoryError"),
])
async def test_an_error_is_told_and_the_process_goes_on(
    do: str, kind: type[Exception], words: str, outside: Outside
) -> None:
    with pytest.raises(kind, match=words):
        await outside.ask({"do": do})
    assert await outside.ask({"do": "echo", "value": 2}) == 2
    assert outside.starts == 1
    await outside.close()


@pytest.mark.parametrize(("do", "words"), [
    ("exit", r"ended at request 1; it said: I leave"), ("forge", "expected an answer to request 1"),
    ("long", "broke off at request 1"),
])
async def test_a_process_that_breaks_its_protocol_is_killed_and_the_next_request_has_another(
    do: str, words: str, outside: Outside
) -> None:
    with pytest.raises(EnvironmentFailed, match=words):
        await outside.ask({"do": do})
    assert await outside.ask({"do": "echo", "value": 3}) == 3
    assert outside.starts == 2
    await outside.close()


async def test_a_request_that_hangs_is_killed_in_time_and_others_wait_no_longer(outside: Outside) -> None:
    pid = await outside.ask({"do": "pid"})
    since = time.monotonic()
    found = await asyncio.gather(
        outside.ask({"do": "hang"}), outside.ask({"do": "echo", "value": 4}), return_exceptions=True)
    assert isinstance(found[0], DeadlinePassed) and "waited for the worker of thing" in str(found[0])
    assert found[1] == 4
    assert time.monotonic() - since < 10
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    await outside.close()


async def test_a_request_that_is_cancelled_leaves_no_answer_for_the_next(outside: Outside) -> None:
    waiting = asyncio.create_task(outside.ask({"do": "hang"}))
    await asyncio.sleep(0.5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await outside.ask({"do": "echo", "value": 5}) == 5
    await outside.close()


async def test_without_leases_the_process_ends(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "IDLE_S", 0.2)
    outside.lease()
    pid = await outside.ask({"do": "pid"})
    outside.release()
    outside.lease()  # the next play begins at once
    await asyncio.sleep(0.4)
    assert await outside.ask({"do": "pid"}) == pid
    outside.release()
    await asyncio.sleep(0.6)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_another_event_loop_has_another_process(outside: Outside) -> None:
    async def once(*, close: bool) -> Any:
        pid = await outside.ask({"do": "pid"})
        if close:
            await outside.close()
        return pid

    assert asyncio.run(once(close=True)) != asyncio.run(once(close=True))


async def test_two_event_loops_at_once_are_refused(outside: Outside) -> None:
    await outside.ask({"do": "pid"})
    with pytest.raises(BadInput, match="another event loop at the same time"):
        await asyncio.to_thread(lambda: asyncio.run(outside.ask({"do": "pid"})))
    await outside.close()


async def test_a_script_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import no_such_package\n")
    broken = Outside("thing", tmp_path, tmp_path / "script.py")
    with pytest.raises(EnvironmentFailed, match=r"(?s)ended at the start.*No module named 'no_such_package'"):
        await broken.ask({})
    with pytest.raises(BadInput, match="above 0"):
        Outside("thing", tmp_path, tmp_path, timeout_s=0)


def test_the_process_ends_with_the_one_that_started_it(outside: Outside) -> None:
    program = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom polyturn.envs.outside.process import Outside\n"
        "async def main():\n"
        f"    outside = Outside(*{[outside.name, *outside._command[4:6]]!r})\n"
        "    outside.lease()\n    print(await outside.ask({'do': 'pid'}), flush=True)\n    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    top = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=top)
    pid = int(done.stdout)
    until = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_answers_are_values_that_json_holds_exactly() -> None:
    assert child.answered(lambda request: request, [1, "a"]) == {"value": [1, "a"]}
    assert "error" in child.answered(lambda request: float("inf"), None)

    def refuse(request: Any) -> None:
        raise ValueError("refused: not this")

    assert child.answered(refuse, None) == {"error": "refused: not this"}
    assert json.loads(json.dumps(child.answered(refuse, None)))


def test_one_request_without_an_event_loop(outside: Outside, tmp_path: Path) -> None:
    site, script = tmp_path / "site", tmp_path / "script.py"
    assert ask_once("thing", site, script, {"do": "echo", "value": [1]}) == [1]
    for do, kind, words in (
        ("refuse", BadInput, "thing: no such task"), ("fail", EnvironmentFailed, "KeyError"),
        ("exit", EnvironmentFailed, "ended with 3 and no answer; it said: I leave"),
        ("forge", EnvironmentFailed, "no answer"),
    ):
        with pytest.raises(kind, match=words):
            ask_once("thing", site, script, {"do": do})
    with pytest.raises(DeadlinePassed, match="within 2 s"):
        ask_once("thing", site, script, {"do": "hang"}, timeout_s=2.0)
