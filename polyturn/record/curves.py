"""What a report draws over iterations: scores with intervals, rates, and which dialogues are worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from polyturn.json_numbers import whole_or_none
from polyturn.record.charts import Curve, Point, compact, line_chart, sparkline
from polyturn.record.page import card, section
from polyturn.types import Episode, Seat

WINDOW = 5
"""Iterations that one point of a score curve is the mean of."""
_T_975 = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
)
"""Student's t, two-sided 95 %, for 1 to 19 degrees of freedom."""
SINGLE = {
    "rollout/tokens_per_s": "Tokens a second", "learner/entropy": "Entropy of the policy, nats a token",
    "learner/loss": "Loss", "learner/grad_norm": "Norm of the gradient", "learner/kl_old": "KL from the old weights",
}
"""Metrics with a chart of their own, and its title."""
Parts = tuple[tuple[Point, ...], ...]


@dataclass(frozen=True, slots=True)
class Played:
    """An episode in a few numbers."""

    key: tuple[int, int]
    """(attempt, play)."""
    family: str
    group: str
    at: int | None
    """Row of the metrics that it belongs to; None outside training."""
    scores: Mapping[Seat, float]
    """Of the seats that learn; empty for a failed or unscored episode."""
    invalid: int
    turns: int
    trained: bool = False
    """Some of its tokens were trained."""

    @property
    def score(self) -> float | None:
        """The mean over the seats."""
        return float(np.mean(list(self.scores.values()))) if self.scores else None


def played(
    key: tuple[int, int], episode: Episode, stages: Mapping[tuple[str, int], int], *, trained: bool = False
) -> Played:
    """The numbers of an episode. Its group begins with ``<stage>.<iteration>.`` when it was played for training."""
    label = episode.group.rsplit(".", 1)[0]
    stage, _, number = label.rpartition(".")
    iteration = whole_or_none(number)
    at = None if iteration is None else stages.get((stage, iteration))
    turns = sum(not turn.branch for t in episode.trajectories for turn in t.turns)
    invalid = sum(event.kind == "invalid" and not event.branch for event in episode.events)
    return Played(key, episode.task.family, episode.group, at, _scores(episode), invalid, turns, trained)


def _scores(episode: Episode) -> dict[Seat, float]:
    """What the verifier ``score``, or else the first, gave the seats that learn (all seats where none does)."""
    if episode.stop.kind == "error" or not episode.scores:
        return {}
    by_seat = episode.scores.get("score") or next(iter(episode.scores.values()))
    counted = episode.train or by_seat.keys()
    return {seat: score.value for seat, score in by_seat.items() if score.value is not None and seat in counted}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of independent values by Student's t; one value has an interval of itself alone.

    >>> [round(v, 3) for v in mean_interval([0.0, 1.0, 1.0, 1.0])]      # 0.75 -+ 3.18 * 0.5 / sqrt(4)
    [0.75, -0.045, 1.545]
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    t = _T_975[len(values) - 2] if len(values) - 2 < len(_T_975) else 1.96
    half = t * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def score_section(plays: Sequence[Played], metrics: Sequence[Mapping[str, Any]]) -> str:
    """One chart for each environment that was trained on; one curve for each seat that learned there."""
    cards = []
    for i, family in enumerate(sorted({play.family for play in plays if play.at is not None and play.scores})):
        mine = [play for play in plays if play.family == family and play.at is not None]
        seats = sorted({seat for play in mine for seat in play.scores})
        drawn = [Curve(seat, _score_parts(mine, seat, metrics), (i + 3 * k) % 8) for k, seat in enumerate(seats)]
        picture = line_chart(
            drawn, label=f"score of {family} over iterations", y_range=(0, 1), stages=stage_starts(metrics))
        cards.append(card(family.replace("_", " "), picture, legend(drawn) if len(seats) > 1 else ""))
    lead = (f"Score of the training episodes, mean over {WINDOW} iterations, with its 95 % interval over groups. "
            "Seats of self-play are drawn apart.")
    return section("Scores while it learned", lead, f'<div class="grid-cards">{"".join(cards)}</div>' if cards else "")


def legend(drawn: Sequence[Curve]) -> str:
    """Which colour is which curve."""
    names = "".join(f'<span><i class="c{c.colour}"></i>{escape(c.name.replace("_", " "))}</span>' for c in drawn)
    return f'<div class="legend">{names}</div>'


