"""Stored observations: the same prompt again, one turn, with the turn that it answers again as parent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import lay_out
from polyturn.desk import Desk
from polyturn.envs.score import FinalScore
from polyturn.envs.stored import Stored
from polyturn.envs.textarena import guess_the_number
from polyturn.errors import BadInput, UnknownName
from polyturn.policies.dictated import Dictated
from polyturn.policies.scripted import Scripted
from polyturn.protocols import Ask, Match, Player
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.pool import play
from polyturn.rollout.score import score_groups
from polyturn.testing import check_suite
from polyturn.types import Episode, IntArray, Message, Sampling, Score, Task, Trajectory, Turn, assistant
from tests.policies.tiny import tiny_local

SAME = FinalScore(("agent",), lambda final: {"agent": Score(float(final["reply"] == final["stored"]))})


async def played() -> Episode:
    suite = guess_the_number()
    task = next(iter(suite.tasks("test")))
    guesses = iter(("[1]", "[2]", "[3]", "[4]"))
    agent = Player(lambda: AnswerAgent(lambda ask: assistant(next(guesses, "[5]")), "Guess."), "script")
    episode = await play_episode(Match(suite, task, {"agent": agent}), {"script": Dictated()}, Place("first"))
    assert len(episode.trajectories[0].turns) > 2
    return episode


async def test_it_keeps_the_contract_of_suites() -> None:
    """Every turn of one episode is held out; another's are trained on."""
    first = await played()
    await check_suite(Stored([replace(first, id="other")], [first], verifier=SAME))


async def test_each_turn_is_a_task_with_its_own_prompt_and_parent() -> None:
    first = await played()
    suite = Stored([], [first], verifier=SAME)
    trajectory = first.trajectories[0]
    tasks = list(suite.tasks("test"))
    assert [task.id for task in tasks] == [f"first#{turn.at}" for turn in trajectory.turns]
    assert [task.payload["stored"] for task in tasks[:2]] == ["[1]", "[2]"]
    matches = [Match(suite, task, {"agent": Player(ChatAgent, "main")}, rollouts=2) for task in tasks[:3]]
    said = Scripted(["[1]"] * 6, name="main")
    groups = await score_groups(await play(matches, {"main": said}), suite)
    for task, turn, group in zip(tasks[:3], trajectory.turns[:3], groups, strict=True):
        for episode in group:
            assert episode.parent == task.id and episode.stop.reason == "answered"
            (own,) = episode.trajectories
            (again,) = own.turns
            shown = [(own.messages[i].role, own.messages[i].text) for i in again.prompt]
            assert shown == [(trajectory.messages[i].role, trajectory.messages[i].text) for i in turn.prompt]
            assert not any(own.messages[i].spans for i in again.prompt)
    assert [group[0].scores["score"]["agent"].value for group in groups] == [1.0, 0.0, 0.0]


async def test_there_is_nothing_to_fork() -> None:
    suite = Stored([await played()], verifier=SAME)

    class Searching:
        async def act(self, ask: Ask, desk: Desk) -> Message:
            await desk.fork()
            return assistant("")

    match = Match(suite, next(iter(suite.tasks("train"))), {"agent": Player(Searching, "main")})
    episode = await play_episode(match, {"main": Dictated()}, Place("again"))
    assert episode.stop.kind == "error" and "stored observation" in episode.stop.reason


async def test_what_cannot_be_answered_again() -> None:
    with pytest.raises(BadInput, match="no turn of seat"):
        Stored([], verifier=SAME)
    suite: Any = Stored([await played()], verifier=SAME)
    with pytest.raises(BadInput, match="no test episodes"):
        suite.tasks("test")
    with pytest.raises(UnknownName):
        suite.tasks("validation")


async def test_own_replies_are_shown_as_the_ids_that_were_sampled() -> None:
    """Random ids are seldom those that their text is tokenized to: quoted they are exact, rendered they are not."""
    policy = tiny_local(deterministic=True)
    suite = guess_the_number()
    task = next(iter(suite.tasks("test")))
    player = Player(lambda: ChatAgent("Guess.", sampling=Sampling(max_tokens=6)), "main")
    first = await play_episode(Match(suite, task, {"agent": player}), {"main": policy}, Place("first"))
    trajectory = first.trajectories[0]
    again = Player(lambda: ChatAgent(sampling=Sampling(max_tokens=6)), "main")
    exact = []
    for known in (policy.info(), None):
        stored = Stored([], [first], verifier=SAME, player=known)
        for task, turn in zip(stored.tasks("test"), trajectory.turns, strict=True):
            match = Match(stored, task, {"agent": again}, train=frozenset({"agent"}))
            episode = await play_episode(match, {"main": policy}, Place("again"))
            (own,) = episode.trajectories
            (one,) = own.turns
            paths = [path_before(own, one), path_before(trajectory, turn)]
            exact.append((known is not None, np.array_equal(*paths)))
            assert [i for i, span in enumerate(own.spans) if span.sampled] == list(one.spans)
            assert len(lay_out([(episode,)], "main")) == len(own.spans[one.spans[0]].ids)
    policy.close()
    assert len(trajectory.turns) > 1
    assert all(same for known, same in exact if known)
    assert not all(same for known, same in exact if not known)


def path_before(trajectory: Trajectory, turn: Turn) -> IntArray:
    leaf = trajectory.spans[turn.spans[0]].parent
    return np.concatenate([trajectory.spans[index].ids for index in trajectory.path(leaf)])


async def test_another_tokenizer_or_name_quotes_nothing() -> None:
    policy = tiny_local()
    suite = guess_the_number()
    task = next(iter(suite.tasks("test")))
    player = Player(lambda: ChatAgent(sampling=Sampling(max_tokens=2)), "main")
    first = await play_episode(Match(suite, task, {"agent": player}), {"main": policy}, Place("first"))
    info = policy.info()
    policy.close()
    for other in (replace(info, name="x"), replace(info, tokenizer_sha256="x"), replace(info, template_sha256="x")):
        stored = Stored([], [first], verifier=SAME, player=other)
        assert all(stored.stored(task) is None for task in stored.tasks("test"))
    assert all(Stored([], [first], verifier=SAME, player=info).stored(Task(f"first#{turn.at}", "")) is not None
               for turn in first.trajectories[0].turns)


async def test_the_mask_of_the_stored_call_is_what_may_be_said() -> None:
    policy = tiny_local()
    suite = guess_the_number()
    task = next(iter(suite.tasks("test")))
    player = Player(lambda: ChatAgent(mask=True), "main")
    first = await play_episode(Match(suite, task, {"agent": player}), {"main": policy}, Place("first"))
    stored = Stored([], [first], verifier=SAME, player=policy.info())
    for task, turn in zip(stored.tasks("test"), first.trajectories[0].turns, strict=True):
        episode = await play_episode(Match(stored, task, {"agent": player}), {"main": policy}, Place("again"))
        (again,) = episode.trajectories[0].turns
        assert again.sampling.choices == turn.sampling.choices and again.sampling.choices is not None
    policy.close()
