from __future__ import annotations

import asyncio
import os
import platform
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyturn.errors import BadInput, NotIsolated, UnknownName
from polyturn.tools.functions import ToolFailed
from polyturn.tools.sandbox import seccomp
from polyturn.tools.sandbox.child import Kept
from polyturn.tools.sandbox.interpreter import Ran, Sandbox
from polyturn.tools.sandbox.isolation import LEVELS, Bounds, Level, missing, refused
from tests.tools.levels import HERE, ISOLATED, OFFERED

QUICK = Bounds(run_s=0.4)

# ---------------------------------------------------------------- levels


def test_this_machine_isolates_code_and_says_what_it_lacks_for_the_rest() -> None:
    assert ISOLATED, f"no level isolates files and network here: {OFFERED}"
    for level, reason in OFFERED.items():
        assert level in HERE or (level in reason and "install bubblewrap" in reason)


async def test_the_best_level_is_taken_and_reported() -> None:
    async with Sandbox(least="limits") as sandbox:
        assert sandbox.level is None
        assert await sandbox.open() == HERE[0]
        assert sandbox.level == HERE[0]


async def test_nothing_runs_below_the_level_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bwrap, a sandbox that must be bubblewrap refuses, and says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing("bubblewrap") == "the command bwrap is not installed"
    async with Sandbox(least="bubblewrap") as sandbox:
        with pytest.raises(NotIsolated, match=r"bwrap is not installed.*apt-get install bubblewrap"):
            await sandbox.run("open('trace', 'w')")
        assert sandbox.level is None


def test_limits_are_never_taken_unasked() -> None:
    assert Sandbox()._levels == ("bubblewrap", "namespaces")
    assert Sandbox(least="limits")._levels == LEVELS
    with pytest.raises(UnknownName, match="did you mean 'namespaces'"):
        Sandbox(least="namespace")  # type: ignore[arg-type]


def test_a_child_that_is_less_bound_than_its_level_is_refused() -> None:
    bound = {"capable": False, "outside": False, "fork": False, "network": False, "system": False, "processes": False}
    assert refused("bubblewrap", bound) == ""
    for name in bound:
        assert name in refused("namespaces", bound | {name: True})
    assert refused("limits", bound | {"outside": True}) == ""
    assert "fork" in refused("limits", bound | {"fork": True})
    assert "capable" in refused("limits", {})


# ---------------------------------------------------------------- the filter of system calls


def verdict(program: bytes, number: int, architecture: int, argument: int = 0) -> int:
    """What the kernel would answer: the filter, executed by hand."""
    data = struct.pack("<IIQQ", number, architecture, 0, argument)
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    place, loaded = 0, 0
    while True:
        code, yes, no, value = lines[place]
        place += 1
        if code == seccomp.LOAD:
            loaded = struct.unpack_from("<I", data, value)[0]
        elif code == seccomp.EQUAL:
            place += yes if loaded == value else no
        elif code == seccomp.AT_LEAST:
            place += yes if loaded >= value else no
        else:
            assert code == seccomp.RETURN
            return value


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_refuses_exactly_the_named_calls(name: str) -> None:
    program, architecture = seccomp.program(name), seccomp.ARCHITECTURES[name]
    refused_numbers = set(seccomp.numbers(name))
    assert seccomp.OWN_LIMITS[name] not in refused_numbers
    for number in range(600):
        expected = seccomp.REFUSE if number in refused_numbers else seccomp.ALLOW
        assert verdict(program, number, architecture) == expected, number
    assert verdict(program, seccomp.OWN_LIMITS[name], architecture, argument=1) == seccomp.REFUSE
    assert verdict(program, 0, 0x40000003) == seccomp.KILL
    if name == "x86_64":
        assert verdict(program, seccomp.OTHER_ABI + 1, architecture) == seccomp.REFUSE


@pytest.mark.parametrize(("name", "header"), [
    ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h"),
])
def test_the_numbers_are_those_of_the_kernel(name: str, header: str) -> None:
    """Read off the kernel's own headers, where they are installed; else off a sample that was."""
    column = list(seccomp.ARCHITECTURES).index(name)
    sample = {"x86_64": {"clone": 56, "socket": 41, "execve": 59}, "aarch64": {"clone": 220, "socket": 198,
                                                                              "execve": 221}}[name]
    if Path(header).exists():
        words = [line.split() for line in Path(header).read_text().splitlines() if line.startswith("#define __NR_")]
        sample = {row[1].removeprefix("__NR_"): int(row[2]) for row in words if len(row) == 3 and row[2].isdigit()}
    for call, numbers in seccomp.REFUSED.items():
        assert call not in sample or numbers[column] == sample[call], call


