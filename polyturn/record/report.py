"""``report.html`` of a run: the final table with intervals, curves, and a few dialogues coloured by advantage.

Everything is read from the run folder: the tables, ``run.json`` and, where the recipe left it, ``results.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record import curves
from polyturn.record.charts import compact, interval
from polyturn.record.curves import Played
from polyturn.record.dialogues import as_dialogue
from polyturn.record.page import page, section, tile
from polyturn.record.read import read_credit, read_metrics, read_plays
from polyturn.record.run import RunInfo, is_locked, read_info, write_whole

BEFORE, AFTER = ("null", "random", "base"), ("oracle",)
LEARNED = ("stage",)
"""Rows of the table whose name begins so are those that this run trained."""


@dataclass(slots=True)
class Facts:
    """What a report is made of, gathered in one pass over the record."""

    info: RunInfo
    status: str
    metrics: list[dict[str, Any]]
    results: Mapping[str, Any]
    played: list[Played] = field(default_factory=list)
    episodes: int = 0
    turns: int = 0
    tokens: int = 0
    seconds: float = 0.0


def write_report(folder: Path | str) -> Path:
    """The path of the report that was written into the run folder. Also for a run that goes on or broke off.

    Raises: BadInput for a folder without a run, a damaged table or a ``results.json`` that is no JSON object.
    """
    folder = Path(folder)
    facts = gather(folder)
    body = "".join((
        _head(facts), _results(facts), curves.score_section(facts.played, facts.metrics),
        curves.rate_section(facts.played, facts.metrics), _dialogues(folder, facts), _about(facts),
    ))
    path = folder / "report.html"
    write_whole(path, page(f"{facts.info.recipe or 'run'} · {facts.info.id}", body).encode())
    return path


def gather(folder: Path) -> Facts:
    """Reads the record once."""
    info = read_info(folder)
    status: str = info.status
    if status == "running" and not is_locked(folder):
        status = "killed"
    facts = Facts(info, status, read_metrics(folder), _saved_results(folder / "results.json"))
    stages = {(row["stage"], row["iteration"]): i for i, row in enumerate(facts.metrics)}
    trained = {_credit_key(row) for row in read_credit(folder) if row["weight"].any()}
    last = info.started
    for key, episode in read_plays(folder):
        facts.episodes += 1
        turns = [turn for trajectory in episode.trajectories for turn in trajectory.turns]
        facts.turns += len(turns)
        facts.tokens += sum(len(s.ids) for t in episode.trajectories for s in t.spans if s.sampled)
        was_trained = key in trained or episode.id in trained
        facts.played.append(curves.played(key, episode, stages, trained=was_trained))
        last = max(last, episode.ended)
    last = max([last, *(row["time"] for row in facts.metrics), *(a.ended for a in info.attempts if a.ended)])
    facts.seconds = last - info.started
    return facts


def _credit_key(row: Mapping[str, Any]) -> tuple[int, int] | str:
    """The play that a row of credit is for, or the episode's id where the play is not known."""
    return row["episode"] if row["play"] is None else (row["attempt"], row["play"])


def _saved_results(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON ({error}); remove it, or run the evaluation again") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds a {type(found).__name__}; expected an object with the key 'table'")
    return found


# ---------------------------------------------------------------- head and end


