from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from polyturn import types
from polyturn.types import (
    Episode,
    Event,
    Message,
    Part,
    Sampling,
    Span,
    Stop,
    Task,
    Trajectory,
    Turn,
    all_turns,
    root_of,
)


def test_every_noun_is_frozen_and_slotted() -> None:
    nouns = [v for v in vars(types).values() if isinstance(v, type) and dataclasses.is_dataclass(v)]
    assert len(nouns) >= 17
    for noun in nouns:
        assert noun.__dataclass_params__.frozen, noun  # type: ignore[attr-defined]
        assert "__slots__" in vars(noun), noun


def test_a_text_is_one_part() -> None:
    assert Message("user", "hello") == Message("user", (Part("text", "hello"),))  # type: ignore[arg-type]
    assert Message("user", "").parts == ()  # type: ignore[arg-type]
    both = Message("assistant", (Part("reasoning", "so"), Part("text", "7")))
    assert (both.text, both.reasoning) == ("7", "so")


def test_an_edit_of_the_content_loses_the_sampled_spans() -> None:
    own = Message("assistant", "7", spans=(("a", "p", 0),))  # type: ignore[arg-type]
    assert own.edited(id="x").spans == own.spans
    assert own.edited(parts="8").spans == () and own.edited(parts="8").text == "8"


@pytest.mark.parametrize("bad", [
    {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"max_tokens": 0}, {"choices": ()},
])
def test_sampling_refuses_what_means_nothing(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is"):
        Sampling(**bad)  # type: ignore[arg-type]


def test_a_path_is_read_by_following_parents() -> None:
    spans = tuple(Span(parent, np.array([i], np.int32)) for i, parent in enumerate((-1, 0, 1, 0)))
    trajectory = Trajectory("a", "p", spans=spans)
    assert trajectory.path(2) == (0, 1, 2) and trajectory.path(3) == (0, 3) and trajectory.path(-1) == ()


def test_an_episode_answers_plain_questions() -> None:
    turn = {at: Turn(at, "a", "p", (), 0, ()) for at in range(3)}
    pay = {"channel": "win", "value": 1.0}
    episode = Episode(
        "e", Task("t", "f"), 0,
        trajectories=(Trajectory("a", "p", turns=(turn[0], turn[2])), Trajectory("a/b", "q", turns=(turn[1],))),
        events=(Event(3, "reward", "a", pay), Event(4, "reward", "a", {**pay, "channel": "x"}),
                Event(5, "reward", "a", pay, branch="a#0"), Event(6, "reward", "b", pay)),
        stop=Stop("done"),
    )
    assert [t.at for t in all_turns(episode)] == [0, 1, 2]
    assert episode.paid("a") == 2.0 and episode.paid("a", "win") == 1.0  # not what a copy paid
    assert episode.trajectory("a/b") is episode.trajectories[1] and episode.trajectory("a", "q") is None
    assert root_of("agent/lead/helper") == "agent"
