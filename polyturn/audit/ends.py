"""The token that ends a reply: trained, and the last one.

A model whose end-of-turn token is left out of the mask never learns to stop (TRL pull request 5988). And a token that
stands after the end was not written by the model: the template, a tool or a user said it, and it is learned as if the
model had. Which ids end a reply stands in the cast (:attr:`polyturn.types.PolicyInfo.ends`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polyturn.audit.found import fault
from polyturn.audit.update import Update, info_of
from polyturn.types import Finding, Turn


def untrained_end(update: Update) -> Iterator[Finding]:
    """A finding for each turn that the model ended by itself, of which other tokens are trained and the end is not:
    its weight is 0 though its advantage is not, or it is missing from the tokens."""
    for b, index in _turns(update):
        ends, turn = _ends(update, b), update.turn_of(int(index[0]))
        trained = update.weight_N[index] != 0
        if not ends or not _ended(turn) or not trained.any():
            continue
        last = int(index[-1])
        if int(update.tokens.id_N[last]) not in ends:
            yield fault("untrained_end", update.place(last), int(update.tokens.id_N[last]),
                        f"the reply was ended by the model, and its tokens hold no end (one of {sorted(ends)}): "
                        "when to stop is never learned")
        elif not trained[-1] and abs(update.advantage_N[last]) > 0:
            yield fault("untrained_end", update.place(last), 0.0, f"the token that ends the reply weighs nothing, the "
                        f"{int(trained.sum())} before it do: when to stop is never learned")


def beyond_end(update: Update) -> Iterator[Finding]:
    """A finding for each turn with trained tokens after one that ends a reply: nobody sampled those."""
    for b, index in _turns(update):
        ends = _ends(update, b)
        at = np.flatnonzero(np.isin(update.tokens.id_N[index], list(ends)))
        if len(at) and (update.weight_N[index[at[0] + 1 :]] != 0).any():
            count = int((update.weight_N[index[at[0] + 1 :]] != 0).sum())
            yield fault("beyond_end", update.place(int(index[at[0] + 1])), count, f"{count} trained tokens stand after "
                        "the one that ends the reply: a template, a tool or a user wrote them, not the model")


def _turns(update: Update) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Trajectory and the sampled tokens of each turn, in order."""
    tokens = update.tokens
    index = np.flatnonzero(tokens.sampled_N)
    if not len(index):
        return
    cuts = np.flatnonzero((np.diff(tokens.trajectory_N[index]) != 0) | (np.diff(tokens.turn_N[index]) != 0)) + 1
    for part in np.split(index, cuts):
        yield int(tokens.trajectory_N[part[0]]), part


def _ends(update: Update, b: int) -> frozenset[int]:
    info = info_of(update.tokens.trajectories[b])
    return frozenset(info.ends) if info is not None else frozenset()


def _ended(turn: Turn) -> bool:
    """Whether the model ended the turn by its own token: not by a length, a stop text or a mask of choices."""
    return turn.finish in ("stop", "tool") and not turn.sampling.stop and turn.sampling.choices is None


def knows_ends(update: Update) -> bool:
    """Whether the cast says which ids end the replies of every trajectory that the model sampled."""
    sampled = np.unique(update.tokens.trajectory_N[update.tokens.sampled_N]).tolist()
    return all(_ends(update, b) for b in sampled)
