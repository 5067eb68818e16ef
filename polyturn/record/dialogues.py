"""Dialogues as HTML: seats side by side, each reply coloured by the advantage it was given, each token a square.

Blue is better than expected, orange worse, the depth says how much; a token that did not train is hollow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from polyturn.record.charts import compact
from polyturn.types import Episode, Message, Part, Trajectory, Turn

Credit = Mapping[tuple[str, str, int], Mapping[str, Any]]
"""(seat, policy, span) -> the last row of credit of that span."""
LONG = 700
_CONTROL = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421, 13: 0x240D}


def readable(text: str) -> str:
    """Text safe to stand in HTML: escaped, control characters shown as their pictures.

    >>> readable('<b>"x" & \\x1b[1m')
    '&lt;b&gt;&quot;x&quot; &amp; ␛[1m'
    """
    return escape(text.translate(_CONTROL))


def as_dialogue(episode: Episode, credit: Credit, *, title: str, score: float | None, is_open: bool = False) -> str:
    """One episode as a foldable block."""
    scale = _scale(credit)
    columns = "".join(_column(t, episode, credit, scale) for t in episode.trajectories)
    facts = [_stop_chip(episode)]
    if score is not None:
        facts.insert(0, f'<span class="chip">score <b>{compact(score)}</b></span>')
    invalid = sum(event.kind == "invalid" for event in episode.events)
    if invalid:
        facts.append(f'<span class="chip bad">{invalid} illegal</span>')
    return (
        f'<details class="dialogue"{" open" if is_open else ""}><summary><span class="dialogue-title">{readable(title)}'
        f'</span> {"".join(facts)}<span class="quiet id">{readable(episode.id)}</span></summary>'
        f'<div class="seats">{columns}</div>{_ending(episode)}</details>'
    )


def _scale(credit: Credit) -> float:
    """The advantage that is painted in full colour: the largest of the dialogue."""
    sizes = [np.nanmax(np.abs(row["advantage"])) for row in credit.values() if np.isfinite(row["advantage"]).any()]
    return float(max(sizes, default=0.0)) or 1.0


def _stop_chip(episode: Episode) -> str:
    kind = "bad" if episode.stop.kind == "error" else ""
    reason = f": {episode.stop.reason}" if episode.stop.reason else ""
    return f'<span class="chip {kind}">{readable(episode.stop.kind + reason)}</span>'


def _ending(episode: Episode) -> str:
    if episode.error is None:
        return ""
    return f'<p class="error">{readable(episode.error)}</p>'


def _column(trajectory: Trajectory, episode: Episode, credit: Credit, scale: float) -> str:
    paid = episode.paid(trajectory.seat)
    head = (f'<header><b>{readable(trajectory.seat)}</b> <span class="quiet">{readable(trajectory.policy)}</span>'
            f'<span class="quiet paid">paid {compact(paid)}</span></header>')
    shown: set[int] = set()
    blocks = []
    for number, turn in enumerate(trajectory.turns, 1):
        for index in turn.prompt:
            if index not in shown:
                blocks.append(_message(trajectory.messages[index]))
        shown.update((*turn.prompt, turn.reply))
        rows = [credit[key] for key in ((turn.seat, turn.policy, span) for span in turn.spans) if key in credit]
        blocks.append(_reply(turn, trajectory, rows, (number, scale)))
    return f'<section class="seat">{head}{"".join(blocks)}</section>'


def _message(message: Message) -> str:
    return (f'<div class="message {message.role}"><span class="role">{_role(message)}</span>{_parts(message)}</div>')


def _role(message: Message) -> str:
    extra = "" if message.origin in ("env", "policy") else f" · {message.origin}"
    return readable(message.role + (f" {message.name}" if message.name else "") + extra)


def _parts(message: Message) -> str:
    shown = "".join(_part(part) for part in message.parts)
    calls = "".join(f'<code class="call">{readable(call.name)}({readable(call.raw)})</code>' for call in message.calls)
    return (shown + calls) or '<span class="quiet">(empty)</span>'


def _part(part: Part) -> str:
    if part.kind in ("text", "reasoning"):
        text = f'<div class="text {part.kind}" dir="auto">{readable(part.text)}</div>'
        if len(part.text) <= LONG:
            return text
        return f'<details class="long"><summary>{readable(part.text[:120])} …</summary>{text}</details>'
    return f'<span class="quiet">[{part.kind} {readable(part.media or part.text)[:16]}]</span>'


def _reply(
    turn: Turn, trajectory: Trajectory, rows: Sequence[Mapping[str, Any]], where: tuple[int, float]
) -> str:
    number, scale = where
    values = np.concatenate([row["advantage"][row["weight"] != 0] for row in rows]) if rows else np.array([])
    known = values[np.isfinite(values)]
    advantage = float(known.mean()) if len(known) else None
    tokens = "".join(_token(trajectory, row, i, scale) for row in rows for i in range(len(row["weight"])))
    facts = []
    if advantage is not None:
        facts.append(f"advantage <b>{_signed(advantage)}</b>")
    facts += [f"{readable(channel)} <b>{_signed(value)}</b>" for channel, value in turn.rewards.items()]
    facts += [readable(turn.finish)] if turn.finish != "stop" else []
    facts += [readable(turn.purpose)] if turn.purpose != "act" else []
    facts += [f"taken back: {readable(turn.dropped)}"] if turn.dropped else []
    facts += [f"branch {readable(turn.branch)}"] if turn.branch else []
    strip = f'<div class="tokens">{tokens}</div>' if tokens else ""
    return (
        f'<div class="message reply" style="{_paint(advantage, scale)}"><span class="role">reply {number}</span>'
        f'{_parts(trajectory.messages[turn.reply])}{strip}<div class="facts">{" · ".join(facts)}</div></div>'
    )


def _token(trajectory: Trajectory, row: Mapping[str, Any], index: int, scale: float) -> str:
    span = trajectory.spans[row["span"]]
    weight = float(row["weight"][index])
    notes = [f"token {int(span.ids[index])}"]
    for name in ("old", "advantage", "weight", "entropy"):
        if row.get(name) is not None and np.isfinite(row[name][index]):
            label = {"old": "log-prob"}.get(name, name)
            notes.append(f"{label} {compact(float(row[name][index]))}")
    advantage = float(row["advantage"][index])
    paint = _paint(advantage if weight and np.isfinite(advantage) else None, scale)
    return f'<i class="{"" if weight else "idle"}" style="{paint}" title="{escape(" · ".join(notes))}"></i>'


def _paint(advantage: float | None, scale: float) -> str:
    if advantage is None:
        return ""
    depth = round(100 * min(abs(advantage) / scale, 1.0))
    return f"--depth:{depth}%;--hue:var(--{'good' if advantage >= 0 else 'worse'})"


def _signed(value: float) -> str:
    return f"+{compact(value)}" if value > 0 else compact(value)
