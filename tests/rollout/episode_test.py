from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.desk import Desk
from polyturn.errors import BadInput
from polyturn.protocols import Agent, Ask, Match, Player, Spec, Step
from polyturn.rollout.episode import Place, play_episode
from polyturn.types import Episode, Limits, Message, Seat, Stop, Task, all_turns, assistant, user
from tests.byte_policy import BytePolicy


@dataclass
class Counter:
    """Counts to ``last``; every reply adds one; a joint ask of all seats each step."""

    seats: tuple[Seat, ...] = ("a",)
    last: int = 3
    count: int = 0
    can_save: bool = True
    fault: str = ""
    closed: list[bool] = field(default_factory=list)

    def _step(self) -> Step:
        if self.count >= self.last:
            return Step(stop=Stop("done"), rewards={seat: {"end": 1.0} for seat in self.seats})
        return Step(tuple(Ask(seat, (user(f"count is {self.count}"),)) for seat in self.seats))

    async def start(self, state: bytes | None = None) -> Step:
        if state is not None:
            self.count = json.loads(state)
        return self._step()

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        if self.fault == "raise":
            raise ValueError("broken gears")
        if self.fault == "hang":
            await asyncio.sleep(60)
        if self.fault == "seat":
            return Step((Ask("nobody"),))
        if self.fault == "nan":
            return Step(rewards={"a": {"end": float("nan")}})
        if self.fault == "both":
            return Step((Ask("a"),), stop=Stop("done"))
        if self.fault == "type":
            return None  # type: ignore[return-value]
        self.count += 1
        return self._step()

    async def final(self) -> Mapping[str, Any]:
        return {"count": self.count}

    async def close(self) -> None:
        self.closed.append(True)


class Saving(Counter):
    async def save(self) -> bytes:
        return json.dumps(self.count).encode()