def stage_starts(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """(stage, row of its first iteration)."""
    starts: dict[str, float] = {}
    for i, row in enumerate(metrics):
        starts.setdefault(row["stage"] or "training", float(i))
    return list(starts.items())


def _score_parts(plays: Sequence[Played], seat: Seat, metrics: Sequence[Mapping[str, Any]]) -> Parts:
    """A part for each stage; each point is the mean of the groups played within :data:`WINDOW` iterations."""
    groups: dict[int, dict[str, list[float]]] = {}
    for play in plays:
        if play.at is not None and seat in play.scores:
            groups.setdefault(play.at, {}).setdefault(play.group, []).append(play.scores[seat])
    means = {at: [float(np.mean(scores)) for scores in found.values()] for at, found in groups.items()}
    parts: dict[str, list[Point]] = {}
    for at in sorted(means):
        stage = metrics[at]["stage"]
        near = [v for i in range(at - WINDOW // 2, at + WINDOW // 2 + 1)
                if i in means and metrics[i]["stage"] == stage for v in means[i]]
        mean, low, high = mean_interval(near)
        where = f"{stage} {metrics[at]['iteration']}"
        note = f"{where}: {compact(mean)} ({compact(low)} to {compact(high)}), {len(near)} groups"
        parts.setdefault(stage, []).append(Point(float(at), mean, low, high, note))
    return tuple(tuple(part) for part in parts.values())


def rate_section(plays: Sequence[Played], metrics: Sequence[Mapping[str, Any]]) -> str:
    """Illegal replies by environment, and the metrics that have a chart of their own."""
    families = sorted({play.family for play in plays if play.at is not None})
    illegal = [
        Curve(family, _illegal_parts([p for p in plays if p.family == family], metrics), i % 8)
        for i, family in enumerate(families)
    ]
    stages = stage_starts(metrics)
    picture = line_chart(illegal, label="illegal replies over iterations", stages=stages)
    cards = [card("Illegal replies, share", picture, legend(illegal))]
    for name, title in SINGLE.items():
        curve = Curve(title, _metric_parts(name, metrics), 7)
        cards.append(card(title, line_chart([curve], label=f"{title} over iterations", stages=stages)))
    shown = "".join(cards)
    more = _other_metrics(metrics)
    content = f'<div class="grid-cards">{shown}</div>{more}' if shown or more else ""
    return section("How it went", "By iteration, counted over the whole run.", content)


def _illegal_parts(plays: Sequence[Played], metrics: Sequence[Mapping[str, Any]]) -> Parts:
    counts: dict[int, tuple[int, int]] = {}
    for play in plays:
        if play.at is not None:
            invalid, turns = counts.get(play.at, (0, 0))
            counts[play.at] = (invalid + play.invalid, turns + play.turns)
    parts: dict[str, list[Point]] = {}
    for at in sorted(counts):
        invalid, turns = counts[at]
        point = Point(float(at), invalid / max(turns, 1), note=f"{invalid} of {turns} replies")
        parts.setdefault(metrics[at]["stage"], []).append(point)
    return tuple(tuple(part) for part in parts.values())


def _metric_parts(name: str, metrics: Sequence[Mapping[str, Any]]) -> Parts:
    parts: dict[str, list[Point]] = {}
    for at, row in enumerate(metrics):
        if name in row["values"]:
            note = f"{row['stage']} {row['iteration']}: {compact(row['values'][name])}"
            parts.setdefault(row["stage"], []).append(Point(float(at), row["values"][name], note=note))
    return tuple(tuple(part) for part in parts.values())


def _other_metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Small curves of every metric that has no chart of its own, folded away."""
    names = sorted({name for row in metrics for name in row["values"]} - SINGLE.keys())
    blocks = []
    for name in names:
        values = [row["values"][name] for row in metrics if name in row["values"]]
        blocks.append(f'<div><span title="{escape(name)}">{escape(name)}</span><b>{compact(values[-1])}</b>'
                      f"{sparkline(values)}</div>")
    if not blocks:
        return ""
    return (f"<details><summary>{len(blocks)} more measurements</summary>"
            f'<div class="small">{"".join(blocks)}</div></details>')


def pick(plays: Iterable[Played]) -> dict[str, Played]:
    """Title -> an episode worth reading: for each environment the best and the worst of the last iteration, and the
    worst of the first; of those that were trained on, if there are any."""
    picked: dict[str, Played] = {}
    scored = [play for play in plays if play.at is not None and play.score is not None]
    for family in sorted({play.family for play in scored}):
        mine = sorted((p for p in scored if p.family == family), key=lambda p: (p.at or 0, p.score or 0.0))
        first, last = ([p for p in mine if p.at == end.at and p.trained] or [p for p in mine if p.at == end.at]
                       for end in (mine[0], mine[-1]))
        for title, play in (("last iteration, best", last[-1]), ("last iteration, worst", last[0]),
                            ("first iteration, worst", first[0])):
            if play not in picked.values():
                picked[f"{family.replace('_', ' ')}: {title}"] = play
    return picked
