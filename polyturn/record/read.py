"""The record read back: the very episodes that were recorded, the numbers, and what runs there are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from polyturn.errors import BadInput
from polyturn.record.run import RunInfo, is_locked, read_info
from polyturn.record.shape import shape_of
from polyturn.record.table import START, Line, Place, is_whole, read_lines
from polyturn.types import EMPTY, Episode, Score, Seat, Stop, Task

_EPISODE, _BY_SEAT = shape_of(Episode), shape_of(Mapping[Seat, Score])
_PLAY = re.compile(rb'"attempt":(\d+),"play":(\d+),')
_Key = tuple[int, int]
OPEN = "the record ends before the episode does"


def read_episodes(
    folder: Path | str, *, include_open: bool = False, skip_corrupt: bool = False, void: bool = False
) -> Iterator[Episode]:
    """The episodes that count, in the order in which they ended, equal to those recorded, with their later scores.

    ``include_open`` adds those that a kill cut short: their turns, under ``stop.kind == "error"``; task and seed are
    not known. ``void``: in their place those that the last rewind made void: what a kill left unclaimed. Raises:
    BadInput for a damaged line, with its number, unless ``skip_corrupt``.
    """
    for _, episode in read_plays(folder, include_open=include_open, skip_corrupt=skip_corrupt, void=void):
        yield episode


def read_plays(
    folder: Path | str, *, include_open: bool = False, skip_corrupt: bool = False,
    only: Collection[_Key] | None = None, void: bool = False,
) -> Iterator[tuple[_Key, Episode]]:
    """As :func:`read_episodes`, each with its key (attempt, play), unique in the run; ``only`` some keys if given."""
    for key, plain in read_plain(folder, include_open=include_open, skip_corrupt=skip_corrupt, void=void):
        if only is None or key in only:
            yield key, _EPISODE.decode(plain)


def read_plain(
    folder: Path | str, *, include_open: bool = False, skip_corrupt: bool = False,
    since: Mapping[str, Place] = EMPTY, upto: Mapping[str, Place] = EMPTY, void: bool = False, as_played: bool = False,
) -> Iterator[tuple[_Key, dict[str, Any]]]:
    """As :func:`read_plays`, each episode as the plain JSON object that :mod:`polyturn.record.shape` makes of it.
    ``as_played``: as it stood when its play ended, without what verifiers gave, or failed to give, later.

    ``since`` and ``upto``: table -> the place behind which, and before which, its rows are read (``upto``: of episodes
    and scores). Raises: Rewound if rows before ``since`` were made void later on.
    """
    path, ended = _table(folder, "turns"), _table(folder, "episodes")
    if not path.exists():
        return
    # A run that is at work writes turns before their episode, and an episode before its scores.
    held = ended.stat().st_size if ended.exists() else 0
    also: Literal["", "too"] = "too" if void else ""  # such an episode may have turns that count, from before the mark
    lines = _by_play(path, skip_corrupt=skip_corrupt, since=since.get("turns", START), void=also)
    rows = read_lines(_table(folder, "scores"), skip_corrupt=skip_corrupt, since=since.get("scores", START),
                       upto=upto["scores"].offset if "scores" in upto else None, void=also)
    scores = _scores(rows)
    last = min(held, upto["episodes"].offset) if upto else held
    with path.open("rb") as turns:
        for line in read_lines(ended, skip_corrupt=skip_corrupt, upto=last, since=since.get("episodes", START),
                               void="only" if void else ""):
            row = line.row()
            key = (row["attempt"], row["play"])
            plain = _closed(row, _Written(turns, lines.pop(key, [])), f"{folder}/episodes.jsonl, line {line.number}")
            given = [*scores.pop(key, []), *scores.pop(plain["id"], [])]
            yield key, plain if as_played else with_scores(plain, given)
        if include_open:
            for key, found in lines.items():
                yield key, _unfinished(_Written(turns, found))


@dataclass(frozen=True, slots=True)
class Lines:
    """Where the lines of one play stand: (offset, size) in their tables; ``episode`` None for a play without an end."""

    episode: tuple[int, int] | None
    turns: Sequence[tuple[int, int]]
    scores: Sequence[tuple[int, int]] = ()


def read_at(folder: Path | str, place: Lines) -> dict[str, Any]:
    """The plain episode of one play, read from its own lines only, as :func:`read_plain` gives it.

    Raises: BadInput for places that hold something else (an index of another table).
    """
    folder = Path(folder)
    with (folder / "turns.jsonl").open("rb") as file:
        before = _Written(file, list(place.turns))
    if place.episode is None:
        return _unfinished(before)
    row = _row_at(folder / "episodes.jsonl", place.episode)
    plain = _closed(row, before, f"{folder}/episodes.jsonl, byte {place.episode[0]}")
    return with_scores(plain, [_row_at(folder / "scores.jsonl", where) for where in place.scores])


def with_scores(plain: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plain episode with its rows of ``scores``, of which the last of each verifier counts: its scores, or that it
    could not score the episode, which then ends in an error."""
    failed: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if "reason" in row:
            failed[row["verifier"]] = row
        else:
            failed.pop(row["verifier"], None)
            plain["scores"][row["verifier"]] = row["scores"]
    for row in failed.values():
        plain["scores"].pop(row["verifier"], None)
        plain["stop"], plain["error"] = {"kind": "error", "reason": row["reason"], "seat": None}, row["error"]
    return plain


