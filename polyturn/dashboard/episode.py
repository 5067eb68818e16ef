"""One episode for the page: its record, its tokens as text, its credit, and its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polyturn.dashboard.spelling import Speller
from polyturn.record.index import Index, Key

MOST_TOKENS = 400_000
"""Beyond so many tokens an episode's texts are not spelled."""


def episode_view(folder: Path, index: Index, name: str) -> dict[str, Any]:
    """The episode as recorded, and beside it: ``key``, ``spelled`` (per trajectory and span the text of each token, or
    null where the tokenizer is not kept), ``credit`` (rows by seat, policy and span, the last update's last), ``group``
    (its members in short).

    Raises: UnknownName for an episode that is not recorded.
    """
    key = index.find(name)
    plain = index.plain(key)
    speller = Speller(folder)
    return {
        "key": f"{key[0]}.{key[1]}", "episode": plain, "spelled": _spelled(plain, speller),
        "credit": index.credit(key), "members": members(index, plain["group"], plain["iteration"]),
        "row": _row(index, key),
    }


def members(index: Index, group: str, iteration: int) -> list[dict[str, Any]]:
    """The episodes of a group: key, id, trial, score, stop, turns, tokens."""
    if not group:
        return []
    with index.connected() as db:
        rows = db.execute(
            "select attempt, play, id, trial, score, stop, error, turns, tokens from episodes where grp = ? "
            "order by trial, offset limit 1000", (group,)).fetchall()
    return [{"key": f"{row['attempt']}.{row['play']}", **dict(row)} for row in rows]


def _row(index: Index, key: Key) -> dict[str, Any] | None:
    with index.connected() as db:
        row = db.execute("select * from episodes where attempt = ? and play = ?", key).fetchone()
    return None if row is None else dict(row)


def _spelled(plain: dict[str, Any], speller: Speller) -> list[list[list[str] | None]]:
    count = sum(len(span["ids"]) for t in plain["trajectories"] for span in t["spans"])
    if count > MOST_TOKENS:
        return [[None] * len(t["spans"]) for t in plain["trajectories"]]
    hashes = {info["name"]: info["tokenizer_sha256"] for info in plain["cast"].values()}
    return [
        [speller.spell(span["ids"], hashes.get(t["policy"], "")) for span in t["spans"]] for t in plain["trajectories"]
    ]
