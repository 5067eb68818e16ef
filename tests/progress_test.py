"""The two views of a run, on a clock that the test moves."""

from __future__ import annotations

import io
import pty
import time
from dataclasses import dataclass
from typing import Any

import pytest

from polyturn.progress import Board, Live, Plain, Progress, dialogue, make_progress, sparkline
from polyturn.types import Episode, Message, Stop, Task, Trajectory, Turn, assistant, user


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


TALK = (user("Guess 1 to 16."), assistant("8"), user("too low"), assistant("12"))


def played() -> Episode:
    turns = (Turn(0, "agent", "main", (0,), 1, ()), Turn(1, "agent", "main", (0, 1, 2), 3, ()))
    return Episode("e1", Task("guess-17", "guess"), 17, trajectories=(Trajectory("agent", "main", None, TALK, turns),),
                   stop=Stop("done"))


def walk(view: Progress, clock: Clock) -> None:
    view.stage("warm start", 4)
    for i in range(2):
        clock.now += 10
        view.iteration(i, {"score/guess": 0.25 * (i + 1), "rollout/tokens_per_s": 81.4, "loss/total": 2.0})
    view.sample(played())


def test_time_left_counts_this_stage_and_those_to_come() -> None:
    clock = Clock()
    board = Board(clock=clock, foreseen={"warm start": 50.0, "group": 300.0, "table": 60.0})
    board.start("warm start", 4)
    clock.now += 20
    assert board.left_s() == (50 - 20) + 300 + 60  # nothing done yet: what was foreseen, less what is gone
    board.count(0, {})
    assert board.left_s() == 20 / 1 * 3 + 300 + 60  # one of four took 20 s
    board.start("table", 0)
    assert board.left_s() == 60


def test_stages_to_come_are_scaled_by_what_the_finished_ones_took() -> None:
    clock = Clock()
    board = Board(clock=clock, foreseen={"warm start": 50.0, "group": 300.0, "table": 60.0})
    board.start("warm start", 4)
    clock.now += 25
    board.count(3, {})
    board.start("group", 2)
    assert board.left_s() == (300 + 60) * 25 / 50  # the first took half of what was foreseen
    clock.now += 100
    board.count(1, {})
    board.start("table", 0)
    assert board.left_s() == pytest.approx(60 * (25 + 100) / (50 + 300))
    board.start("group", 3)  # left before its end: it tells nothing
    board.start("table", 0)
    assert board.left_s() == pytest.approx(60 * (25 + 100) / (50 + 300))


def test_time_left_is_unknown_before_the_first_iteration_of_an_unforeseen_stage() -> None:
    clock = Clock()
    board = Board(clock=clock)
    board.start("other", 3)
    clock.now += 5
    assert board.left_s() is None
    assert board.headline() == "other · 0/3 · 5 s gone"


def test_plain_lines() -> None:
    clock, stream = Clock(), io.StringIO()
    walk(Plain(stream, Board(clock=clock)), clock)
    assert stream.getvalue().splitlines() == [
        "stage warm start: 4 iterations",
        "warm start · 1/4 · 30 s left · 81 tokens/s · guess 0.25",
        "warm start · 2/4 · 20 s left · 81 tokens/s · guess 0.50",
    ]


def test_plain_lines_are_not_more_than_one_in_two_seconds_but_the_last_is_said() -> None:
    clock, stream = Clock(), io.StringIO()
    view = Plain(stream, Board(clock=clock))
    view.stage("fast", 10)
    for i in range(10):
        clock.now += 0.5
        view.iteration(i, {})
    said = [line.split(" · ")[1] for line in stream.getvalue().splitlines()[1:]]
    assert said == ["1/10", "5/10", "9/10", "10/10"]


def test_a_count_that_does_not_move_is_told_ever_more_rarely() -> None:
    clock, stream, taken = Clock(), io.StringIO(), [5]
    view = Plain(stream, Board(clock=clock, turns=lambda: taken[0]))
    view.stage("rating untrained", 128)
    for second in range(1, 80):
        clock.now += 1
        taken[0] = 5 + 3 * second
        view.remind()
    view.stage("group", 2)
    clock.now += 9
    view.remind()
    view.iteration(0, {})
    clock.now += 10
    view.remind()
    assert stream.getvalue().splitlines() == [
        "stage rating untrained: 128 iterations",
        "rating untrained · 0/128 · 10 s gone · 30 turns",
        "rating untrained · 0/128 · 30 s gone · 90 turns",
        "rating untrained · 0/128 · 1 min 10 s gone · 210 turns",
        "stage group: 2 iterations", "group · 1/2 · 9 s left", "group · 1/2 · 19 s left · 19 s so far",
    ]


def test_a_pipe_is_reminded_from_a_thread_until_it_is_closed() -> None:
    clock, stream = Clock(), io.StringIO()
    view = make_progress(stream, clock=clock)
    clock.now += 60
    until = time.monotonic() + 10
    while not stream.getvalue() and time.monotonic() < until:
        time.sleep(0.05)
    assert stream.getvalue() == "starting · 1 min 00 s gone\n"
    view.close()
    clock.now += 600
    time.sleep(1.5)
    assert len(stream.getvalue().splitlines()) == 1


def test_the_picture_shows_stage_scores_and_dialogue() -> None:
    from rich.console import Console

    clock = Clock()
    view = Live(io.StringIO(), Board(clock=clock))
    walk(view, clock)
    paper = Console(file=io.StringIO(), width=100, record=True)
    paper.print(view.picture())
    text = paper.export_text()
    view.close()
    lines = text.splitlines()
    assert lines[0] == "warm start · 2/4 · 20 s left · 81 tokens/s"
    assert lines[1] == "━" * 30 + "─" * 30
    assert f"guess  0.50  {sparkline([0.25, 0.5])}" in text
    assert "guess-17, seat agent" in text
    assert "assistant 12" in text


def test_a_terminal_gets_the_picture_and_a_pipe_gets_lines() -> None:
    near, far = pty.openpty()
    with open(near, "rb"), open(far, "w") as terminal:
        view = make_progress(terminal)
        assert isinstance(view, Live)
        view.close()
    lines = make_progress(io.StringIO())
    assert isinstance(lines, Plain)
    lines.close()


def test_markup_in_a_note_is_not_read_as_markup() -> None:
    stream = io.StringIO()
    view = Live(stream, Board(clock=Clock()))
    view.note("[bold]kept as it is[/bold]")
    view.close()
    assert "[bold]kept as it is[/bold]" in stream.getvalue()


def test_dialogue_of_messages_and_of_an_episode_nobody_spoke_in() -> None:
    messages: tuple[Message, ...] = (user("hi"),)
    empty: Any = Episode("e", Task("t", "f"), 0)
    assert dialogue(messages) == (messages, "")
    assert dialogue(empty) == ((), "t")


def test_before_the_first_stage_the_time_that_is_gone_is_shown() -> None:
    clock = Clock()
    board = Board(clock=clock)
    clock.now += 3
    assert board.headline() == "starting · 3 s gone"


def test_sparkline_cuts_and_leaves_blanks() -> None:
    assert sparkline([-1.0, 2.0, float("nan"), 0.99]) == "▁█ █"
    assert sparkline([1.0] * 50, width=3) == "███"
