"""Numbered tasks, and a user's own file with a plain reward function."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.envs.tasks import FileTasks, from_file, numbered
from polyturn.errors import BadInput, NotFinite, UnknownName
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Match, Player, Suite
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.score import score_groups
from polyturn.testing import check_suite
from polyturn.types import Episode, Limits, Stop, Task, assistant
from tests.envs.drive import drive, episode, saying


def right(one: Episode) -> float:
    """1 where the last reply is the answer."""
    assert one.final is not None
    return float(one.final["replies"][-1].strip() == one.task.payload["answer"])


def written(folder: Path, *rows: Any) -> Path:
    """A file with these lines; texts stand as they are."""
    path = folder / "sums.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def sums(folder: Path, count: int = 10, **more: Any) -> FileTasks:
    rows = [{"prompt": f"{n} + {n} = ?", "answer": str(2 * n)} for n in range(count)]
    return from_file(written(folder, *rows), right, **more)


def test_numbered_tasks_never_meet() -> None:
    train = [task.id for task in islice(numbered("f", "train", test=3), 5)]
    assert train == [f"f/train/{n}" for n in range(5)]
    test = list(numbered("f", "test", test=3, limits=Limits(env_steps=2), payload=lambda n: {"n": n}))
    assert [task.id for task in test] == ["f/test/0", "f/test/1", "f/test/2"]
    assert test[2] == Task("f/test/2", "f", {"n": 2}, Limits(env_steps=2))
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        numbered("f", "tests", test=3)


async def test_it_keeps_the_contract_of_suites(tmp_path: Path) -> None:
    suite = sums(tmp_path)
    assert isinstance(suite, Suite)
    assert await check_suite(suite, figures={"null": 0.0}) == {"null": 0.0}


async def test_a_dialogue_is_asked_answered_and_scored(tmp_path: Path) -> None:
    suite = sums(tmp_path)
    task = next(iter(suite.tasks("test")))
    driven = await drive(suite, task, 0, {"agent": saying(" 8 ")})
    assert driven.heard("agent") == ["4 + 4 = ?"] and driven.final == {"replies": [" 8 "]}
    scores = (await suite.verifier([(episode(task, driven),)]))[task.id]
    assert scores["agent"].value == 1.0 and scores["agent"].success is True


async def test_it_plays_in_a_match_from_file_to_score(tmp_path: Path) -> None:
    suite = sums(tmp_path)
    task = next(iter(suite.tasks("test")))
    match = Match(suite, task, {"agent": Player(ChatAgent, "scripted")})
    played = await play_episode(match, {"scripted": Scripted(["8"])}, Place("e"))
    ((scored,),) = await score_groups([(played,)], suite)
    assert scored.scores["score"]["agent"].value == 1.0


def test_every_fifth_line_is_held_out_and_train_goes_round_shuffled(tmp_path: Path) -> None:
    suite = sums(tmp_path)
    assert [task.id for task in suite.tasks("test")] == ["sums/5", "sums/10"]  # named by line
    laps = [task.id for task in islice(suite.tasks("train"), 24)]
    assert len(set(laps[:8])) == 8 and set(laps[:8]) == set(laps[8:16]) and laps[:8] != laps[8:16]
    assert laps == [task.id for task in islice(suite.tasks("train"), 24)]
    assert not set(laps) & {"sums/5", "sums/10"}


def test_lines_may_name_split_and_id(tmp_path: Path) -> None:
    suite = from_file(written(
        tmp_path, {"prompt": "a", "split": "test", "id": "first"}, "", {"prompt": "b"}, {"prompt": "c", "id": 3},
    ), right, name="mine")
    assert [task.id for task in suite.tasks("test")] == ["first"]
    assert {task.id for task in islice(suite.tasks("train"), 2)} == {"mine/3", "3"}
    assert next(iter(suite.tasks("test"))).payload == {"prompt": "a"}


async def test_messages_keep_roles_and_order(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "¿2 + 2? 🦜"}]
    suite = from_file(written(tmp_path, {"messages": talk, "split": "train"}), right)
    env = await suite.make(next(iter(suite.tasks("train"))), 0)
    messages = (await env.start()).asks[0].messages
    assert [(message.role, message.text) for message in messages] == [
        ("system", "Be short."), ("user", "¿2 + 2? 🦜")]


def test_a_line_ends_at_its_line_feed_alone(tmp_path: Path) -> None:
    suite = from_file(written(tmp_path, '{"prompt": "a\u2028b\u0085c", "split": "test"}'), right)
    assert next(iter(suite.tasks("test"))).payload["prompt"] == "a\u2028b\u0085c"


async def test_respond_makes_it_many_turns_and_its_state_is_saved(tmp_path: Path) -> None:
    def respond(task: Task, replies: tuple[str, ...]) -> str | None:
        return None if len(replies) == 3 else f"Are you sure of {replies[-1]}?"

    suite = sums(tmp_path, respond=respond)
    await check_suite(suite)
    task = next(iter(suite.tasks("test")))
    driven = await drive(suite, task, 0, {"agent": saying("7", "8", "8")})
    assert driven.heard("agent")[1:] == ["Are you sure of 7?", "Are you sure of 8?"]
    env, copy = await suite.make(task, 0), await suite.make(task, 0)
    await env.start()
    await env.step({"agent": assistant("7")})
    step = await copy.start(await env.save())
    assert step.asks[0].messages[0].text == "Are you sure of 7?"
    await copy.step({"agent": assistant("8")})
    assert (await copy.final())["replies"] == ["7", "8"]
    fresh = await suite.make(task, 0)
    with pytest.raises(BadInput, match="has started and is not over"):
        await fresh.save()


@pytest.mark.parametrize(("line", "words"), [
    ("{not json", "line 2: no JSON"), ("[1]", "line 2: a list; expected an object"),
    ('{"answer": "4"}', r"line 2: its fields are \['answer'\]; expected exactly one of 'prompt' and 'messages'"),
    ('{"prompt": "a", "messages": []}', "exactly one of"), ('{"prompt": 5}', "line 2: prompt is 5; expected a text"),
    ('{"prompt": ""}', "prompt is ''"), ('{"messages": []}', "messages is empty"),
    ('{"messages": [{"role": "robot", "content": "x"}]}', "role is 'robot'; expected one of"),
    ('{"messages": [{"role": "user"}]}', "expected an object with a text 'content'"),
    ('{"prompt": "a", "split": "dev"}', "split is 'dev'"), ('{"prompt": "a", "id": "one"}', "id 'one' stands in 2"),
])
def test_bad_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        from_file(written(tmp_path, {"prompt": "good", "id": "one"}, line), right)


def test_all_bad_lines_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has 2 bad line\(s\): line 1: .*; line 3: "):
        from_file(written(tmp_path, "[]", {"prompt": "a"}, "nonsense"), right)


def test_files_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read tasks from"):
        from_file(tmp_path / "missing.jsonl", right)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot read tasks from"):
        from_file(tmp_path / "binary", right)
    with pytest.raises(BadInput, match="holds no tasks"):
        from_file(written(tmp_path, "", "  "), right)
    with pytest.raises(BadInput, match="has no test tasks"):
        from_file(written(tmp_path, {"prompt": "a"}), right).tasks("test")
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        from_file(written(tmp_path, {"prompt": "a"}), right).tasks("trian")
    with pytest.raises(BadInput, match="held_out_every is 1"):
        from_file(written(tmp_path, {"prompt": "a"}), right, held_out_every=1)
    with pytest.raises(BadInput, match=r"returns is \(1.0, 1.0\)"):
        from_file(written(tmp_path, {"prompt": "a"}), right, returns=(1.0, 1.0))


async def test_rewards_are_scaled_and_checked(tmp_path: Path) -> None:
    def rated(reward: Any, **more: Any) -> Any:
        suite = from_file(written(tmp_path, {"prompt": "a"}), reward, **more)
        return suite.verifier([(Episode("e", Task("t", "f"), 0, final={"replies": ["x"]}, stop=Stop("done")),)])

    assert (await rated(lambda e: -0.5, returns=(-1.0, 1.0)))["e"]["agent"].value == 0.25  # (-0.5 + 1) / 2
    assert (await rated(lambda e: 1.0, returns=(-1.0, 1.0)))["e"]["agent"].success is True
    for bad in (1.5, float("nan"), float("inf")):
        with pytest.raises(NotFinite, match=r"reward\(\) gave .* for episode e; expected 0.0..1.0"):
            await rated(lambda e, bad=bad: bad)
    with pytest.raises(BadInput, match=r"reward\(\) raised KeyError for episode e of task 't': 'answer'"):
        await rated(right)
    with pytest.raises(BadInput, match=r"reward\(\) raised TypeError"):
        await rated(lambda e: None)


async def test_errors_and_unread_states_are_no_zeros(tmp_path: Path) -> None:
    suite = sums(tmp_path)
    broken = Episode("b", Task("t", "f"), 0, final={"replies": []}, stop=Stop("error"))
    unread = Episode("u", Task("t", "f"), 0, final=None, stop=Stop("done"))
    scores = await suite.verifier([(broken, unread)])
    assert set(scores) == {"u"} and scores["u"]["agent"].value is None
