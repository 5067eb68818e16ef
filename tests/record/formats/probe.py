"""One episode that uses everything an episode can hold, and keeps every rule; a run of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from polyturn.media import Media
from polyturn.record.write import open_run
from polyturn.types import (
    Call,
    Episode,
    Event,
    Finding,
    Message,
    Part,
    PolicyInfo,
    Sampling,
    Score,
    Span,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
    assistant,
    system,
    user,
)

PICTURE = b"\x89PNG\r\n\x1a\n"
SEARCH = Tool("search", "finds pages", {"type": "object", "properties": {"q": {"type": "string"}}})


def ids(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


def probe(number: int = 0, value: float = 1.0, store: Media | None = None) -> Episode:
    """A planner that looks at a picture, calls two tools at once, thinks, goes on from a summary; a helper below it; an
    opponent that does not learn."""
    picture = store.put(PICTURE) if store is not None else Media("unused").path("ab" * 32).name
    calls = (Call("c1", "search", {"q": "cats"}, '{"q":"cats"}'), Call("c2", "search", {"q": "dogs"}, '{"q": "dogs"}'))
    messages = (
        system("You plan.", id="p0"),
        Message("user", (Part("text", "What is this?"), Part("image", media=picture, mime="image/png")), "p1"),
        Message("assistant", (Part("reasoning", "two of them"), Part("text", "I look.")), "p2", calls=calls,
                origin="policy", spans=(("planner", "main", 1),)),
        Message("tool", "a cat", "p3", call_id="c1", origin="tool"),  # type: ignore[arg-type]
        Message("tool", "no dog", "p4", call_id="c2", origin="tool", status="error"),  # type: ignore[arg-type]
        assistant(f"A cat {number} {value}.", id="p5", spans=(("planner", "main", 3),)),
        user("So far: a cat.", id="p6", origin="summary"),
        assistant("Done.", id="p7", spans=(("planner", "main", 5),)),
    )
    spans = (Span(-1, ids(1, 2, 3)), Span(0, ids(4, 5), True, np.array([-0.5, -0.25]), 3), Span(1, ids(6)),
             Span(2, ids(7, 8), True, np.array([-1.5, -0.125]), 3), Span(-1, ids(1, 9)),
             Span(4, ids(10), True, np.array([-0.75]), 3))
    sampling = Sampling(0.5, 0.9, 0, 77, ("STOP",), None, 11)

    def turn(at: int, prompt: tuple[int, ...], reply: int, span: int, **more: Any) -> Turn:
        return Turn(at, "planner", "main", prompt, reply, (span,), sampling=sampling, usage=Usage(9, 4, 2, 0.5),
                    started=1_700_000_000.0 + at, ended=1_700_000_000.5 + at, **more)

    turns = (turn(0, (0, 1), 2, 1, finish="tool", rewards={"look": 0.25}), turn(2, (0, 1, 2, 3, 4), 5, 3),
             turn(3, (0, 6), 7, 5))
    planner = Trajectory("planner", "main", None, messages, turns, spans, tools=(SEARCH,))
    helper = _said("planner/helper", "small", 1, "Which cat?", "Tabby.", ("planner", "main"))
    other = _said("opponent", "fixed", 4, "Your move.", "Pass.", None)
    finding = Finding("wrong_page", {"seat": "planner", "turn": 2}, "cat", "not what was asked", "judge", "2")
    return Episode(
        f"e{number}.{value}", Task(f"task{number}", "pages", {"question": "which animal"}), 17, f"g{number}",
        int(value == 1.0), iteration=5, train=frozenset({"planner"}),
        cast={"planner": PolicyInfo("main", "model", 3, "ab" * 32, "cd" * 32), "opponent": PolicyInfo("fixed")},
        trajectories=(planner, helper, other),
        events=(Event(1, "reward", "planner", {"channel": "look", "value": 0.25}), Event(5, "invalid", "opponent")),
        final={"page": "cats"}, final_sha256="ef" * 32, stop=Stop("truncated", "model_calls: 3 spent", "planner"),
        scores={"exact": {"planner": Score(value, value == 1.0, {"a": 0.5}, {2: {"b": 1.0}}, (finding,))}},
        started=1_700_000_000.0, ended=1_700_000_010.0,
    )


def _said(seat: str, policy: str, at: int, asked: str, answer: str, parent: tuple[str, str] | None) -> Trajectory:
    messages = (user(asked, id=f"{seat}.0"), assistant(answer, id=f"{seat}.1"))
    turn = Turn(at, seat, policy, (0,), 1, (), started=1_700_000_000.0 + at, ended=1_700_000_000.5 + at)
    return Trajectory(seat, policy, parent, messages, (turn,))


def probe_run(folder: Path) -> Path:
    """Two groups of two attempts, worth 1 and 0."""
    with open_run(folder, recipe="probe") as recorder:
        for number in range(2):
            for value in (1.0, 0.0):
                recorder.episode(probe(number, value, recorder.media))
    return folder
