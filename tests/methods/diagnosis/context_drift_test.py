"""Context drift: the bound and the fit by hand, a slow twin, planted effects, references, and recorded episodes."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.chat import Chat
from polyturn.desk import Desk, Log
from polyturn.diagnose.dynamics import fit
from polyturn.diagnose.events import event_effect
from polyturn.envs.distraction import distraction, goal_of
from polyturn.errors import BadInput
from polyturn.evaluate.stats import paired_difference
from polyturn.methods.diagnosis.context_drift import (
    ContextDrift,
    Reference,
    Reminders,
    Schedule,
    as_series,
    bound,
    in_order,
    line,
    perturbed,
    recurrence,
    reminded_turns,
)
from polyturn.policies.local import Local
from polyturn.policies.scripted import Scripted
from polyturn.policies.tiny import learned_tokenizer, tiny_model
from polyturn.protocols import Match, Player
from polyturn.recipes.context_drift import texts
from polyturn.rollout.pool import play
from polyturn.testing import check_context
from polyturn.types import Episode, FloatArray, IntArray, Message, Sampling, Tool, assistant, system, user
from tests.methods.diagnosis import context_drift_slow as slow

TOKENIZER = learned_tokenizer(texts())


def small(scale: float = 0.0, **more: Any) -> Local:
    """A tiny model with weights large enough that contexts matter; ``scale`` > 0: a perturbed copy of it."""
    model = tiny_model(len(TOKENIZER), 0, initializer_range=0.15)
    return Local(perturbed(model, scale, 1) if scale else model, Chat(TOKENIZER), **more)


async def talked(
    policy: Local, *, conversations: int = 6, turns: int = 12, context: Any = None, tokens: int = 6
) -> list[Episode]:
    suite = distraction(turns=turns, test_tasks=conversations)
    matches = [
        Match(suite, task, {"agent": Player(partial(
            ChatAgent, sampling=Sampling(max_tokens=tokens), context=context and context(task)), "main")}, seed=5)
        for task in suite.tasks("test")
    ]
    return [episode for group in await play(matches, {"main": policy}) for episode in group]


def diagnosis(policy: Local, reference: Reference, model: Any = None) -> ContextDrift:
    return ContextDrift(model or policy, policy.chat, reference, lambda episode: goal_of(episode.task))


# ---------------------------------------------------------------- (a) by hand


def test_the_recurrence_and_its_bound_by_hand() -> None:
    # D* = 2, lambda = 0.5, noise 0.1 each turn: 6; 6 - 2 + 0.1 = 4.1; 4.1 - 1.05 + 0.1 = 3.15; 3.15 - 0.575 + 0.1
    found = recurrence(6.0, lambda d: -0.5 * (d - 2.0), [0.1] * 3, [0.0] * 3)
    assert found == pytest.approx([6.0, 4.1, 3.15, 2.675])
    # 0.5^3 * 4 + 0.1 / 0.5 = 0.5 + 0.2; D_3 - D* = 0.675 is within; a reminder of 0.06 takes 0.06 / 0.5 off
    assert bound(3, 6.0, 2.0, 0.5, 0.1) == pytest.approx(0.7)
    assert bound(3, 6.0, 2.0, 0.5, 0.1, reminder=0.06) == pytest.approx(0.58)
    assert all(abs(d - 2.0) <= bound(t, 6.0, 2.0, 0.5, 0.1) for t, d in enumerate(found))
    # g(D) = -0.5 (D - 2) - 0 : a = 0 - (-0.5) 2 - 0.25 = 0.75
    assert line(2.0, 0.0, -0.5, 0.25) == (0.75, -0.5)


@pytest.mark.parametrize("slope", [-1.444, 0.0, 1.0, 1.2])
def test_there_is_no_bound_outside_zero_to_one(slope: float) -> None:
    with pytest.raises(BadInput, match="alone"):  # -1.444 is the slope of a row of the paper, printed with a D*
        bound(3, 1.0, 2.0, slope, 0.1)


def test_schedules_by_hand() -> None:
    assert [t for t in range(1, 9) if Schedule("fixed", (3, 6)).due(t, None, ())] == [3, 6]
    assert [t for t in range(1, 9) if Schedule("every", every=3).due(t, None, ())] == [3, 6]
    above = Schedule("threshold", threshold=0.5)
    assert (above.due(1, None, ()), above.due(2, 0.5, ()), above.due(2, 0.6, ())) == (False, False, True)
    thrifty = Schedule("budgeted", threshold=0.5, budget=2, apart=3)
    assert (thrifty.due(4, 0.6, (2,)), thrifty.due(5, 0.6, (2,)), thrifty.due(9, 0.6, (2, 5))) == (False, True, False)
    with pytest.raises(BadInput, match="give Reminders a gauge"):
        above.due(2, None, ())
    with pytest.raises(BadInput, match=">= 1"):
        Schedule("fixed", (0,))


# ---------------------------------------------------------------- (b) the slow twin


def test_a_thousand_random_fits_and_schedules_equal_the_slow_twin() -> None:
    draws, wrong = random.Random(0), 0
    for _ in range(1000):
        turns = draws.randint(6, 12)
        marks = [[draws.random() < 0.3 for _ in range(turns)] for _ in range(3)]
        marks[0][2], marks[0][3], marks[0][4] = True, False, True
        series = [
            slow.recurrence(draws.random(), 0.6, -0.4, [draws.gauss(0, 0.1) for _ in mark[1:]],
                            [0.5 * m for m in mark[1:]]) for mark in marks
        ]
        assert recurrence(series[0][0], lambda d: 0.6 - 0.4 * d, [0.1] * 4, [0.2] * 4) == pytest.approx(
            slow.recurrence(series[0][0], 0.6, -0.4, [0.1] * 4, [0.2] * 4))
        found = fit(series, marks, resamples=1)
        assert [found.a, found.b, found.d] == pytest.approx(slow.fit(series, marks), abs=1e-7)
        wrong += [found.a, found.b, found.d] != pytest.approx(slow.fit(series, marks, shifted=False), abs=1e-3)
        kind: Any = draws.choice(["none", "fixed", "every", "threshold", "budgeted"])
        options: dict[str, Any] = {
            "turns": [draws.randint(1, 12) for _ in range(2)], "every": draws.randint(1, 5),
            "threshold": draws.random(), "budget": draws.randint(1, 3), "apart": draws.randint(1, 4)}
        schedule = Schedule(kind, **{**options, "turns": tuple(options["turns"])})
        given: list[int] = []
        for turn in range(1, turns + 1):
            if schedule.due(turn, series[0][turn - 2] if turn > 1 else None, given):
                given.append(turn)
        assert given == slow.reminders(kind, series[0], **options)
    assert wrong > 900


# ---------------------------------------------------------------- reminders in the dialogue


async def test_reminders_keep_the_contract_and_stand_before_what_is_answered() -> None:
    await check_context(Reminders("Be kind.", Schedule("every", every=2)))
    context = Reminders("Be kind.", Schedule("fixed", (2,)))
    desk = Desk(Log("e", {"main": Scripted(lambda messages: "yes")}), "agent", "main")
    history: list[Message] = [system("S"), user("one"), assistant("yes"), user("two")]
    view = await context.view(history, desk)
    assert [m.text for m in view.messages] == ["S", "one", "yes", "Remember your goal: Be kind.", "two"]
    assert [m.origin for m in view.added] == ["reminder"]
    later = [*history, *view.added, assistant("yes"), user("three")]  # as a chat agent keeps its log
    again = await context.view(later, desk)
    assert [m.text for m in again.messages[:5]] == [m.text for m in view.messages] and not again.added
    assert reminded_turns(later) == [2] and in_order(later)[3].origin == "reminder"


async def test_a_dialogue_with_reminders_extends_one_path() -> None:
    policy = small()
    (episode,) = await talked(policy, conversations=1, turns=5,
                              context=lambda task: Reminders(goal_of(task), Schedule("fixed", (3,))))
    policy.close()
    (trajectory,) = episode.trajectories
    parents = [span.parent for span in trajectory.spans]
    assert len(set(parents)) == len(parents)
    assert sum(m.origin == "reminder" for m in trajectory.messages) == 1
    assert not any(trajectory.messages[i].origin == "reminder" for t in trajectory.turns for i in [t.reply])


# ---------------------------------------------------------------- (c) what is measured


async def test_the_same_weights_and_prompt_have_no_drift_and_distance_grows_with_the_perturbation() -> None:
    policy = small()
    episodes = await talked(policy, conversations=2, turns=3)
    found = []
    for scale in (0.0, 0.05, 0.2, 0.6):
        other = small(scale)
        series = as_series(await diagnosis(policy, Reference("second model", other, restate=False))(episodes))
        found.append(float(np.mean(np.concatenate(series.series))))
        other.close()
    policy.close()
    assert found[0] < 1e-6
    assert found[0] < found[1] < found[2] < found[3]


class Planted:
    """The policy, but on some turns mixed with what the reference says: ``(1 - share) q + share p``."""

    def __init__(self, inner: Local, share: float) -> None:
        self.inner, self.share = inner, share
        self.mixed: dict[bytes, IntArray] = {}

    def info(self) -> Any:
        return self.inner.info()

    async def logprobs(self, paths: Any) -> Any:
        return await self.inner.logprobs(paths)

    async def distributions(self, path: IntArray, *, first: int = 0) -> FloatArray:
        rows = await self.inner.distributions(path, first=first)
        other = self.mixed.get(np.asarray(path, np.int32).tobytes())
        if other is None:
            return rows
        reference = await self.inner.distributions(other, first=len(other) - len(rows))
        mixture: FloatArray = np.logaddexp(np.log1p(-self.share) + rows, np.log(self.share) + reference)
        return mixture


async def test_a_planted_effect_is_found_with_power_and_none_without() -> None:
    policy = small()
    episodes = await talked(policy, conversations=24, turns=9)
    reference = Reference("restated goal", policy)
    planted = Planted(policy, 0.6)
    plain = diagnosis(policy, reference)
    marked = (3, 6)  # turns, from 0
    for episode in episodes:
        for turn in (plain.paths(episode)[k] for k in marked):
            path = np.concatenate([turn.prompt, turn.reply]).astype(np.int32)
            planted.mixed[path.tobytes()] = np.concatenate([turn.reference, turn.reply]).astype(np.int32)
    free = as_series(await plain(episodes))
    mixed = as_series(await diagnosis(policy, reference, planted)(episodes))
    policy.close()
    assert all(a >= b - 1e-6 for one, two in zip(free.series, mixed.series, strict=True)
               for a, b in zip(one, two, strict=True))
    draws, marks = np.random.default_rng(0), [[k in marked for k in range(9)]] * 8
    power, level, paired = 0, 0, 0
    for _ in range(100):
        chosen = draws.choice(24, 8, replace=False)
        power += event_effect([mixed.series[i] for i in chosen], marks).p_value <= 0.1
        level += event_effect([free.series[i] for i in chosen], marks).p_value <= 0.1
        gap = paired_difference(*(
            {str(i): [float(np.mean([one.series[i][k] for k in marked]))] for i in chosen} for one in (mixed, free)))
        paired += gap.high < 0
    assert power >= 90 and paired >= 90
    assert level <= 20  # at a level of 0.1, of draws that share their conversations


# ---------------------------------------------------------------- (d) recorded episodes


async def test_findings_of_a_turn_and_what_is_not_measured() -> None:
    policy = small()
    episodes = await talked(policy, conversations=2, turns=4,
                            context=lambda task: Reminders(goal_of(task), Schedule("fixed", (3,))))
    findings = await diagnosis(policy, Reference("restated goal", policy))(episodes)
    assert len(findings) == 2 * 4 * 7 and {f.source for f in findings} == {"restated goal"}
    drift = as_series(findings)
    assert drift.reminded == ((False, False, True, False),) * 2
    assert all(value >= 0 for one in drift.series for value in one)
    assert drift.means(3)[episodes[0].id] == pytest.approx([np.mean(drift.series[0][2:])])
    short = diagnosis(policy, Reference("restated goal", policy, last=1))
    assert len(short.paths(episodes[0])[3].reference) < len(short.paths(episodes[0])[3].prompt)
    with pytest.raises(BadInput, match="give the tools"):
        ContextDrift(policy, policy.chat, Reference("restated goal", policy), lambda e: "", tools=(Tool("t"),)).paths(
            episodes[0])
    with pytest.raises(BadInput, match="hold no drift/warmth"):
        as_series(findings, "warmth")
    other = small(0.1)
    with pytest.raises(BadInput, match="was played by weights"):
        diagnosis(other, Reference("restated goal", other)).paths(episodes[0])
    for one in (policy, other):
        one.close()


async def test_two_passes_a_turn_with_the_prompts_from_the_cache() -> None:
    policy = small()
    episodes = await talked(policy, conversations=1, turns=8)
    found = diagnosis(policy, Reference("restated goal", policy))
    before = policy.stats
    await found(episodes)
    paths = found.paths(episodes[0])
    read = policy.stats.prefilled - before.prefilled
    assert policy.stats.steps - before.steps <= 2 * len(paths)
    assert read < 0.6 * sum(len(p.prompt) + len(p.reference) + 2 * len(p.reply) for p in paths)
    policy.close()
