"""Questions to a run's index: pages of episodes under a filter, groups, and curves with intervals."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from polyturn.errors import BadInput, UnknownName
from polyturn.evaluate.stats import bounded_mean, clustered_mean
from polyturn.record.index import Index, Key
from polyturn.record.table import is_whole

COLUMNS = (
    "attempt", "play", "id", "grp", "task", "family", "stage", "iteration", "trial", "seed", "parent", "score",
    "success", "stop", "reason", "error",
    "turns", "tokens", "invalid", "seats", "branches", "trained", "started", "ended",
)
"""What a row of a list of episodes says, and what ``where`` may speak of."""
NUMBERS = {"iteration", "trial", "score", "success", "turns", "tokens", "invalid", "seats", "branches", "trained",
           "started", "ended", "attempt", "play", "offset"}
EXACT = ("stage", "family", "stop", "task", "grp", "iteration", "trained")
MOST = 500
SECONDS = 3.0
"""The longest that one question may take."""
WINDOW = 5
"""Iterations that one point of a score curve is the mean of."""
MOST_OPEN = 256 * 2**20
CHUNK = 4 * 2**20
_PLAY = re.compile(rb'"attempt":(\d+),"play":(\d+)')
_RANGES = {"min_score": "score >= ?", "max_score": "score <= ?", "min_turns": "turns >= ?", "max_turns": "turns <= ?",
           "min_tokens": "tokens >= ?", "max_tokens": "tokens <= ?"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A filter as SQL over the table of episodes."""

    where: str
    values: tuple[Any, ...]


def asked(given: Mapping[str, str]) -> Asked:
    """The filter that parameters name: equal values (:data:`EXACT`), ``min_score`` and such, ``failed``, ``id``, and
    ``where``: a condition in SQL over :data:`COLUMNS`.

    Raises: BadInput for a number that is none.
    """
    parts: list[str] = []
    values: list[Any] = []
    condition = "" if is_query(given.get("where", "")) else given.get("where", "")
    for name in EXACT:
        if given.get(name):
            parts.append(f"{name} = ?")
            values.append(_number(name, given[name]) if name in NUMBERS else given[name])
    for name, test in _RANGES.items():
        if given.get(name):
            parts.append(test)
            values.append(_number(name, given[name]))
    if given.get("failed"):
        parts.append("(error is not null or stop = 'error')")
    if given.get("id"):
        parts.append("(instr(lower(id), lower(?)) or instr(lower(task), lower(?)))")
        values += [given["id"], given["id"]]
    if condition:
        parts.append(f"({condition}\n)")
    return Asked(" and ".join(parts) or "1", tuple(values))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{name} is {text!r}; expected a number") from None


def page(
    index: Index, given: Mapping[str, str], *, first: int = 0, count: int = 50, sort: str = "-offset"
) -> dict[str, Any]:
    """``{"rows", "total", "first"}``: a stretch of the episodes under a filter (:func:`asked`).

    ``sort`` is a column, with ``-`` before it for the largest first. ``text`` in ``given`` also asks that the play's
    messages hold that text (:func:`plays_with`); then ``searched`` says which share of the record was looked through.
    A ``where`` that is a whole SELECT asks the record itself (:func:`plays_by`).
    Raises: BadInput for a condition that SQL refuses, that reaches beyond the episodes or takes longer than
    :data:`SECONDS`; UnknownName for a column to sort by.
    """
    column = sort.removeprefix("-")
    if column not in {*COLUMNS, "offset"}:
        raise UnknownName("column", column, COLUMNS)
    filtered, found = asked(given), {}
    where = filtered.where
    wanted: list[set[Key]] = []
    if given.get("text"):
        keys, share = plays_with(index, given["text"])
        wanted, found = [keys], {"searched": share}
    if is_query(given.get("where", "")):
        wanted.append(plays_by(index, given["where"]))
    with index.connected() as db:
        if wanted:
            db.execute("create temp table said (attempt int, play int, primary key (attempt, play))")
            db.executemany("insert into said values (?, ?)", wanted[0] & wanted[-1])
            where += " and exists (select 1 from said s where s.attempt = e.attempt and s.play = e.play)"
        _guard(db)
        way = "desc" if sort.startswith("-") else "asc"
        order = f"offset {way}" if column == "offset" else f"{column} {way} nulls last, offset desc"
        place = (min(max(count, 1), MOST), max(first, 0))
        try:
            total = db.execute(f"select count(*) from episodes e where {where}", filtered.values).fetchone()[0]
            few = db.execute(f"select offset from episodes e where {where} order by {order} limit ? offset ?",
                             (*filtered.values, *place)).fetchall()
            marks = ", ".join("?" * len(few))
            rows = db.execute(f"select {', '.join(COLUMNS)} from episodes where offset in ({marks}) order by {order}",
                              [row[0] for row in few]).fetchall()
        except sqlite3.DatabaseError as error:
            raise BadInput(f"the filter {where!r} was refused: {error}; it may speak of {', '.join(COLUMNS)}") from None
    return {"rows": [dict(row) for row in rows], "total": total, "first": max(first, 0), **found}


