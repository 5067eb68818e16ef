"""The benchmark of workers plays what it says, here and there, and reports every contender."""

from __future__ import annotations

import json

import pytest

from benchmarks.processes import ComputingSuite, main, player, seconds
from polyturn.agents.chat import ChatAgent
from polyturn.protocols import Match, Player
from polyturn.types import Task


async def test_a_step_computes_as_long_as_it_says() -> None:
    match = Match(ComputingSuite(2, 0.05), Task("t", "t"), {"agent": Player(ChatAgent, "main")})
    async with player(0) as play:
        _, here = await seconds(play, match, 2)
    assert here >= 4 * 0.05  # two episodes of two steps
    async with player(1) as play:
        _, there = await seconds(play, match, 2)
    assert there < here  # the steps were computed in the worker


def test_every_contender_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--repeats", "1", "--episodes", "2", "--turns", "1", "--compute-ms", "1", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name.split(": ")[1] for name in told["ratios"]} >= {f"{n} workers beside this process" for n in (1, 2)}
    assert len(told["ratios"]) >= 4 and all(value > 0 for value in told["ratios"].values())
