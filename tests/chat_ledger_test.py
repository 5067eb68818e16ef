"""Chat, desk and ledger together: what the model is fed is a path of the ledger, id by id, whatever the view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.protocols import Completion, Written
from polyturn.types import Message, Part, PolicyInfo, Sampling, Tool, Trajectory, Turn, assistant, system, user
from tests.byte_tokenizer import byte_tokenizer, mistral_tokenizer, qwen_tokenizer

View = Callable[[Sequence[Message]], list[Message]]


@dataclass
class RandomPolicy:
    """Says random bytes, some with reasoning, some cut, some empty; ``fed`` is what the model saw and said."""

    chat: Chat
    name: str = "main"
    limit: int = 1_000_000
    vocabulary: int = 256
    fed: list[list[int]] = field(default_factory=list)

    def info(self) -> PolicyInfo:
        return PolicyInfo(self.name, "model")

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return self.chat.count(messages, tools)

    async def sample(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), sampling: Sampling = Sampling(),
        written: Written = lambda message: None,
    ) -> Completion:
        draws = np.random.default_rng(sampling.seed)
        prompt = self.chat.encode(messages, tools=tools, written=written)
        thought = self.chat._tokenizer.encode("<think>\nhm\n</think>\n\n") if draws.random() < 0.3 else []
        drawn = draws.integers(0, self.vocabulary, draws.integers(0, 8)).tolist()
        ids = [*thought, *(id for id in drawn if id not in self.chat.stop_ids)]
        cut = bool(ids) and draws.random() < 0.3
        reply = np.array(ids if cut else [*ids, self.chat.stop_ids[0]], np.int32)
        self.fed.append([int(id) for piece in prompt for id in piece.ids] + reply.tolist())
        return Completion(
            self.chat.parse(reply), prompt, reply, np.zeros(len(reply)), finish="length" if cut else "stop",
        )


def path(trajectory: Trajectory, turn: Turn) -> list[int]:
    return [int(id) for span in trajectory.path(turn.spans[-1]) for id in trajectory.spans[span].ids]


def everything(log: Sequence[Message]) -> list[Message]:
    return list(log)


def window(log: Sequence[Message]) -> list[Message]:
    return [log[0], *log[1:][-5:]]


def rewritten(log: Sequence[Message]) -> list[Message]:
    """Older messages become one summary; every third own reply is shown without its last letter."""
    kept = [m.edited(parts=(Part("text", m.text[:-1]),)) if m.role == "assistant" and index % 3 == 0 else m
            for index, m in enumerate(log[-4:])]
    return [log[0], user(f"Before: {len(log) // 6}"), *kept] if len(log) > 6 else [log[0], *log[1:]]


TOKENIZERS = {"bytes": byte_tokenizer, "qwen": qwen_tokenizer, "mistral": mistral_tokenizer}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("view", [everything, window, rewritten])
async def test_prompt_and_reply_are_a_path_of_the_ledger(seed: int, view: View) -> None:
    for name, tokenizer in TOKENIZERS.items():
        policy = RandomPolicy(Chat(tokenizer()))
        episode = Log(f"{name}{seed}", {"main": policy}, seed=seed)
        desk = Desk(episode, "agent", "main")
        draws = np.random.default_rng(seed)
        log = [system("rules"), user("start", id="u0")]
        for turn in range(40):
            shown = view(log)
            shown += [] if shown[-1].role == "user" else [user("go on")]
            said = desk.message(await desk.say(shown))
            world = "".join(map(chr, draws.integers(32, 0x2FFF, 5)))
            log += [said, user(world, id=f"u{turn + 1}")]
        (trajectory,) = episode.trajectories()
        assert len(trajectory.turns) == 40
        for fed, recorded in zip(policy.fed, trajectory.turns, strict=True):
            assert path(trajectory, recorded) == fed
        owned = [span for recorded in trajectory.turns for span in recorded.spans]
        sampled = [index for index, span in enumerate(trajectory.spans) if span.sampled]
        assert sorted(owned) == sampled and len(set(owned)) == 40


async def test_one_chain_where_nothing_is_rewritten() -> None:
    policy = RandomPolicy(Chat(byte_tokenizer()))
    episode = Log("e", {"main": policy})
    desk = Desk(episode, "agent", "main")
    log = [user("start")]
    for turn in range(20):
        log += [desk.message(await desk.say(log)), user(str(turn))]
    (trajectory,) = episode.trajectories()
    assert [span.parent for span in trajectory.spans] == list(range(-1, len(trajectory.spans) - 1))
    assert sum(len(span.ids) for span in trajectory.spans) == len(policy.fed[-1])


async def test_two_retries_with_equal_ids_keep_two_owners_and_the_shown_one_is_extended() -> None:
    policy = RandomPolicy(Chat(byte_tokenizer()))
    episode = Log("e", {"main": policy})
    desk = Desk(episode, "agent", "main")
    asked = user("roll")
    first, second = [await desk.say([asked], sampling=Sampling(seed=5)) for _ in range(2)]
    assert policy.fed[0] == policy.fed[1] and first.spans != second.spans
    third = await desk.say([asked, desk.message(second), user("again")])
    (trajectory,) = episode.trajectories()
    assert second.spans[0] in trajectory.path(third.spans[0])
    assert first.spans[0] not in trajectory.path(third.spans[0])


async def test_a_reply_routed_to_another_seat_is_tokenized_there_and_owned_once() -> None:
    policy = RandomPolicy(Chat(byte_tokenizer()))
    episode = Log("e", {"main": policy})
    a, b = Desk(episode, "a", "main"), Desk(episode, "b", "main")
    said = a.message(await a.say([user("start")]))
    await b.say([user("they said"), said.edited(role="user"), said, user("and you?")])
    theirs = {trajectory.seat: trajectory for trajectory in episode.trajectories()}["b"]
    assert [span.sampled for span in theirs.spans].count(True) == 1
    assert theirs.spans[-1].sampled
    assert path(theirs, theirs.turns[0]) == policy.fed[1]


async def test_a_continued_reply_is_one_message_of_two_spans() -> None:
    policy = RandomPolicy(Chat(byte_tokenizer()))
    episode = Log("e", {"main": policy})
    desk = Desk(episode, "agent", "main")
    asked = user("long story")
    parts: list[Message] = []
    seed = 0
    while len(parts) < 2:
        half = assistant("".join(m.text for m in parts), id="half", spans=tuple(s for m in parts for s in m.spans))
        turn = await desk.say([asked, half] if parts else [asked], sampling=Sampling(seed=(seed := seed + 1)))
        if turn.finish == "length" or parts:
            parts.append(desk.message(turn))
    whole = assistant("".join(m.text for m in parts), id="whole", spans=tuple(s for m in parts for s in m.spans))
    last = await desk.say([asked, whole, user("on")])
    (trajectory,) = episode.trajectories()
    assert path(trajectory, last) == policy.fed[-1]
    assert {span[2] for span in whole.spans} <= set(trajectory.path(last.spans[0]))
    assert len(whole.spans) == 2
