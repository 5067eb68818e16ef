"""Runs for the page: the list, one run whole, and several compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from polyturn.dashboard import query
from polyturn.dashboard.watch import Watch, Watched
from polyturn.errors import PolyturnError
from polyturn.evaluate.stats import bounded_mean, clustered_mean
from polyturn.record.control import SETTINGS, is_paused, orders
from polyturn.record.index import Index
from polyturn.record.run import is_locked

SPARK = 60


def run_rows(watch: Watch) -> list[dict[str, Any]]:
    """The runs, the newest first: name, recipe, status, seed, settings, counts, the last scores and their course."""
    rows = [_broken_row(name, folder, why) for name, (folder, why) in watch.broken.items()]
    for name, watched in list(watch.runs.items()):
        try:
            rows.append(_run_row(name, watched))
        except PolyturnError as error:
            rows.append(_broken_row(name, watched.folder, str(error)))
    return sorted(rows, key=lambda row: -row["started"])


def _run_row(name: str, watched: Watched) -> dict[str, Any]:
    info = watched.info()
    metrics = watched.kept("metrics", watched.index.metrics)
    counts = watched.kept("counts", lambda: _counts(watched.index))
    scores = {key: value for row in metrics for key, value in row["values"].items() if key.startswith("score/")}
    course = [_mean([v for k, v in row["values"].items() if k.startswith("score/")]) for row in metrics]
    known = [value for value in course if value is not None]
    every = -(-len(known) // SPARK) or 1
    ended = info.attempts[-1].ended if info.attempts else None
    now = time.time() if is_locked(watched.folder) else 0.0
    last = ended or now or max([info.started, *(row["time"] for row in metrics[-1:]), counts["ended"] or 0])
    return {
        "name": name, "folder": str(watched.folder), "recipe": info.recipe, "status": watched.status(),
        "seed": info.seeds.get("seed"), "settings": info.settings, "started": info.started,
        "seconds": last - info.started,
        "attempts": len(info.attempts), "iterations": len(metrics), "scores": scores, "course": known[::every],
        "progress": _progress(watched), "trouble": watched.trouble, **counts,
    }


def _broken_row(name: str, folder: Path, why: str) -> dict[str, Any]:
    """A run that cannot be read, beside those that can."""
    return {
        "name": name, "folder": str(folder), "recipe": "", "status": "unreadable", "seed": None, "settings": {},
        "started": 0.0, "seconds": 0.0, "attempts": 0, "iterations": 0, "scores": {}, "course": [],
        "progress": {"read": 0, "there": 0, "damaged": 0, "whole": True}, "trouble": why, "episodes": 0, "turns": 0,
        "tokens": 0, "errors": 0, "ended": None,
    }


def _progress(watched: Watched) -> dict[str, Any]:
    found = watched.progress
    return {"read": found.read, "there": found.there, "damaged": found.damaged, "whole": found.whole}


def _counts(index: Index) -> dict[str, Any]:
    with index.connected() as db:
        row = db.execute("select count(*) episodes, sum(turns) turns, sum(tokens) tokens, sum(stop = 'error') errors, "
                         "max(ended) ended from episodes").fetchone()
    return dict(row)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def run_view(name: str, watched: Watched) -> dict[str, Any]:
    """One run: what its row in the list says, and its attempts, versions, stages, axis, results and open plays."""
    info = watched.info()
    return {
        **_run_row(name, watched), "id": info.id, "text": info.text, "seeds": info.seeds, "versions": info.versions,
        "code_sha256": info.code_sha256, "attempt_list": [
            {"number": a.number, "started": a.started, "ended": a.ended, "status": a.status, "reason": a.reason}
            for a in info.attempts],
        "stages": watched.kept("stages", lambda: query.stages(watched.index)),
        "axis": watched.kept("axis", lambda: axis(watched.index)), "results": watched.results(),
        "open": watched.index.open_plays() if is_locked(watched.folder) else [], **_control(watched),
    }


def _control(watched: Watched) -> dict[str, Any]:
    """What was asked of the run, the last first, and whether it waits."""
    info = watched.info()
    told = [{"id": o.id, "command": o.command, "settings": dict(o.settings), "asked": o.asked, "by": o.by,
             "said": o.said} for o in orders(watched.folder)]
    number = info.attempts[-1].number if info.attempts else 0
    return {"orders": told[::-1][:20], "paused": is_locked(watched.folder) and is_paused(watched.folder, number),
            "can_set": list(SETTINGS)}


def axis(index: Index) -> list[list[Any]]:
    """The iterations of all stages in the order in which they were played: ``[stage, iteration]``."""
    first: dict[tuple[str, int], float] = {}
    with index.connected() as db:
        rows = db.execute("select stage, iteration, min(ended) from episodes where iteration is not null "
                          "group by stage, iteration").fetchall()
    for stage, iteration, ended in rows:
        first[stage, iteration] = ended
    for row in index.metrics():
        first.setdefault((row["stage"], row["iteration"]), row["time"])
    return [list(key) for key in sorted(first, key=lambda key: (first[key], key))]


def compared(runs: Mapping[str, Watched]) -> dict[str, Any]:
    """Several runs: row, axis and curves of each, the settings that differ, and what was played outside training."""
    return {
        "runs": [_run_row(name, watched) for name, watched in runs.items()],
        "curves": {name: w.kept("curves", partial(query.curves, w.index)) for name, w in runs.items()},
        "axis": {name: watched.kept("axis", partial(axis, watched.index)) for name, watched in runs.items()},
        "settings": _differing({name: dict(watched.info().settings) for name, watched in runs.items()}),
        "rated": {name: rated(watched.index) for name, watched in runs.items()},
    }


def _differing(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings in which the runs differ: name -> run -> value."""
    names = sorted({name for values in settings.values() for name in values})
    table = {name: {run: values.get(name) for run, values in settings.items()} for name in names}
    return {name: row for name, row in table.items() if len({repr(value) for value in row.values()}) > 1}


def rated(index: Index) -> list[dict[str, Any]]:
    """What was played outside training: for each stage and family the mean score, clustered by group."""
    with index.connected() as db:
        rows = db.execute("select stage, family, grp, score from episodes where iteration is null "
                          "and score is not null and stop <> 'error' order by offset").fetchall()
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault((row["stage"], row["family"]), {}).setdefault(row["grp"], []).append(row["score"])
    return [{"stage": stage, "family": family, **_estimate(list(groups.values()))}
            for (stage, family), groups in found.items()]


def _estimate(groups: Sequence[Sequence[float]]) -> dict[str, Any]:
    unit = all(0 <= score <= 1 for group in groups for score in group)
    mean = (bounded_mean if unit else clustered_mean)(groups)
    known = mean.low == mean.low
    return {"mean": mean.mean, "low": mean.low if known else None, "high": mean.high if known else None,
            "groups": mean.count, "episodes": sum(len(group) for group in groups)}
