"""Servers that the tests start: one of the standard library, one of the official SDK, the latter over http too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from polyturn.agents.tools import ToolAgent
from polyturn.envs.tasks import from_file
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.media import Media
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Match, Player
from polyturn.record.read import read_episodes
from polyturn.record.rules import broken_rules
from polyturn.record.write import open_run
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_groups
from polyturn.tools.mcp import McpServer, McpTools
from polyturn.types import Call, Episode, Limits, Message, Part, assistant

HERE = Path(__file__).parent
PLAIN = f"{sys.executable} -I -S {HERE / 'plain_server.py'}"
SHOP = f"{sys.executable} {HERE / 'mcp_server.py'}"


def gone(process: int) -> bool:
    """Whether a process is no more, or a body that nobody has fetched."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def soon_gone(process: int) -> bool:
    for _ in range(200):
        if gone(process):
            return True
        await asyncio.sleep(0.05)
    return False


async def answered(toolbox: McpTools, name: str, /, **arguments: object) -> Message:
    return await toolbox.call(Call("c1", name, arguments, ""))


async def test_calls_are_answered_and_errors_of_the_caller_are_read_by_it() -> None:
    toolbox = McpTools((McpServer(PLAIN),))
    await toolbox.open()
    await toolbox.open()
    try:
        assert [tool.name for tool in toolbox.tools()] == ["add", "crash", "hang", "babble", "processes"]
        assert toolbox.tools()[0].parameters["required"] == ["a", "b"]
        found = await answered(toolbox, "add", a=2, b=3)
        assert found == Message("tool", "5", name="add", call_id="c1", origin="tool")  # type: ignore[arg-type]
        wrong = await answered(toolbox, "add", a=2)
        assert (wrong.status, wrong.text) == ("error", "Error: 'b' is missing")
        unread = await toolbox.call(Call("c2", "add", None, "{", "not JSON"))
        assert (unread.status, unread.text, unread.call_id) == ("error", "Error: not JSON", "c2")
        with pytest.raises(UnknownName, match="did you mean 'add'"):
            await answered(toolbox, "ad")
        at_once = await asyncio.gather(*(answered(toolbox, "add", a=n, b=n) for n in range(20)))
        assert [message.text for message in at_once] == [str(2 * n) for n in range(20)]
    finally:
        await toolbox.close()
        await toolbox.close()
    with pytest.raises(BadInput, match="not open"):
        toolbox.tools()


async def test_everything_that_a_server_started_ends_with_it() -> None:
    toolbox = McpTools((McpServer(PLAIN),))
    await toolbox.open()
    processes = [int(word) for word in (await answered(toolbox, "processes")).text.split()]
    assert not any(gone(process) for process in processes)
    await toolbox.close()
    assert all([await soon_gone(process) for process in processes])


@pytest.mark.parametrize(("name", "said"), [
    ("crash", r"ended; it said: out of paper"), ("hang", r"did not answer hang within 0.5 s, and then nothing else"),
    ("babble", r"broke off at babble"),
])
async def test_a_server_that_fails_is_an_error_of_the_environment(name: str, said: str) -> None:
    toolbox = McpTools((McpServer(PLAIN, timeout_s=0.5, alive_s=1.0),))
    await toolbox.open()
    try:
        with pytest.raises(EnvironmentFailed, match=said):
            await answered(toolbox, name)
        if name == "crash":
            with pytest.raises(EnvironmentFailed, match="plain_server"):
                await answered(toolbox, "add", a=1, b=1)
    finally:
        await toolbox.close()