def test_an_unknown_processor_is_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert seccomp.machine() is None
    assert "no table of system calls" in missing("limits")


# ---------------------------------------------------------------- running


def test_kept_output_is_bounded_and_counted() -> None:
    kept = Kept(5)
    assert [kept.write(text) for text in ("abc", "def", "g")] == [3, 3, 1]
    assert (kept.text(), kept.dropped) == ("abcde", 2)


@pytest.mark.parametrize("level", HERE)
async def test_variables_stay_from_run_to_run(level: Level) -> None:
    async with Sandbox(only=level) as sandbox:
        assert await sandbox.run("import math\nx = [1, 2]\ndef f(n): return n * len(x)") == Ran("ok")
        assert await sandbox.run("x.append(3)\nprint(f(2), math.pi > 3)") == Ran("ok", "6 True\n")
        assert (await sandbox.run("x")).output == "[1, 2, 3]\n"
        assert (await sandbox.run("x = None\nx")).output == ""


async def test_a_traceback_is_what_a_notebook_would_show_and_changes_nothing() -> None:
    async with Sandbox() as sandbox:
        ran = await sandbox.run("good = 1\nprint('begun')\nvalue = gooood + 1")
        assert (ran.status, ran.output, ran.lost) == ("error", "begun\n", False)
        assert ran.error.startswith('Traceback (most recent call last):\n  File "<code 1>", line 3, in <module>\n'
                                    "    value = gooood + 1\n")
        assert "\nNameError: name 'gooood' is not defined" in ran.error
        assert (await sandbox.run("good")).output == "1\n"
        assert (await sandbox.run("if")).error.endswith("SyntaxError: invalid syntax\n")
        assert (await sandbox.run("x = '\x00'")).status == "error"
        assert (await sandbox.run("import sys; sys.exit(2)")).error.endswith("SystemExit: 2\n")
        assert (await sandbox.run("input()")).error.endswith("EOFError: EOF when reading a line\n")
        assert (await sandbox.run("x" * 200_000)).error.startswith("the code has 200000 characters")


@pytest.mark.parametrize("level", HERE)
async def test_an_infinite_loop_is_stopped_and_the_variables_stay(level: Level) -> None:
    async with Sandbox(only=level, bounds=QUICK) as sandbox:
        await sandbox.run("x = 41")
        ran = await asyncio.wait_for(sandbox.run("x += 1\nwhile True: pass"), 60)
        assert (ran.status, ran.lost) == ("timeout", False)
        assert "longer than 0.4 s" in ran.text()
        assert (await sandbox.run("x")).output == "42\n"


async def test_with_restart_a_timeout_always_loses_the_variables_and_says_so() -> None:
    async with Sandbox(bounds=QUICK, after_timeout="restart") as sandbox:
        await sandbox.run("x = 41")
        ran = await asyncio.wait_for(sandbox.run("while True: pass"), 60)
        assert (ran.status, ran.lost) == ("timeout", True)
        assert "its variables are lost" in ran.text()
        assert "NameError" in (await sandbox.run("x")).error


async def test_output_is_cut_with_a_mark() -> None:
    async with Sandbox(bounds=Bounds(output_chars=100)) as sandbox:
        ran = await sandbox.run("print('a' * 1_000_000)")
        assert (ran.output, ran.dropped) == ("a" * 100, 999_901)
        assert ran.text().endswith("\n[999901 more characters were cut]")
        long = await sandbox.run("raise ValueError('b' * 5000)")
        assert long.error.startswith("...\n") and len(long.error) == 104


# ---------------------------------------------------------------- tools


