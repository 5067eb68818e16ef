"""Preferences between dialogues that look at one turn of them: the last.

A preference update of whole trajectories in which only the last turn has weight (axolotl issue 1645), or whose
dialogues were cut so that all but the last reply stand in the prompt as plain text, is single-turn DPO: what was said
before is never chosen or rejected.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polyturn.audit.found import fault
from polyturn.audit.update import Update
from polyturn.types import Finding


def last_turn_only(update: Update) -> Iterator[Finding]:
    """One finding for a preference update (a reference, and advantages of -1 and 1 alone), at the first token of
    a reply that should have had a say. Stored turns that are answered again (``Episode.parent``) are single turns on
    purpose."""
    held = update.held_N
    signs = update.advantage_N[held]
    if not len(signs) or set(np.unique(np.sign(signs[signs != 0]))) != {-1.0, 1.0}:
        return
    if (np.abs(signs[signs != 0]) != 1).any() or np.isnan(update.reference_N).all():
        return
    tokens = update.tokens
    rows, turns = tokens.trajectory_N, tokens.turn_N
    last_B = np.full(len(tokens.trajectories), -1)
    np.maximum.at(last_B, rows[held], turns[held])
    earlier_N = held & (turns < last_B[rows])
    trained_N = update.weight_N != 0
    if earlier_N.any() and not trained_N[earlier_N].any() and trained_N[held & ~earlier_N].any():
        n = int(np.flatnonzero(earlier_N)[0])
        count = len(np.unique(rows[earlier_N]))
        yield fault("last_turn_only", update.place(n), count, f"of {count} dialogues of several turns only the last "
                    "turn is compared: this is single-turn DPO")
        return
    cut = [b for b in np.unique(rows[held]).tolist() if _cut(update, b)]
    if cut and len(cut) == len(np.unique(rows[held])):
        yield fault("last_turn_only", update.row_place(cut[0]), len(cut), f"in all {len(cut)} dialogues the earlier "
                    "replies stand in the prompt as plain text, and only the last is compared: this is single-turn DPO")


def _cut(update: Update, b: int) -> bool:
    """Whether a trajectory is one turn whose prompt holds replies that no turn of it wrote."""
    source = update.tokens.trajectories[b]
    turns = source.trajectory.turns
    if len(turns) != 1 or source.episode.parent:
        return False
    shown = (source.trajectory.messages[index] for index in turns[0].prompt)
    return any(message.role == "assistant" for message in shown)