def _guard(db: sqlite3.Connection) -> None:
    """From here on the connection only reads episodes, and gives up after a while."""
    until = time.monotonic() + SECONDS
    tables = {"episodes", "said", ""}

    def allowed(action: int, name: str | None, *_: str | None) -> int:
        reads = action == sqlite3.SQLITE_READ and (name or "") in tables
        plain = action == sqlite3.SQLITE_FUNCTION and _ != ("load_extension", None, None)
        return sqlite3.SQLITE_OK if reads or plain or action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_DENY

    db.set_authorizer(allowed)
    db.set_progress_handler(lambda: int(time.monotonic() > until), 10_000)


def is_query(text: str) -> bool:
    """Whether a condition is a whole SELECT."""
    return re.match(r"\s*(select|with|from)\b", text, re.IGNORECASE) is not None


def plays_by(index: Index, sql: str) -> set[Key]:
    """The plays whose ``attempt`` and ``play`` a SELECT over the record gives (the views of ``polyturn query``).

    Raises: BadInput for what DuckDB refuses, for an answer without these columns, and for a record of which more than
    :data:`MOST_OPEN` bytes are in no shard yet, which would have to be read first; DeadlinePassed.
    """
    from polyturn.record.query import open_tables
    from polyturn.record.shards import read_index

    closed = read_index(index.folder)
    done = 0 if closed is None else sum(place.offset for place in closed.upto.values())
    names = ("turns", "episodes", "scores", "credit")
    paths = [index.folder / f"{name}.jsonl" for name in names]
    there = sum(path.stat().st_size for path in paths if path.exists())
    if there - done > MOST_OPEN:
        raise BadInput(f"{(there - done) / 2**20:.0f} MiB of the record are in no shard yet; polyturn query "
                       f"{index.folder} \"select 1\" closes what is settled, then SELECT works here too")
    with open_tables([index.folder], hashes=False, close_at=None, asked=sql) as tables:
        answer = tables.ask(sql, most=100_000, timeout_s=4 * SECONDS)
    if not {"attempt", "play"} <= set(answer.columns):
        raise BadInput(f"the SELECT gives {', '.join(answer.columns)}; expected attempt and play among its columns")
    attempt, play = answer.columns.index("attempt"), answer.columns.index("play")
    found = {(row[attempt], row[play]) for row in answer.rows}
    for place in (place for key in found for place in key):
        if type(place) is not int or not 0 <= place < 2**63:
            raise BadInput(f"the SELECT gives {ascii(place)[:40]} as an attempt or play; expected whole numbers")
    return found


def plays_with(index: Index, text: str, *, seconds: float = SECONDS) -> tuple[set[Key], float]:
    """The plays in whose record a text stands (messages, calls, tool output, events, errors), whatever the case of its
    Latin letters; and the share of the record that was looked through in the time there was."""
    wanted = orjson.dumps(text)[1:-1].lower()
    until = time.monotonic() + seconds
    found: set[Key] = set()
    read = there = 0
    for name in ("episodes", "turns"):
        path = index.folder / f"{name}.jsonl"
        if not path.exists():
            continue
        there += path.stat().st_size
        with path.open("rb") as file:
            while time.monotonic() < until and (chunk := file.read(CHUNK)):
                chunk += file.readline()
                read += len(chunk)
                found.update(_keys_with(chunk, wanted))
    return found, read / max(there, 1)


def _keys_with(chunk: bytes, wanted: bytes) -> Iterator[Key]:
    """The plays of the lines of a chunk that hold some bytes (in small letters)."""
    small, at = chunk.lower(), 0
    while (at := small.find(wanted, at)) >= 0:
        start, end = chunk.rfind(b"\n", 0, at) + 1, chunk.find(b"\n", at) + 1 or len(chunk)
        match = _PLAY.search(chunk, start, end)
        if match is not None and is_whole(chunk[start:end]):
            yield int(match[1]), int(match[2])
        at = end