async def double(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    await asyncio.sleep(0.05)
    if not args:
        raise ToolFailed(f"{name} needs a number")
    return [2 * args[0], dict(kwargs)]


async def test_a_tool_call_waits_for_the_parent() -> None:
    async with Sandbox(tools={"double": "Twice."}) as sandbox:
        ran = await sandbox.run("a = [double(n, by='x') for n in range(3)]\nprint(a, double.__doc__)", answer=double)
        assert ran == Ran("ok", "[[0, {'by': 'x'}], [2, {'by': 'x'}], [4, {'by': 'x'}]] Twice.\n", calls=3)
        caught = "try:\n    double()\nexcept ToolError as error:\n    print('no:', error)"
        failed = await sandbox.run(caught, answer=double)
        assert failed.output == "no: double needs a number\n"
        assert (await sandbox.run("double()", answer=double)).error.endswith("ToolError: double needs a number\n")
        assert "JSON serializable" in (await sandbox.run("double({1})", answer=double)).error
        assert "nobody answers" in (await sandbox.run("double(1)")).error


async def test_the_clock_stands_still_while_a_tool_is_answered() -> None:
    async def slow(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        await asyncio.sleep(2 * QUICK.run_s)
        return 1

    async with Sandbox(tools={"slow": ""}, bounds=QUICK) as sandbox:
        assert (await sandbox.run("print(slow() + slow())", answer=slow)).output == "2\n"
        assert (await sandbox.run("slow()\nwhile True: pass", answer=slow)).status == "timeout"


async def test_too_many_calls_end_the_interpreter() -> None:
    async with Sandbox(tools={"double": ""}, bounds=Bounds(calls=2)) as sandbox:
        ran = await sandbox.run("while True: double(1)", answer=double)
        assert (ran.status, ran.lost, ran.error) == ("died", True, "it made more than 2 tool calls")


async def test_what_the_answer_raises_goes_through_and_ends_the_interpreter() -> None:
    async def broken(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        raise LookupError("spent")

    async with Sandbox(tools={"f": ""}) as sandbox:
        await sandbox.run("x = 1")
        with pytest.raises(LookupError, match="spent"):
            await sandbox.run("f()", answer=broken)
        assert (await sandbox.run("x")).text() == (
            "the interpreter had ended before this code could run\nThe interpreter was ended: its variables are lost.")
        assert "NameError" in (await sandbox.run("x")).error


async def test_one_run_at_a_time() -> None:
    async with Sandbox(bounds=QUICK) as sandbox:
        first = asyncio.create_task(sandbox.run("while True: pass"))
        await asyncio.sleep(0.1)
        with pytest.raises(BadInput, match="one run at a time"):
            await sandbox.run("1")
        assert (await first).status == "timeout"


# ---------------------------------------------------------------- ends


def processes(mark: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in command and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("level", HERE)
async def test_nothing_is_left_after_close_and_after_cancelling(level: Level, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path.name}"
    sandbox = Sandbox(only=level, tools={"f": mark})
    run = asyncio.create_task(sandbox.run("import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass"))
    await asyncio.sleep(0.5)
    assert processes(mark)
    folder = sandbox._folder
    assert folder is not None and folder.exists()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await sandbox.close()
    await sandbox.close()
    await asyncio.sleep(0.2)
    assert not processes(mark) and not folder.exists()


ORPHANS = """
import asyncio, sys
from polyturn.tools.sandbox.interpreter import Sandbox
async def main():
    sandbox = Sandbox(only=sys.argv[1], tools={"f": sys.argv[2]})
    await sandbox.open()
    print("ready", flush=True)
    await sandbox.run("while True: pass")
asyncio.run(main())
"""


@pytest.mark.parametrize("level", HERE)
def test_the_child_dies_with_a_killed_parent(level: Level, tmp_path: Path) -> None:
    import sys

    mark = f"mark-{tmp_path.name}"
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, level, mark], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    time.sleep(0.2)
    assert len(processes(mark)) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes(mark)


@pytest.mark.parametrize("level", HERE)
@pytest.mark.parametrize("which", ["outer", "inner"])
async def test_a_child_that_is_killed_from_outside_has_died_and_the_next_code_runs_in_a_fresh_one(
    level: Level, which: str
) -> None:
    async with Sandbox(only=level) as sandbox:
        assert await sandbox.run("x = 1") == Ran("ok")
        assert sandbox._process is not None
        outer = psutil.Process(sandbox._process.pid)
        running = asyncio.create_task(sandbox.run("while True: pass"))
        await asyncio.sleep(0.2)
        (outer if which == "outer" else [outer, *outer.children(recursive=True)][-1]).kill()
        ran = await running
        assert (ran.status, ran.lost) == ("died", True) and "the interpreter ended" in ran.error
        again = await sandbox.run("print('x' in globals())")
        assert (again.status, again.output) == ("ok", "False\n")