@dataclass
class Suite:
    seats: tuple[Seat, ...] = ("a",)
    fault: str = ""
    saves: bool = True
    last: int = 3
    made: list[Counter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = Spec("counter", self.seats, step_timeout_s=0.2)

    def tasks(self, split: str) -> list[Task]:
        return [Task("t", "counter")]

    async def make(self, task: Task, seed: int) -> Counter:
        kind = Saving if self.saves else Counter
        self.made.append(kind(self.seats, self.last, fault=self.fault))
        return self.made[-1]

    async def close(self) -> None:
        pass


async def played(
    suite: Suite, *, make: Any = ChatAgent, limits: Limits = Limits(), start: bytes | None = None
) -> Episode:
    cast = {seat: Player(make, "main") for seat in suite.seats}
    match = Match(suite, Task("t", "counter"), cast, limits=limits, start=start, train=frozenset(suite.seats))
    return await play_episode(match, {"main": BytePolicy()}, Place("e"))


async def test_an_episode_is_played_to_its_end_and_closed() -> None:
    suite = Suite()
    episode = await played(suite)
    assert (episode.stop.kind, episode.final) == ("done", {"count": 3})
    assert [turn.step for turn in all_turns(episode)] == [0, 1, 2]
    assert dict(all_turns(episode)[-1].rewards) == {"end": 1.0} and episode.paid("a") == 1.0
    assert suite.made[0].closed == [True] and len(episode.final_sha256) == 64


@pytest.mark.parametrize(("fault", "said"), [
    ("raise", "broken gears"), ("hang", "did not answer within 0.2 s"), ("seat", "asks seat 'nobody'"),
    ("nan", "paid seat 'a' nan"), ("both", "and stops"), ("type", "answered NoneType"),
])
async def test_a_broken_environment_is_an_error_that_keeps_its_turns(fault: str, said: str) -> None:
    suite = Suite(fault=fault)
    episode = await played(suite)
    assert episode.stop.kind == "error" and said in episode.stop.reason
    assert len(all_turns(episode)) == 1 and episode.scores == {}
    assert suite.made[0].closed == [True]


async def test_the_horizon_truncates() -> None:
    episode = await played(Suite(last=9), limits=Limits(env_steps=2))
    assert (episode.stop.kind, episode.stop.seat) == ("truncated", "a")
    assert episode.final == {"count": 2} and len(all_turns(episode)) == 2


class Thrifty(ChatAgent):
    """Seat ``a`` spends more calls than it has; the others one."""

    async def act(self, ask: Ask, desk: Desk) -> Message:
        if desk.seat == "a":
            await desk.say(ask.messages, purpose="plan")
        else:
            await asyncio.sleep(0.01)
        return await super().act(ask, desk)


async def test_in_a_joint_ask_the_other_seat_finishes_first_and_is_kept() -> None:
    episode = await played(Suite(("a", "b")), make=Thrifty, limits=Limits(model_calls=3))
    assert (episode.stop.kind, episode.stop.seat) == ("budget", "a")
    counts = {t.seat: len(t.turns) for t in episode.trajectories}
    assert counts == {"a": 3, "b": 2}  # the second joint ask: a's act fails, b's reply is in the log
    assert episode.final == {"count": 1}


async def test_an_episode_starts_from_a_saved_state() -> None:
    episode = await played(Suite(), start=b"2")
    assert episode.final == {"count": 3} and len(all_turns(episode)) == 1


class Searching(ChatAgent):
    """Looks two steps ahead on a copy, and on a copy of the copy."""

    async def act(self, ask: Ask, desk: Desk) -> Message:
        copy, step = await desk.fork()
        assert step.asks[0].messages[0].text == ask.messages[-1].text
        turn = await desk.say(step.asks[0].messages, branch=copy.name)  # type: ignore[attr-defined]
        after = await copy.step({desk.seat: desk.message(turn)})
        if after.asks:
            deeper, again = await desk.fork(of=copy)
            assert again.asks[0].messages[0].text == after.asks[0].messages[0].text
            await deeper.step({desk.seat: assistant("x")})
        return await super().act(ask, desk)


@pytest.mark.parametrize("saves", [True, False])
async def test_a_search_plays_on_charged_copies_that_leave_the_real_one_alone(saves: bool) -> None:
    suite = Suite(saves=saves)
    episode = await played(suite, make=Searching)
    assert episode.stop.kind == "done" and episode.final == {"count": 3}
    turns = all_turns(episode)
    assert [turn.branch for turn in turns] == ["a#0", "", "a#1", "", "a#2", ""]
    branches = {event.branch for event in episode.events}
    assert {"", "a#1.0", "a#2"} <= branches
    assert episode.paid("a") == 1.0  # the rewards on copies are not real
    assert all(made.closed == [True] for made in suite.made) and len(suite.made) == 6


async def test_copies_are_charged() -> None:
    # By replay: copy 1 costs 0 + 1 step, its copy 1 + 1, the act 1 (4 so far); the second act's copy replays 1 (5) and
    # steps (6); the copy of that copy would replay two steps: spent.
    episode = await played(Suite(saves=False, last=9), make=Searching, limits=Limits(env_steps=6))
    assert episode.stop.kind == "budget" and "env_steps: 6 spent" in episode.stop.reason


async def test_agents_see_only_what_their_seat_was_told() -> None:
    @dataclass
    class Whisper(Counter):
        def _step(self) -> Step:
            if self.count:
                return Step(stop=Stop("done"))
            return Step((Ask("a", (user("for a"),)), Ask("b", (user("for b"),))))

    class Whispers(Suite):
        async def make(self, task: Task, seed: int) -> Counter:
            return Whisper(self.seats)

    episode = await played(Whispers(("a", "b")))
    for trajectory in episode.trajectories:
        said = [message.text for message in trajectory.messages if message.role == "user"]
        assert said == [f"for {trajectory.seat}"]


async def test_a_seat_without_a_player_is_refused() -> None:
    suite = Suite(("a", "b"))
    match = Match(suite, Task("t", "counter"), {"a": Player(ChatAgent, "main")})
    with pytest.raises(BadInput, match=r"nobody sits in \['b'\]"):
        await play_episode(match, {"main": BytePolicy()}, Place("e"))


async def test_an_agent_that_gives_no_message_is_an_error() -> None:
    class Mute:
        async def act(self, ask: Ask, desk: Desk) -> Message:
            return "hello"  # type: ignore[return-value]

    assert isinstance(Mute(), Agent)
    episode = await played(Suite(), make=Mute)
    assert episode.stop.kind == "error" and "gave str; expected a Message" in episode.stop.reason