def rows_at(path: Path, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The rows at (offset, size) of a table, in that order. Raises: BadInput where no whole line stands there."""
    return [_row_at(path, place) for place in places]


def _row_at(path: Path, place: tuple[int, int]) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(place[0])
        data = file.read(place[1])
    if not is_whole(data):
        raise BadInput(f"{path}: no whole line of {place[1]} bytes at byte {place[0]}; the index is of another table")
    return Line(0, place[0], data).row()


def count_turns(folder: Path | str) -> dict[_Key, int]:
    """(attempt, play) -> the number of turns recorded when they were sampled."""
    return {key: len(lines) for key, lines in _by_play(_table(folder, "turns"), skip_corrupt=False).items()}


def read_metrics(folder: Path | str, *, skip_corrupt: bool = False) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` that count: ``{"attempt", "iteration", "time", "values"}``."""
    return [line.row() for line in read_lines(_table(folder, "metrics"), skip_corrupt=skip_corrupt)]


def read_scores(folder: Path | str, *, skip_corrupt: bool = False) -> Iterator[tuple[str, str, dict[Seat, Score]]]:
    """Verifier, episode id, seat -> score, in the order recorded."""
    for line in read_lines(_table(folder, "scores"), skip_corrupt=skip_corrupt):
        row = line.row()
        if "reason" not in row:
            yield row["verifier"], row["episode"], _BY_SEAT.decode(row["scores"])


CREDIT_ARRAYS = ("advantage", "weight", "old", "behavior", "reference", "entropy", "present", "push")


def read_credit(folder: Path | str, *, skip_corrupt: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of ``credit.jsonl`` that count; the columns of :mod:`polyturn.record.credit`, lists as float64 arrays,
    unknown as NaN."""
    for line in read_lines(_table(folder, "credit"), skip_corrupt=skip_corrupt):
        row = line.row()
        for name in CREDIT_ARRAYS:
            if row.get(name) is not None:
                row[name] = np.array(row[name], np.float64)
        yield row


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run of a folder of runs."""

    folder: Path
    info: RunInfo
    status: str
    """As in ``run.json``; ``running`` only while a process holds the folder."""
    size_bytes: int
    seconds: float
    """From the start of the first attempt to the last thing recorded."""
    metrics: Mapping[str, float]
    """The last value of each metric."""


def list_runs(folder: Path | str) -> list[RunSummary]:
    """The runs in the folders directly below ``folder``, oldest first."""
    found = [_summary(path.parent) for path in Path(folder).glob("*/run.json")]
    return sorted(found, key=lambda run: (run.info.started, run.folder.name))


def _summary(folder: Path) -> RunSummary:
    info = read_info(folder)
    status: str = info.status
    if status == "running" and not is_locked(folder):
        status = "killed"
    rows = read_metrics(folder, skip_corrupt=True)
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    tables = [path.stat().st_mtime for path in folder.glob("*.jsonl")]
    last = info.attempts[-1].ended if info.attempts else None
    values: dict[str, float] = {}
    for row in rows:
        values.update(row["values"])
    seconds = max(0.0, (last if last is not None else max(tables, default=info.started)) - info.started)
    return RunSummary(folder, info, status, sum(f.st_size for f in files), seconds, values)


# ---------------------------------------------------------------- joining


def _table(folder: Path | str, name: str) -> Path:
    """The file of a table. Raises: BadInput for a folder that holds no run."""
    read_info(Path(folder))
    return Path(folder) / f"{name}.jsonl"


class _Written:
    """The rows of the turns table that belong to one play."""

    def __init__(self, file: BinaryIO, lines: list[tuple[int, int]]) -> None:
        self.turns: dict[int, dict[str, Any]] = {}
        self.messages: dict[tuple[str, str], dict[int, Any]] = {}
        self.spans: dict[tuple[str, str], dict[int, Any]] = {}
        self.id = ""
        for number, (offset, size) in enumerate(lines):
            file.seek(offset)
            row = Line(number, offset, file.read(size)).row()
            turn = row["turn"]
            who = (turn["seat"], turn["policy"])
            self.id = row["episode"]
            self.turns[turn["at"]] = turn
            self.messages.setdefault(who, {}).update(_by_index(row["messages"]))
            self.spans.setdefault(who, {}).update(_by_index(row["spans"]))


def play_of(path: Path, line: Line) -> _Key:
    """The (attempt, play) that a row of the turns table is of."""
    match = _PLAY.search(line.data)
    if match is None:
        raise BadInput(f"{path}, line {line.number}: no attempt and play in the row")
    return int(match[1]), int(match[2])


def _by_play(
    path: Path, *, skip_corrupt: bool, since: Place = START, void: Literal["", "too"] = ""
) -> dict[_Key, list[tuple[int, int]]]:
    """(attempt, play) -> where its lines stand, in order."""
    found: dict[_Key, list[tuple[int, int]]] = {}
    for line in read_lines(path, skip_corrupt=skip_corrupt, since=since, void=void):
        found.setdefault(play_of(path, line), []).append((line.offset, len(line.data)))
    return found


def _scores(lines: Iterator[Line]) -> dict[_Key | str, list[dict[str, Any]]]:
    """Play (episode id where the play is not known) -> its rows, in order."""
    found: dict[_Key | str, list[dict[str, Any]]] = {}
    for line in lines:
        row = line.row()
        key = row["episode"] if row["play"] is None else (row["attempt"], row["play"])
        found.setdefault(key, []).append(row)
    return found


def _closed(row: Mapping[str, Any], before: _Written, where: str) -> dict[str, Any]:
    return {**row["episode"], "trajectories": [_trajectory(rest, before, where) for rest in row["trajectories"]]}


def _trajectory(rest: Mapping[str, Any], before: _Written, where: str) -> dict[str, Any]:
    who = (rest["seat"], rest["policy"])
    try:
        turns = [_turn(turn, before) for turn in rest["turns"]]
        messages = {**before.messages.get(who, {}), **_by_index(rest["messages"])}
        spans = {**before.spans.get(who, {}), **_by_index(rest["spans"])}
        return {
            "seat": rest["seat"], "policy": rest["policy"], "parent": rest["parent"],
            "messages": [messages[i] for i in range(rest["message_count"])], "turns": turns,
            "spans": [spans[i] for i in range(rest["span_count"])], "stop": rest["stop"],
            "tools": rest.get("tools", []),
        }
    except KeyError as error:
        raise BadInput(f"{where}: turns.jsonl lacks turn, message or span {error} of seat {rest['seat']}") from None


def _turn(turn: dict[str, Any], before: _Written) -> dict[str, Any]:
    """A turn of an episode's row: whole, or what changed since it was written."""
    if turn.pop("new", False):
        return turn
    return {**before.turns[turn["at"]], **turn}


def _by_index(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row.pop("index"): row for row in rows}


def _unfinished(before: _Written) -> dict[str, Any]:
    trajectories = []
    for seat, policy in before.messages:
        who = (seat, policy)
        turns = [t for t in before.turns.values() if (t["seat"], t["policy"]) == who]
        trajectories.append({
            "seat": seat, "policy": policy, "parent": None, "stop": None, "turns": turns, "tools": [],
            "messages": _without_holes(before.messages[who], f"{before.id}, seat {seat}, messages"),
            "spans": _without_holes(before.spans[who], f"{before.id}, seat {seat}, spans"),
        })
    empty = Episode(before.id, Task("", ""), 0, stop=Stop("error", OPEN), error=OPEN)
    return {**_EPISODE.encode(empty), "trajectories": trajectories}


def _without_holes(found: Mapping[int, Any], what: str) -> list[Any]:
    if sorted(found) != list(range(len(found))):
        raise BadInput(f"episode {what}: indices {sorted(found)} leave a hole; expected 0 to {len(found) - 1}")
    return [found[i] for i in range(len(found))]
