"""Dialogues: text is shown and never obeyed, advantages are colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polyturn.record.dialogues import LONG, as_dialogue
from polyturn.types import Call, Episode, Event, Part, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.record.markup import Checked

HOSTILE = '</div><img src=x onerror="alert(1)">\x1b[2J\u202e\x00 𝔘 " & \'</style><script>'


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    """Every text field of an episode holds markup: none of it becomes a tag."""
    span = Span(-1, np.array([5, 6], np.int32), True, np.array([-0.5, -0.5]))
    call = Call(HOSTILE, HOSTILE, None, HOSTILE, HOSTILE)
    messages = (
        user((Part("text", HOSTILE * 20), Part("image", HOSTILE, HOSTILE)), name=HOSTILE),  # type: ignore[arg-type]
        assistant((Part("reasoning", HOSTILE), Part("text", HOSTILE)), calls=(call,)),  # type: ignore[arg-type]
    )
    turn = Turn(0, HOSTILE, HOSTILE, (0,), 1, (0,), "length", HOSTILE, HOSTILE, rewards={HOSTILE: 1.0}, dropped=HOSTILE)
    episode = Episode(
        HOSTILE, Task(HOSTILE, HOSTILE), 0, error=HOSTILE, stop=Stop("error", HOSTILE),
        trajectories=(Trajectory(HOSTILE, HOSTILE, None, messages, (turn,), (span,)),),
        events=(Event(1, "invalid", HOSTILE),),
    )
    row = {"span": 0, "weight": np.array([0.5, 0.0]), "advantage": np.array([-1.0, np.nan]), "old": np.array([-0.5, 0]),
           "entropy": None}
    text = as_dialogue(episode, {(HOSTILE, HOSTILE, 0): row}, title=HOSTILE, score=0.5)
    found = Checked(text)
    assert not {"img", "script", "style"} & set(found.seen)
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert "\x1b" not in text and "\x00" not in text and "␛[2J" in text and "𝔘" in text
    assert "--hue:var(--worse)" in text and 'class="idle"' in text and "−1" in text


def test_advantages_colour_replies() -> None:
    """The largest advantage of a dialogue has full depth; half of it has half."""
    span = Span(-1, np.array([5], np.int32), True, np.array([-0.5]))
    turns = tuple(Turn(i, "a", "main", (0,), 1, (i,)) for i in range(2))
    trajectory = Trajectory("a", "main", None, (user("x"), assistant("y")), turns, (span, replace(span, parent=0)))
    episode = Episode("e", Task("t", "f"), 0, trajectories=(trajectory,))
    credit = {("a", "main", i): {"span": i, "weight": np.array([1.0]), "advantage": np.array([value]),
                                 "old": np.array([-0.5]), "entropy": np.array([0.25])}
              for i, value in enumerate((2.0, -1.0))}
    text = as_dialogue(episode, credit, title="t", score=None)
    assert text.count("--depth:100%;--hue:var(--good)") == 2        # the reply and its one token
    assert text.count("--depth:50%;--hue:var(--worse)") == 2
    assert "token 5 · log-prob −0.5 · advantage 2 · weight 1 · entropy 0.25" in text


def test_long_text_is_folded_and_kept_whole() -> None:
    messages = (user("x" * (LONG + 1)), assistant("y"))
    trajectory = Trajectory("a", "main", None, messages, (Turn(0, "a", "main", (0,), 1, ()),))
    text = as_dialogue(Episode("e", Task("t", "f"), 0, trajectories=(trajectory,)), {}, title="t", score=None)
    assert "x" * (LONG + 1) in text and '<details class="long">' in text


def test_a_prompt_message_is_shown_once_and_replies_in_order() -> None:
    """Two turns that both saw the first message; the second saw the first reply too."""
    messages = (user("rules"), assistant("first"), user("news"), assistant("second"))
    turns = (Turn(0, "a", "main", (0,), 1, ()), Turn(1, "a", "main", (0, 1, 2), 3, ()))
    trajectory = Trajectory("a", "main", None, messages, turns)
    found = Checked(as_dialogue(Episode("e", Task("t", "f"), 0, trajectories=(trajectory,)), {}, title="t", score=1.0))
    shown = [text for text in found.text if text in {m.text for m in messages}]
    assert shown == ["rules", "first", "news", "second"]