async def test_what_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for server, error, said in (
        (McpServer("no-such-program --x"), BadInput, "no program 'no-such-program'"),
        (McpServer("'"), BadInput, "cannot be read"),
        (McpServer(PLAIN, pass_on=("POLYTURN_NOT_SET",)), BadInput, "POLYTURN_NOT_SET, which is not set"),
        (McpServer("http://127.0.0.1:9/mcp", key_env="POLYTURN_NOT_SET"), BadInput, "POLYTURN_NOT_SET, which is not"),
        (McpServer(f"{sys.executable} -c 'raise SystemExit(\"no licence\")'"), EnvironmentFailed, "no licence"),
        (McpServer(f"{PLAIN} 600", start_s=0.5), EnvironmentFailed, "did not start within 0.5 s"),
        (McpServer("http://127.0.0.1:9/mcp"), EnvironmentFailed, "did not start"),
    ):
        toolbox = McpTools((McpServer(PLAIN), server))
        with pytest.raises(error, match=said):
            await toolbox.open()
        await toolbox.close()
    with pytest.raises(BadInput, match="two MCP servers offer add, babble"):
        await McpTools((McpServer(PLAIN), McpServer(PLAIN))).open()
    with pytest.raises(BadInput, match="give media"):
        McpTools((McpServer(PLAIN),), seen=True)
    monkeypatch.setenv("POLYTURN_KEY", "k1")
    assert McpServer("http://x/mcp", key_env="POLYTURN_KEY").headers() == {"Authorization": "Bearer k1"}


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    opening = asyncio.create_task(McpTools((McpServer(f"{PLAIN} 600"),)).open())
    before = set(children())
    for _ in range(1000):
        await asyncio.sleep(0.02)
        if set(children()) - before:
            break
    started = set(children()) - before
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert started and all([await soon_gone(process) for process in started])


