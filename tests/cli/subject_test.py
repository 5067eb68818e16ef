"""Environments by name and from files, recipes' held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polyturn.cli.listing import envs
from polyturn.cli.subject import MAIN, exam_of, first_of_each, free_seats, held_out, suite_of
from polyturn.errors import BadInput, UnknownName
from polyturn.types import Sampling

ENV = '''
from polyturn.envs.textarena import guess_the_number

def suite():
    return guess_the_number(highest=8, guesses=3, test_tasks=5)
'''


def test_every_listed_environment_can_be_made() -> None:
    for entry in envs():
        suite = suite_of(str(entry["name"]))
        assert (suite.spec.name, suite.spec.seats) == (entry["name"], tuple(entry["seats"]))
        assert (suite.spec.package, suite.spec.licence) == (entry["package"], entry["licence"])


def test_options_are_arguments_of_the_maker() -> None:
    suite: Any = suite_of("guess_the_number", ["highest=8", "test_tasks=5"])
    assert len(list(suite.tasks("test"))) == 5 and suite.figures["random"] == 0.5  # 4 of 8
    with pytest.raises(UnknownName, match="did you mean 'highest'"):
        suite_of("guess_the_number", ["higest=8"])
    with pytest.raises(BadInput, match="expected NAME=VALUE"):
        suite_of("guess_the_number", ["highest"])
    with pytest.raises(BadInput, match="leave out --option"):
        exam_of("quickstart", [], tasks=1, trials=1, sampling=Sampling(), mask=False, options=["a=1"])


def test_an_environment_file(tmp_path: Path) -> None:
    path = tmp_path / "env.py"
    path.write_text(ENV)
    matches = exam_of(str(path), [], tasks=None, trials=2, sampling=Sampling(), mask=False).matches
    assert len(matches) == 5
    assert all(match.rollouts == 2 and match.cast["agent"].policy == MAIN for match in matches)


def test_a_file_without_suite(tmp_path: Path) -> None:
    path = tmp_path / "env.py"
    path.write_text("x = 1\n")
    with pytest.raises(BadInput, match=r"has no function suite"):
        suite_of(str(path))


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tic_tac_toe'"):
        exam_of("tictactoe", [], tasks=None, trials=None, sampling=Sampling(), mask=False)
    with pytest.raises(UnknownName, match="did you mean 'tic_tac_toe'"):
        suite_of("tictactoe")


def test_an_environment_takes_no_settings() -> None:
    with pytest.raises(BadInput, match="takes no settings; leave out --seed 1"):
        exam_of("tic_tac_toe", ["--seed", "1"], tasks=None, trials=None, sampling=Sampling(), mask=False)


def test_every_free_seat_is_the_judged_policys() -> None:
    suite = suite_of("kuhn_poker")
    match = held_out(suite, tasks=1, trials=1)[0]
    assert {seat: player.policy for seat, player in match.cast.items()} == {"player_0": MAIN, "player_1": MAIN}
    assert free_seats(suite, match.task) == ["player_0", "player_1"]


def test_no_two_tasks_share_their_draws() -> None:
    seeds = [match.seed for match in held_out(suite_of("kuhn_poker"), tasks=20, trials=1)]
    other = [match.seed for match in held_out(suite_of("kuhn_poker"), tasks=20, trials=1, seed=1)]
    assert len({*seeds, *other}) == 40
    assert seeds == [match.seed for match in held_out(suite_of("kuhn_poker"), tasks=20, trials=3)]


def test_the_quickstarts_held_out_tasks() -> None:
    exam = exam_of("quickstart", ["--test-tasks", "3"], tasks=2, trials=5, sampling=Sampling(), mask=False)
    names = [match.suite.spec.name for match in exam.matches]
    assert len(names) == 6 and len(set(names)) == 3  # two tasks of each of three environments
    assert all(match.rollouts == 5 for match in exam.matches)
    assert exam.settings.test_tasks == 3


def test_first_of_each_keeps_the_order() -> None:
    suites = [suite_of("kuhn_poker"), suite_of("tic_tac_toe")]
    matches = [match for suite in suites for match in held_out(suite, tasks=3, trials=1)]
    assert [match.task.id for match in first_of_each(matches, 1)] == ["kuhn_poker/test/0", "tic_tac_toe/test/0"]
