"""Who&When: logs of teams that failed, with who made the decisive mistake, at which step, and why.

Every speaker of a log is a seat that saw all of it; ``human`` and terminals speak no turn. The label is a finding of
the verifier ``who-and-when`` on the seat at fault: ``decisive_error``, with the turn, counted from 0 as in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import whole_or_none
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import identity, value_of
from polyturn.types import Episode, Finding, Message, PolicyInfo, Score, Stop, Task, Trajectory, Turn

NAME = "who-and-when"
SILENT = {"human", "user", "Computer_terminal", "ComputerTerminal", "terminal"}
"""Speakers that are no agents: who asked, and what only runs code."""


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a log."""
    history = record["history"].items()
    if not history:
        raise BadInput(f"{record.where}.history: is empty; expected messages")
    said = [(_speaker(item), item["content"].text()) for item in history]
    speakers = list(dict.fromkeys(who for who, _ in said if who not in SILENT))
    seats = {who: _seat(who, speakers) for who in speakers}
    step, agent = record.get("mistake_step"), record.get("mistake_agent")
    right = record.get("is_correct") or record.get("is_corrected")
    success = None if right is None else right.flag()
    scores = {seats[who]: _score(success, []) for who in speakers}
    if agent is not None and step is not None:
        at, why = _step(step, len(said)), record.get("mistake_reason")
        fault = seats.get(agent.text(), "") or next(iter(seats.values()), "")
        finding = Finding("decisive_error", {"seat": fault, "turn": at}, agent.text(),
                          "" if why is None else why.text(), "human")
        scores[fault] = _score(success, [finding])
    question, truth = record.get("question"), record.get("ground_truth")
    id = record.get("question_ID")
    payload = {key: value.text() for key, value in (("question", question), ("ground_truth", truth)) if value}
    return [Episode(
        identity(record.value), Task(identity(payload) if id is None else id.text(), NAME, payload), 0,
        cast={seat: PolicyInfo(seat, "endpoint") for seat in seats.values()},
        trajectories=tuple(_trajectory(who, seats, said) for who in speakers), stop=Stop("done"),
        scores={NAME: scores}, source={"format": NAME},
    )]


def _speaker(item: Field) -> str:
    """Who said it: the name where there is one, else the role without what stands in brackets behind it."""
    name = item.get("name")
    return (item["role"].text() if name is None else name.text()).split(" (", 1)[0]


def _seat(who: str, speakers: Sequence[str]) -> str:
    """A seat of a speaker's name; ``/`` would make it somebody's sub-seat."""
    plain = who.replace("/", "-") or "agent"
    return plain if [s.replace("/", "-") for s in speakers].count(plain) == 1 else f"{plain}.{speakers.index(who)}"


def _step(step: Field, count: int) -> int:
    """The step of the mistake, a number or its digits."""
    text = str(step.value)
    found = whole_or_none(text)
    if found is None or found >= count:
        raise BadInput(f"{step.where}: is {text[:40]!r}; expected a step of the history, 0 to {count - 1}")
    return found


def _score(success: bool | None, findings: Sequence[Finding]) -> Score:
    return Score(None if success is None else float(success), success, findings=tuple(findings))


def _trajectory(who: str, seats: dict[str, str], said: Sequence[tuple[str, str]]) -> Trajectory:
    """What one speaker saw and said: the whole log, its own messages as replies."""
    seat = seats[who]
    messages: list[Message] = []
    turns: list[Turn] = []
    for place, (speaker, text) in enumerate(said):
        if speaker == who:
            turns.append(Turn(place, seat, seat, tuple(range(place)), place, (), step=len(turns)))
            messages.append(Message("assistant", text, f"m{place}", speaker, origin="policy"))  # type: ignore[arg-type]
        else:
            origin: Any = "user" if speaker in SILENT else "copied"
            messages.append(Message("user", text, f"m{place}", speaker, origin=origin))  # type: ignore[arg-type]
    return Trajectory(seat, seat, None, tuple(messages), tuple(turns))


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One log an episode: what every seat said, in order, behind the messages that nobody here said."""
    for episode in group:
        record: dict[str, Any] = {"history": _history(episode)}
        record["question"] = str(episode.task.payload.get("question", ""))
        record["ground_truth"] = str(episode.task.payload.get("ground_truth", ""))
        values = [value_of(episode, t.seat) for t in episode.trajectories]
        known = [value for value in values if value is not None]
        record["is_correct"] = bool(known) and min(known) >= 1.0
        record["question_ID"] = episode.task.id
        for finding in (f for by in episode.scores.values() for score in by.values() for f in score.findings):
            if finding.name == "decisive_error":
                record |= {"mistake_agent": str(finding.value or finding.target.get("seat", "")),
                           "mistake_step": str(finding.target.get("turn", "")), "mistake_reason": finding.reason}
        yield record


def _history(episode: Episode) -> list[dict[str, str]]:
    """All that was said, each message once: what a seat was told before its turn, then its reply."""
    if (episode.source or {}).get("format") == NAME and episode.trajectories:
        return [{"content": m.text, "role": m.name or m.role} for m in episode.trajectories[0].messages]
    told: set[str] = set()
    found = []
    for turn in sorted((t for each in episode.trajectories for t in each.turns), key=lambda turn: turn.at):
        trajectory = episode.trajectory(turn.seat, turn.policy)
        assert trajectory is not None
        for message in (trajectory.messages[index] for index in turn.prompt):
            if message.origin != "policy" and message.id not in told:
                found.append({"content": message.text, "role": message.name or message.role})
            told.add(message.id)
        reply = trajectory.messages[turn.reply]
        told.add(reply.id)
        found.append({"content": reply.text, "role": turn.seat})
    return found
