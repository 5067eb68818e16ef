"""Dialogues of trees, worked by hand: every reply is learned once, in a context that it was said in."""

from __future__ import annotations

from dataclasses import replace

from polyturn.record.formats.dialogue import dialogues, prompt_identity, rows, shown, trajectory_of, value_of
from polyturn.record.formats.exchange import write_foreign
from polyturn.types import Episode, Event, Score, Task, Trajectory, Turn, assistant, system, user


def turn(at: int, prompt: tuple[int, ...], reply: int, **more: str) -> Turn:
    return Turn(at, "agent", "main", prompt, reply, (), **more)  # type: ignore[arg-type]


def summarised() -> Trajectory:
    """Replies 2 and 4 in one context; then messages 5 (a summary) and 0 begin another, where 6 was said. A search said
    7, and 8 was taken back."""
    messages = (system("s"), user("a"), assistant("A"), user("b"), assistant("B"), user("sum: A, B"), assistant("C"),
                assistant("search"), assistant("dropped"))
    turns = (turn(0, (0, 1), 2), turn(1, (0, 1, 2, 3), 4), turn(2, (0, 5), 6), turn(3, (0, 5), 7, branch="fork"),
             turn(4, (0, 5, 6), 8, dropped="took it back"))
    return Trajectory("agent", "main", None, messages, turns)


def test_a_dialogue_for_each_end() -> None:
    found = dialogues(summarised())
    assert [[m.text for m in d.messages] for d in found] == [["s", "a", "A", "b", "B"], ["s", "sum: A, B", "C"]]
    assert [d.trained for d in found] == [frozenset({2, 4}), frozenset({2})]


def test_a_shared_reply_is_learned_in_the_first_dialogue_alone() -> None:
    """Two ends behind one reply: context in the second, so its weight is 0 there."""
    messages = (user("a"), assistant("A"), user("b"), assistant("B"), user("c"), assistant("C"))
    turns = (turn(0, (0,), 1), turn(1, (0, 1, 2), 3), turn(2, (0, 1, 4), 5))
    trajectory = Trajectory("agent", "main", None, messages, turns)
    assert [d.trained for d in dialogues(trajectory)] == [frozenset({1, 3}), frozenset({3})]
    episode = Episode("e", Task("t", "f"), 0, trajectories=(trajectory,))
    weights = [[m.get("weight", 1) for m in row["messages"] if m["role"] == "assistant"]
               for row in write_foreign([episode], "openai")]
    assert weights == [[1, 1], [0, 1]]


def test_the_seats_that_learn_are_shown() -> None:
    def says(seat: str) -> Trajectory:
        return trajectory_of([user("x"), assistant("y")], policy="main", seat=seat)

    said = tuple(map(says, ("a", "a/sub", "b")))
    episode = Episode("e", Task("t", "f"), 0, train=frozenset({"a"}), trajectories=said)
    assert [t.seat for t in shown(episode)] == ["a", "a/sub"]
    assert [t.seat for t in shown(episode, ["b"])] == ["b"]
    assert [d.trajectory.seat for d in rows(Episode("e", Task("t", "f"), 0, trajectories=(says("c"),)))] == ["c"]


def test_values() -> None:
    """Verifiers first (1 and 0 give 0.5; None abstains), then what was paid, else nothing is known."""
    episode = Episode("e", Task("t", "f"), 0, events=(Event(0, "reward", "a", {"channel": "win", "value": 3.0}),),
                      scores={"x": {"a": Score(1.0)}, "y": {"a": Score(0.0)}, "z": {"a": Score(None)}})
    assert value_of(episode, "a") == value_of(episode, "a/sub") == 0.5
    paid = Episode("e", Task("t", "f"), 0, events=episode.events)
    assert value_of(paid, "a") == 3.0
    assert value_of(replace(paid, scores={"z": {"a": Score(None)}}), "a") is None
    assert value_of(Episode("e", Task("t", "f"), 0), "a") is None


def test_the_same_question_is_the_same_task() -> None:
    asked = [system("s"), user("q")]
    assert prompt_identity([*asked, assistant("x")]) == prompt_identity([*asked, assistant("y"), user("z")])
    assert prompt_identity(asked) != prompt_identity([user("q")])