def children() -> list[int]:
    return [int(word) for word in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def test_a_server_ends_with_a_run_that_was_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from polyturn.tools.mcp import McpServer, McpTools; from polyturn.types import Call\n"
        "async def main():\n"
        f"    toolbox = McpTools((McpServer({PLAIN!r}),))\n"
        "    await toolbox.open()\n"
        "    print((await toolbox.call(Call('c', 'processes', {}))).text.split()[0], flush=True)\n"
        "    await toolbox.call(Call('c', 'hang', {}))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1],
                          start_new_session=True) as run:
        assert run.stdout is not None
        server = int(run.stdout.readline())
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not gone(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(server)


# ---------------------------------------------------------------- in episodes


def suite(folder: Path) -> object:
    file = folder / "sums.jsonl"
    file.write_text('{"id": "sum", "prompt": "What is 20 + 22?", "answer": "42", "split": "test"}\n')
    return from_file(file, lambda episode: float(episode.task.payload["answer"] in episode.final["replies"]))


async def played(folder: Path, replies: Sequence[Message], limits: Limits = Limits()) -> Episode:
    """The recorded episode of an agent that says these replies in turn."""
    sums = suite(folder)
    task = next(iter(sums.tasks("test")))  # type: ignore[attr-defined]
    made = Player(lambda: ToolAgent(McpTools((McpServer(PLAIN, timeout_s=20),))), "main")
    match = Match(sums, task, {"agent": made}, limits=limits)  # type: ignore[arg-type]
    with open_run(folder / "run") as recorder:
        groups = await play([match], {"main": Scripted(replies, name="main")}, recorder=recorder)
        await score_groups(groups, sums, recorder)  # type: ignore[arg-type]
    return next(iter(read_episodes(folder / "run")))


def calling(name: str, /, **arguments: object) -> Message:
    return assistant("", calls=(Call(f"c-{name}", name, arguments, "{}"),))


async def test_an_agent_uses_tools_in_a_recorded_episode(tmp_path: Path) -> None:
    episode = await played(tmp_path, [calling("processes"), calling("add", a=20, b=22), assistant("42")])
    assert episode.stop.kind == "done" and episode.scores["score"]["agent"].value == 1.0
    trajectory = episode.trajectories[0]
    tools = [message for message in trajectory.messages if message.role == "tool"]
    assert [(message.name, message.call_id, message.origin) for message in tools] == [
        ("processes", "c-processes", "tool"), ("add", "c-add", "tool")]
    assert tools[1].text == "42" and "add" in [tool.name for tool in trajectory.tools]
    assert [turn.at for turn in trajectory.turns] == sorted(turn.at for turn in trajectory.turns)
    assert list(broken_rules(episode)) == []
    assert all([await soon_gone(int(word)) for word in tools[0].text.split()])


async def test_a_crash_is_an_error_and_no_score(tmp_path: Path) -> None:
    episode = await played(tmp_path, [calling("crash"), assistant("42")])
    assert episode.stop.kind == "error" and episode.stop.reason.startswith("environment: MCP server")
    assert "out of paper" in episode.stop.reason and not episode.scores
    assert len(episode.trajectories[0].turns) == 1


async def test_a_seat_waits_no_longer_than_its_time(tmp_path: Path) -> None:
    episode = await played(tmp_path, [calling("hang"), assistant("42")], Limits(seconds=3.0))
    assert episode.stop.kind == "budget" and episode.stop.reason == "seconds: 3.0 spent"


# ---------------------------------------------------------------- the official SDK's server


async def test_structured_arguments_and_every_kind_of_content(tmp_path: Path) -> None:
    media = Media(tmp_path)
    plain, seeing = (McpTools((McpServer(SHOP, timeout_s=60),), media, seen, 1000) for seen in (False, True))
    await asyncio.gather(plain.open(), seeing.open())
    try:
        kinds = {tool.name: tool.kind for tool in plain.tools()}
        assert (kinds["price"], kinds["buy"], kinds["big"]) == ("read", "write", "general")
        orders = [{"name": "apple", "amount": 2}, {"name": "pear", "notes": ["ripe", "red"]}, {"name": "apple"}]
        bought = await answered(plain, "buy", orders=orders)
        assert '"apple": 3' in bought.text and '"pear": 1' in bought.text
        wrong = await answered(plain, "buy", orders=[{"amount": "many"}])
        assert wrong.status == "error" and "orders.0.name" in wrong.text
        unknown = await answered(plain, "price", name="plum")
        assert unknown.status == "error" and "no price for plum" in unknown.text
        assert (await answered(seeing, "price", name="pear")).text == "0.75"
        assert len((await answered(plain, "big", characters=300_000)).text) < 1100
        assert "[299000 more characters were cut]" in (await answered(plain, "big", characters=300_000)).text
        words, dot = (await answered(seeing, "picture")).parts
        assert words == Part("text", "a dot:") and (dot.kind, dot.mime) == ("image", "image/png")
        assert dot.media is not None and media.get(dot.media).startswith(b"\x89PNG")
        line = (await answered(plain, "picture")).parts[1].text
        assert line == f"[image/png, {len(media.get(dot.media))} bytes, not shown; media {dot.media}]"
        assert [part.text[:21] for part in (await answered(plain, "documents")).parts] == [
            "[application/pdf, 4 b", "[https://example.org/"]
        assert (await answered(plain, "nothing")).status == "empty"
        seen = [part.text for part in (await answered(plain, "variables")).parts]
        assert "PATH" in seen and not {name for name in seen if "KEY" in name or "TOKEN" in name or "PYTEST" in name}
    finally:
        await asyncio.gather(plain.close(), seeing.close())


async def test_a_slow_tool_is_told_and_the_server_goes_on() -> None:
    toolbox = McpTools((McpServer(SHOP, timeout_s=3, alive_s=60),))
    await toolbox.open()
    try:
        await toolbox.call(Call("c", "nothing", {}))
        late = await answered(toolbox, "wait", seconds=600)
        assert (late.status, late.text) == ("error", "Error: wait did not answer within 3 s and was stopped")
        assert (await answered(toolbox, "nothing")).status == "empty"
    finally:
        await toolbox.close()


async def test_a_server_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "mcp_server.py"), "http", str(port), stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.1)
        toolbox = McpTools((McpServer(f"http://127.0.0.1:{port}/mcp"),))
        await toolbox.open()
        assert (await answered(toolbox, "price", name="apple")).text == "0.5"
        with pytest.raises(EnvironmentFailed):
            await answered(toolbox, "crash")
        await toolbox.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
