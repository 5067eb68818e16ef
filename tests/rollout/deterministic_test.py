"""Deterministic mode over real episodes: the same seed gives the same bits, however many are played at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest

from polyturn.agents.chat import ChatAgent
from polyturn.envs.openspiel import kuhn_poker, tic_tac_toe
from polyturn.envs.textarena import guess_the_number
from polyturn.policies.local import Local
from polyturn.protocols import Match, Player
from polyturn.rollout.pool import Pool, play
from polyturn.types import Episode, Group, Sampling
from tests.policies.tiny import tiny_local

CONCURRENCY = (1, 7, 32)


def matches(tasks: int, rollouts: int, reply_tokens: int) -> list[Match]:
    """Games of three packages' environments; every second one with a mask of legal moves, which plays to the end."""
    suites: list[Any] = [guess_the_number(), tic_tac_toe(), kuhn_poker()]
    sampling = Sampling(max_tokens=reply_tokens)
    found = []
    for suite in suites:
        for number, task in enumerate(islice(suite.tasks("train"), tasks)):
            make = lambda mask=number % 2 == 0: ChatAgent("Reply with your move only.", sampling=sampling, mask=mask)  # noqa: E731
            cast = {seat: Player(make, "main") for seat in suite.spec.seats}
            found.append(Match(suite, task, cast, seed=3, rollouts=rollouts, train=frozenset(suite.spec.seats)))
    return found


def bits(group: Group) -> list[Any]:
    """All of a group that a run could learn or report."""
    return [
        (e.id, e.stop, e.final_sha256, [(x.kind, x.seat, dict(x.content)) for x in e.events], [of_trajectory(e)])
        for e in group
    ]


def of_trajectory(episode: Episode) -> list[Any]:
    return [
        (t.seat, [(m.role, m.text) for m in t.messages], [(turn.at, turn.spans, turn.finish) for turn in t.turns],
         [(s.parent, s.ids.tobytes(), None if s.logprobs is None else np.asarray(s.logprobs).tobytes(), s.support)
          for s in t.spans])
        for t in episode.trajectories
    ]


async def played(policy: Local, orders: Sequence[Match], concurrency: int) -> tuple[list[Any], list[Group]]:
    groups = await play(orders, {"main": policy}, pool=Pool(concurrency=concurrency))
    assert [e.error for group in groups for e in group if e.error] == []
    return [bits(group) for group in groups], groups


async def test_the_same_seed_gives_the_same_episodes_at_any_concurrency(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for concurrency in CONCURRENCY:
        policy = tiny_local(deterministic=True)
        bit, groups = await played(policy, matches(tasks=4, rollouts=3, reply_tokens=4), concurrency)
        policy.close()
        found.append(bit)
        with capsys.disabled():
            print(f"[{concurrency} at once: mean batch {policy.stats.mean_batch:.1f}]", end=" ")
        assert (policy.stats.mean_batch > 1) == (concurrency > 1)
    assert found[0] == found[1] == found[2]
    turns = [len(t.turns) for group in groups for e in group for t in e.trajectories]
    assert max(turns) >= 4 and len({str(one) for group in found[0] for one in group}) == 36