# ---------------------------------------------------------------- groups and curves


def groups(index: Index, stage: str, iteration: int | None) -> list[dict[str, Any]]:
    """The groups of one iteration (None: of a stage outside training), each with its episodes in short."""
    same = "is ?" if iteration is None else "= ?"
    with index.connected() as db:
        rows = db.execute(
            "select grp, task, family, attempt, play, id, trial, score, stop, error, turns, tokens, invalid, trained "
            f"from episodes where stage = ? and iteration {same} order by grp, trial limit 5000", (stage, iteration)
        ).fetchall()
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        plain = dict(row)
        own = {name: plain.pop(name) for name in ("grp", "task", "family")}
        found.setdefault(row["grp"], {**own, "episodes": []})["episodes"].append(plain)
    for group in found.values():
        scores = [e["score"] for e in group["episodes"] if e["score"] is not None]
        group["mean"] = sum(scores) / len(scores) if scores else None
        group["alike"] = len(scores) > 1 and max(scores) - min(scores) <= 1e-12
    return sorted(found.values(), key=lambda g: _natural(g["grp"]))


def _natural(name: str) -> list[Any]:
    """Its order as people count: ``a.9`` before ``a.10``."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, len(part.lstrip("0")), part.lstrip("0")) if i % 2 else (1, 0, part) for i, part in enumerate(parts)]


def stages(index: Index) -> list[dict[str, Any]]:
    """The stages in the order in which they began: name, iterations (0 outside training), episodes, mean, errors."""
    with index.connected() as db:
        rows = db.execute(
            "select stage, count(distinct iteration) iterations, count(*) episodes, avg(score) mean, "
            "sum(stop = 'error') errors, sum(stop = 'truncated') truncated, min(offset) first from episodes "
            "group by stage order by first"
        ).fetchall()
    return [dict(row) for row in rows]


def curves(index: Index) -> list[dict[str, Any]]:
    """One curve for each family and learning seat, in parts of one stage each.

    A point is the mean of the episodes played within :data:`WINDOW` iterations, with its 95 % interval clustered by
    group: ``[iteration, mean, low, high, groups, episodes]``. Where all scores of a family lie in 0..1 the interval
    does too (:func:`polyturn.evaluate.stats.bounded_mean`).
    """
    with index.connected() as db:
        rows = db.execute(
            "select stage, family, iteration, grp, score, by_seat from episodes where iteration is not null "
            "and score is not null and stop <> 'error'").fetchall()
        first = dict(db.execute("select stage, min(offset) from episodes group by stage").fetchall())
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, list[float]]]]] = {}
    for stage, family, iteration, group, score, by_seat in map(tuple, rows):
        for seat, value in (("", score),) if by_seat is None else orjson.loads(by_seat).items():
            at = found.setdefault((family, seat), {}).setdefault(stage, {})
            at.setdefault(iteration, {}).setdefault(group, []).append(value)
    return [
        {"family": family, "seat": seat, "parts": [
            {"stage": stage, "points": list(_points(parts[stage]))} for stage in sorted(parts, key=first.__getitem__)]}
        for (family, seat), parts in sorted(found.items())
    ]


def _points(by_iteration: Mapping[int, Mapping[str, Sequence[float]]]) -> Iterator[list[Any]]:
    arrays = {i: [np.array(values) for values in found.values()] for i, found in by_iteration.items()}
    bounded = all(values.min() >= 0 and values.max() <= 1 for found in arrays.values() for values in found)
    estimate = bounded_mean if bounded else clustered_mean
    for i in sorted(by_iteration):
        near: list[Any] = [values for j in range(i - WINDOW // 2, i + WINDOW // 2 + 1) for values in arrays.get(j, ())]
        mean = estimate(near)
        low, high = (None, None) if mean.low != mean.low else (mean.low, mean.high)
        yield [i, mean.mean, low, high, len(near), sum(len(values) for values in near)]


def series(index: Index, *, most: int = 2000) -> dict[str, Any]:
    """All metrics by iteration: ``{"at": [[stage, iteration, time]], "series": {name: [value or null]}, "every"}``.

    Of more than ``most`` iterations every k-th stands here, and the last; ``every`` is k.
    """
    rows = index.metrics()
    every = -(-len(rows) // most) or 1
    kept = [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    names = sorted({name for row in kept for name in row["values"]})
    return {
        "at": [[row["stage"], row["iteration"], row["time"]] for row in kept], "every": every, "count": len(rows),
        "series": {name: [row["values"].get(name) for row in kept] for name in names},
    }
