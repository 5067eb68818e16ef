"""A crew of workers: the same episodes as here, and what dies or hangs costs what it held and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.audit.report import audit_run
from polyturn.errors import BadInput, BudgetSpent, PolicyFailed, WorkerLost
from polyturn.protocols import Completion, Match, Player
from polyturn.record.read import read_episodes
from polyturn.record.shape import shape_of, written
from polyturn.record.table import lines_from
from polyturn.record.write import open_run
from polyturn.rollout.crew.hand import Hand
from polyturn.rollout.crew.lead import Crew, here
from polyturn.rollout.crew.lines import Drop, End, Meet, Ping, Play, Pong, Ready, Recorded, frame, heard, told
from polyturn.rollout.crew.member import error_of, find_modules
from polyturn.rollout.crew.processes import begin
from polyturn.rollout.environments import LOSSES, Environments, Occupancy
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Episode, Message, PolicyInfo, Sampling, Span, Tool, Turn
from polyturn.waits import Waiting, waits
from tests.policies.tiny import tiny_local
from tests.rollout.crew_line import Line
from tests.rollout.crew_parts import match


@asynccontextmanager
async def at_work(count: int = 1, **more: Any) -> AsyncIterator[Crew]:
    crew = Crew(begin, count, **more)
    working = asyncio.create_task(crew.work())
    try:
        yield crew
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def plain(episode: Episode) -> Any:
    """The episode as JSON values, without what a clock or a cache decided."""
    still = tuple(
        replace(t, turns=tuple(replace(u, started=0.0, ended=0.0, usage=replace(u.usage, cached_tokens=0))
                               for u in t.turns)) for t in episode.trajectories)
    row = written(shape_of(Episode), replace(episode, trajectories=still, started=0.0, ended=0.0, error=None), "e")
    for trajectory in row["trajectories"]:
        for span in trajectory["spans"]:
            span.update({name: span[name].tobytes() for name in ("ids", "logprobs") if span[name] is not None})
    return row


# ---------------------------------------------------------------- the same as here


async def test_an_episode_is_the_same_wherever_it_is_played(tmp_path: Path) -> None:
    model = tiny_local(deterministic=True)
    wanted = [match("a", place=(1, 2)), match("b", window=True), match("c", wrong="raises", marker="")]
    places = [(one, Place(f"{one.task.id}.{trial}", one.task.id, trial)) for one in wanted for trial in range(2)]
    with open_run(tmp_path / "there") as record:
        async with at_work(2) as crew:
            there = await asyncio.gather(
                *(crew.play(one, {"main": model}, place, recorder=record) for one, place in places))
    with open_run(tmp_path / "here") as record:
        here_ = [await play_episode(one, {"main": model}, place, recorder=record) for one, place in places]
    model.close()
    assert [plain(e) for e in there] == [plain(e) for e in here_]
    assert all(e.task is one.task for e, (one, _) in zip(there, places, strict=True))
    assert there[0].final == {**there[0].final, "hash": True}  # type: ignore[dict-item]
    assert "RuntimeError: it broke" in there[4].stop.reason and there[4].stop == here_[4].stop
    assert "crew_parts.py" in (there[4].error or "")
    known = {e.id: plain(e) for e in read_episodes(tmp_path / "here")}
    assert {e.id: plain(e) for e in read_episodes(tmp_path / "there")} == known and len(known) == 6
    for name in ("turns", "episodes"):  # as many rows, of the same length but for the times in them
        rows = [sorted(_keys(line.row()) for line in lines_from(tmp_path / run / f"{name}.jsonl"))
                for run in ("here", "there")]
        assert rows[0] == rows[1]


def _keys(row: Mapping[str, Any]) -> str:
    """Which episode and which of its messages, spans and turns a row holds."""
    if "turn" in row:
        return f"{row['episode']} {[m['index'] for m in row['messages']]} {[s['index'] for s in row['spans']]}"
    return f"{row['episode']['id']} {[(len(t['messages']), len(t['spans'])) for t in row['trajectories']]}"


class Breaks:
    """A policy whose second reply is an error."""

    name, limit = "main", 100

    def __init__(self, error: Exception) -> None:
        self.error, self.calls, self.asked = error, 0, asyncio.Event()

    def info(self) -> PolicyInfo:
        return PolicyInfo("main", version=self.calls)

    def count(self, messages: Any, tools: Any = ()) -> int:
        return 1

    async def sample(self, messages: Any, *, tools: tuple[Tool, ...] = (), sampling: Sampling = Sampling(),
                     written: Any = None) -> Completion:
        self.calls += 1
        self.asked.set()
        if self.calls == 2:
            raise self.error
        return Completion(Message("assistant", "abc"))  # type: ignore[arg-type]


async def test_what_a_policy_raises_is_raised_where_it_was_asked() -> None:
    async with at_work() as crew:
        for error, kind in ((PolicyFailed("no room"), "error"), (BudgetSpent("cost: 1 spent"), "budget"),
                            (ZeroDivisionError("by zero"), "error"),
                            (UnicodeDecodeError("a", b"b", 0, 1, "c"), "error")):
            there, alone = Breaks(error), Breaks(error)
            played = await crew.play(match(), {"main": there}, Place("e"))
            own = await play_episode(match(), {"main": alone}, Place("e"))
            assert played.stop.kind == own.stop.kind == kind
            assert played.stop.reason == own.stop.reason or isinstance(error, UnicodeDecodeError)
            assert str(error) in played.stop.reason and there.calls == alone.calls == 2
            assert played.cast["agent"].version == 2  # who sat there when it ended, as the leader knows it


async def test_a_match_that_cannot_be_sent_or_played_is_refused_by_name() -> None:
    model = Breaks(PolicyFailed(""))
    async with at_work() as crew:
        local = replace(match(), cast={"agent": Player(lambda: ChatAgent(mask=True), "main")})
        with pytest.raises(BadInput, match=r"the match on task t cannot be sent .* top level of a module"):
            await crew.play(local, {"main": model}, Place("e"))
        with pytest.raises(BadInput, match=r"talk has seats .*nobody sits in \['agent'\]"):
            await crew.play(replace(match(), cast={}), {"main": model}, Place("e"))
        assert not crew.hands[0].held


async def test_a_modules_own_file_is_found_by_a_worker(tmp_path: Path) -> None:
    from polyturn.cli.recipe import module_of

    (tmp_path / "mine.py").write_text(
        "from tests.rollout.crew_parts import talks\n"
        "from polyturn.agents.chat import ChatAgent\n"
        "class Mine(ChatAgent):\n    pass\n")
    module = module_of(str(tmp_path / "mine.py"))
    assert here().files[module.__name__] == str(tmp_path / "mine.py")
    model = Breaks(PolicyFailed("no room"))
    async with at_work() as crew:
        own = replace(match(), cast={"agent": Player(partial(module.Mine), "main")})
        assert (await crew.play(own, {"main": model}, Place("e"))).stop.reason == "PolicyFailed: no room"


# ---------------------------------------------------------------- what dies, and what hangs


async def played(folder: Path, matches: list[Match], crew: Crew, count: int = 4) -> Line:
    """All matches, played by a crew through environments."""
    model = tiny_local(deterministic=True)
    line = Line(matches, model)
    with open_run(folder) as record:
        environments = Environments(count, "s", recorder=record, player=crew.play)
        working = asyncio.create_task(environments.work(line, Occupancy(count)))
        over = asyncio.create_task(line.over.wait())
        await asyncio.wait([working, over], timeout=100, return_when=asyncio.FIRST_COMPLETED)
        assert line.over.is_set(), line.why
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    model.close()
    return line


async def test_a_worker_that_dies_loses_only_what_it_held(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    matches = [match("a", sleep_s=0.1), match("b", wrong="dies once", marker=str(marker)), match("c", sleep_s=0.1)]
    notes: list[str] = []
    async with at_work(2, note=notes.append) as crew:
        line = await played(tmp_path / "run", matches, crew)
        living = {hand.name for hand in crew.hands}
    dead = marker.read_text().split()
    assert line.why and all(f"process {dead[0]} " in why and "ended (exit code -9)" in why for why in line.why)
    assert len(line.why) <= 2 and len(dead) == 1  # of four in play on two workers, at most the two of the dead one
    assert len(notes) == 1 and "it held s." in notes[0] and not any(f"process {dead[0]} " in one for one in living)
    found = {e.id: plain(e) for e in read_episodes(tmp_path / "run")}
    assert sorted(found) == [f"s.t{number}.{trial}" for number in range(3) for trial in range(2)]
    model = tiny_local(deterministic=True)
    for number, one in enumerate(matches):
        for trial in range(2):
            place = Place(f"s.t{number}.{trial}", f"s.t{number}", trial)
            assert plain(await play_episode(one, {"main": model}, place)) == found[place.id]
    model.close()


async def test_a_rollout_that_always_takes_its_worker_with_it_is_an_error_at_last(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    wrong = match("b", wrong="dies", marker=str(marker), rollouts=1)
    async with at_work(1) as crew:  # others sit in the same worker, and never so often that they are given up too
        line = await played(tmp_path / "run", [wrong, match("a", rollouts=3, sleep_s=0.1)], crew, 4)
    assert len(marker.read_text().split()) == LOSSES
    assert [why.split(":")[0] for why in line.why].count("0.0") == LOSSES - 1
    assert [why.split(":")[0] for why in line.why].count("1.0") in (1, 2)
    broken = next(e for e in line.episodes if e.task.id == "b")
    assert broken.stop.kind == "error"
    assert broken.stop.reason.startswith("lost 3 times with its worker, at last: worker 0")
    (said,) = broken.trajectories  # what it had sampled stands
    assert (len(said.turns), len(said.messages), said.spans[said.turns[0].spans[0]].sampled) == (1, 2, True)
    assert broken.cast["agent"].kind == "model"
    assert [f.name for f in audit_run(tmp_path / "run").faults] == []
    assert {e.id: e.stop.kind for e in read_episodes(tmp_path / "run")} == {
        "s.t0.0": "error", "s.t1.0": "done", "s.t1.1": "done", "s.t1.2": "done"}


async def test_a_worker_that_hangs_is_ended_and_what_it_held_is_played_again(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    notes: list[str] = []
    async with at_work(1, note=notes.append, silent_s=8.0) as crew:
        line = await played(tmp_path / "run", [match("b", wrong="hangs once", marker=str(marker), rollouts=1)], crew, 1)
    (hung,) = marker.read_text().split()
    assert not psutil.pid_exists(int(hung)) and "said nothing for 8 s, and was ended" in notes[0]
    assert len(line.why) == 1 and line.episodes[0].stop.kind == "done"


async def test_workers_end_with_the_crew_and_with_the_play(tmp_path: Path) -> None:
    model = Breaks(PolicyFailed(""))
    async with at_work(1) as crew:
        playing = asyncio.create_task(crew.play(match(sleep_s=30.0), {"main": model}, Place("e")))
        await asyncio.wait_for(model.asked.wait(), 30)
        process = psutil.Process(int(crew.hands[0].name.split("(process ")[1].split()[0]))
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        assert not crew.hands[0].held and process.is_running()
        began = time.monotonic()
    assert not process.is_running() and time.monotonic() - began < 8
    with pytest.raises(BadInput, match="0 workers"):
        Crew(begin, 0)


async def test_who_waits_in_a_worker_is_seen_here_until_it_ends() -> None:
    def inside(what: str = "") -> list[Waiting]:
        return [wait for wait in waits() if " in worker 0 (process " in wait.who and what in wait.said()[2]]

    async with at_work(1) as crew:
        playing = asyncio.create_task(crew.play(match(sleep_s=60.0), {"main": Breaks(PolicyFailed(""))}, Place("e")))
        async with asyncio.timeout(60):
            while not inside("step()"):  # noqa: ASYNC110 (another process says it; it starts the episode before)
                await asyncio.sleep(0.1)
        (wait,) = inside()
        assert wait.who.startswith("episode e in ") and (wait.whom, wait.what) == ("environment talk", "step()")
        assert wait.deadline_s == 60.0 and 0 <= time.monotonic() - wait.since < 60
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    assert not inside()


# ---------------------------------------------------------------- a link by hand


class Spoken:
    """A way to nobody: what is heard was written beforehand."""

    name = "9"

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)
        self.sent: list[bytes] = []
        self.killed = False

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def receive(self) -> bytes:
        if not self.frames:
            raise EOFError("ended by hand")
        return self.frames.pop(0)

    async def kill(self) -> None:
        self.killed = True

    async def end(self) -> None:
        self.killed = True


READY = frame(Ready(4, "here"))


async def test_a_worker_that_talks_nonsense_is_ended() -> None:
    for nonsense in (b"", b"\xff", b"\x05\xc1", frame(Ping()), READY[:1] + b"\x92\xa1a\xa1b"):
        link = Spoken(READY, nonsense)
        hand = Hand(link, lambda suite: (0, b""))
        await hand.greet(here())
        why = await hand.live(5.0)
        assert link.killed and why.startswith("was ended, for it said what is no message: ")
    with pytest.raises(BadInput, match="its first words were Pong"):
        await Hand(Spoken(frame(Pong(()))), lambda suite: (0, b"")).greet(here())


async def test_where_no_worker_can_begin_the_crew_says_why() -> None:
    links = [Spoken(), Spoken()]

    async def start(index: int) -> Any:
        return links.pop()

    with pytest.raises(ExceptionGroup) as raised:
        await Crew(start, 1).work()
    (error,) = raised.value.exceptions
    assert isinstance(error, WorkerLost) and str(error).startswith("worker 9 could not begin: ended by hand; ")


async def test_what_a_worker_says_of_orders_it_no_longer_holds_changes_nothing() -> None:
    link = Spoken(READY, frame(Recorded(5, Turn(0, "a", "p", (), 0, ()), {}, {})), frame(Pong((5,))))
    hand = Hand(link, lambda suite: (0, b"suite"))
    await hand.greet(here())
    assert await hand.live(5.0) == "ended by hand"
    assert [type(told(data)) for data in link.sent[1:]] == []


# ---------------------------------------------------------------- messages


def test_arrays_come_back_bit_for_bit_and_nonsense_is_refused() -> None:
    logprobs = np.array([-0.1, np.nan, -1e-300, np.float64(1) / 3])
    said = Recorded(3, Turn(0, "a", "p", (0,), 1, (2,)), {}, {
        2: Span(-1, np.array([7, 2**31 - 1, 0, 5], np.int32), True, logprobs, 4, ((1, 2), (), (), ())),
    })
    back = heard(frame(said))
    assert isinstance(back, Recorded)
    span, was = back.spans[2], said.spans[2]
    assert span.ids.dtype == np.int32 and span.ids.tobytes() == was.ids.tobytes()
    assert span.logprobs is not None and span.logprobs.tobytes() == logprobs.tobytes()
    assert (span.support, span.version, span.sampled, back.turn) == (was.support, 4, True, said.turn)
    span.ids[0] = 1  # an array of its own, which can be written
    for nonsense, words in ((b"", "no kind"), (b"\x09", "no kind"), (b"\x07\xc0", "Pong"),
                            (b"\x04\x81\xa5order\xa1x", "Recorded")):
        with pytest.raises(BadInput, match=words):
            heard(nonsense)
    with pytest.raises(BadInput, match="cannot be sent to another process"):
        frame(Meet(2**70, b""))
    assert [told(frame(one)) for one in (Drop(3), End(), Meet(1, b"x"))] == [Drop(3), End(), Meet(1, b"x")]
    play = Play(1, 2, b"m", Place("e", "g", 1, 2), {"main": ("m", 9)}, 2.5)
    assert told(frame(play)) == play


def test_errors_keep_their_type_where_it_is_known() -> None:
    assert repr(error_of("UnknownName", "no policy named 'x'")) == "UnknownName(\"no policy named 'x'\")"
    assert repr(error_of("ZeroDivisionError", "by zero")) == "ZeroDivisionError('by zero')"
    assert repr(error_of("SystemExit", "3")) == "PolicyFailed('SystemExit: 3')"
    assert repr(error_of("UnicodeDecodeError", "no")) == "PolicyFailed('UnicodeDecodeError: no')"


def test_modules_in_files_are_made_importable(tmp_path: Path) -> None:
    import sys

    (tmp_path / "lonely.py").write_text("VALUE = 7\n")
    before = list(sys.path)
    try:
        find_modules(replace(here(), paths=(str(tmp_path / "x"),), files={
            "lonely_module": str(tmp_path / "lonely.py"), "gone": str(tmp_path / "gone.py")}))
        assert sys.modules["lonely_module"].VALUE == 7 and "gone" not in sys.modules
        assert sys.path == [*before, str(tmp_path / "x")]
    finally:
        sys.path[:] = before
        sys.modules.pop("lonely_module", None)