def _head(facts: Facts) -> str:
    info = facts.info
    begun = datetime.fromtimestamp(info.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
    resumed = f", begun {len(info.attempts)} times" if len(info.attempts) > 1 else ""
    tiles = [
        tile(_span_of(facts.seconds), "time"), tile(f"{len(facts.metrics):,}", "iterations"),
        tile(f"{facts.episodes:,}", "episodes"), tile(f"{facts.turns:,}", "turns"),
        tile(f"{facts.tokens:,}", "sampled tokens"),
    ]
    if isinstance(facts.results.get("peak_bytes"), (int, float)):
        tiles.append(tile(f"{facts.results['peak_bytes'] / 2**30:.1f} GiB", "most memory"))
    reason = facts.info.attempts[-1].reason if facts.info.attempts else ""
    why = f'<p class="error" style="padding:0">{escape(reason)}</p>' if reason else ""
    return (
        f'<div class="head"><h1>{escape(info.recipe or "Run")}</h1><span class="status {escape(facts.status)}">'
        f'{escape(facts.status)}</span></div><p class="quiet">{escape(info.id)} · {begun}{resumed}</p>{why}'
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _span_of(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _about(facts: Facts) -> str:
    info = facts.info
    rows = {**info.settings, **{f"seed {name}": value for name, value in info.seeds.items()}}
    table = _pairs(rows)
    packages = _pairs({**info.versions, "code sha256": info.code_sha256[:16]})
    text = f"<details><summary>Recipe</summary><pre>{escape(info.text)}</pre></details>" if info.text else ""
    return section(
        "How it was run", "Settings and versions; the run folder alone is enough to repeat it.",
        f'<details><summary>Settings</summary><div class="scroll"><table>{table}</table></div></details>'
        f'<details><summary>Versions</summary><div class="scroll"><table>{packages}</table></div></details>{text}',
    )


def _pairs(rows: Mapping[str, Any]) -> str:
    return "".join(f"<tr><td>{escape(k)}</td><td><code>{escape(str(v))}</code></td></tr>" for k, v in rows.items())


# ---------------------------------------------------------------- results


def _results(facts: Facts) -> str:
    table = _in_order(facts.results.get("table") or {})
    if not table:
        return section("Result", "", '<p class="quiet">No results were saved: no evaluation has ended.</p>')
    names = list(dict.fromkeys(name for stage in table.values() for name in stage["environments"]))
    body = "".join(
        f'<tr{_learned(stage)}><td>{escape(stage)}</td>'
        + "".join(f"<td>{_cell(row['environments'].get(name))}</td>" for name in names)
        + f'<td class="whole">{_cell(row["mixture"], 7)}</td></tr>'
        for stage, row in table.items()
    )
    return section(
        "Result", "Mean score on held-out tasks, 0 to 1, with its 95 % interval.",
        _wide(names, body) + _differences(facts.results.get("paired") or {}, names) + _costs(table)
        + _exploitability(facts.results.get("exploitability") or {}),
    )


def _in_order(table: Mapping[str, Any]) -> dict[str, Any]:
    """The rows from the weakest that a reader expects to the strongest; the rest between, by name."""
    names = [*BEFORE, *sorted(table.keys() - {*BEFORE, *AFTER}), *AFTER]
    return {name: table[name] for name in names if name in table}


def _wide(names: Sequence[str], body: str) -> str:
    """A table with a column for each environment and one for the mixture."""
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    return (f'<div class="scroll"><table class="tall"><thead><tr><th></th>{head}<th class="whole">mixture</th></tr>'
            f"</thead><tbody>{body}</tbody></table></div>")


def _learned(stage: str) -> str:
    return ' class="learned"' if stage.startswith(LEARNED) else ""


def _cell(row: Mapping[str, Any] | None, colour: int = 0) -> str:
    if row is None or row.get("mean") is None:
        return '<span class="quiet">–</span>'
    mean, low, high = (row[name] if row.get(name) is not None else row["mean"] for name in ("mean", "low", "high"))
    return f"<b>{mean:.2f}</b><small>{low:.2f} – {high:.2f}</small>{interval(mean, low, high, colour=colour)}"


def _differences(paired: Mapping[str, Any], names: Sequence[str]) -> str:
    if not paired:
        return ""
    body = "".join(
        f"<tr><td>{escape(name.replace('_minus_', ' − '))}</td>"
        + "".join(f"<td>{_difference(found['environments'].get(env))}</td>" for env in names)
        + f'<td class="whole">{_difference(found["mixture"])}</td></tr>'
        for name, found in paired.items()
    )
    lead = "Paired differences on the same tasks; green = the interval is clear of zero."
    return f'<p class="lead more">{lead}</p>{_wide(names, body)}'


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("mean") is None or row.get("low") is None:
        return '<span class="quiet">–</span>'
    clear = row["low"] > 0 or row["high"] < 0
    colour = 2 if row["low"] > 0 else 1 if row["high"] < 0 else 7
    mean, low, high = (f"{row[name]:+.2f}".replace("-", "−") for name in ("mean", "low", "high"))
    return (f'<b{" class=clear" if clear else ""}>{mean}</b><small>{low} to {high}</small>'
            f"{interval(row['mean'], row['low'], row['high'], span=(-0.6, 0.6), colour=colour)}")


def _costs(table: Mapping[str, Any]) -> str:
    columns = ("illegal", "turns", "tokens", "seconds", "errors", "abstained", "n_tasks", "n_trials")
    head = "".join(f"<th>{escape(name.replace('n_', ''))}</th>" for name in columns)
    body = "".join(
        f"<tr{_learned(stage)}><td>{escape(stage)}</td>"
        + "".join(f"<td>{compact(row['mixture'].get(name))}</td>" for name in columns) + "</tr>"
        for stage, row in table.items()
    )
    lead = ("How they played, over the whole mixture: share of illegal replies; turns, sampled tokens and seconds an "
            "episode.")
    return (f'<p class="lead more">{lead}</p><div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def _exploitability(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    chips = " ".join(
        f'<span class="chip">{escape(stage)} <b>{compact(value)}</b></span>' for stage, value in found.items())
    return f'<p class="lead more">Exploitability (0 = cannot be beaten on average): {chips}</p>'


# ---------------------------------------------------------------- dialogues


def _dialogues(folder: Path, facts: Facts) -> str:
    picked = curves.pick(facts.played)
    episodes = dict(read_plays(folder, only={play.key for play in picked.values()}))
    credit: dict[Any, dict[tuple[str, str, int], Any]] = {key: {} for key in episodes}
    by_id = {episode.id: key for key, episode in episodes.items()}
    for row in read_credit(folder):
        found = _credit_key(row)
        key = by_id.get(found) if isinstance(found, str) else found
        if key in credit:
            credit[key][row["seat"], row["policy"], row["span"]] = row
    families: set[str] = set()
    blocks = []
    for title, play in picked.items():
        blocks.append(as_dialogue(episodes[play.key], credit[play.key], title=title, score=play.score,
                                  is_open=play.family not in families))
        families.add(play.family)
    lead = ('Worse than expected<span class="scale"></span>better than expected: the advantage of each reply. '
            "Each square is one trained token; rest on it for its numbers.")
    return section("Dialogues", lead, "".join(blocks))
