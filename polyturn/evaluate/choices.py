"""How likely each of a few replies is, read from a model without playing: for exact values of small games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polyturn.chat import Chat
from polyturn.protocols import Scoring
from polyturn.types import FloatArray, IntArray, Message

Dialogue = tuple[Sequence[Message], Sequence[str]]
"""The messages up to an open ask, and the replies to choose from."""


async def reply_probabilities(
    scorer: Scoring, chat: Chat, dialogues: Sequence[Dialogue], *, masked: bool = False
) -> list[Mapping[str, float]]:
    """Per dialogue, reply -> probability; they sum to 1.

    Not ``masked``: in proportion to ``p(reply) = prod_t p(id_t)``, whole replies with their end of turn. ``masked``: as
    :attr:`polyturn.types.Sampling.choices` draws, each id renormalised over those that some reply goes on with:
    ``prod_t p(id_t) / sum_{allowed} p(id)``. Earlier replies in a dialogue are tokenized from their text.
    """
    paths, spans = [], []
    for messages, replies in dialogues:
        prompt = np.concatenate([piece.ids for piece in chat.encode(messages)])
        spans.append(chat.choices(replies))
        paths += [np.concatenate([prompt, ids]).astype(np.int32) for ids in spans[-1]]
    found = iter(await scorer.logprobs(paths))
    tables: list[Mapping[str, float]] = []
    for (_, replies), ids in zip(dialogues, spans, strict=True):
        rows = [next(found)[-len(one):] for one in ids]
        values = drawn(ids, rows) if masked else np.array([row.sum() for row in rows])
        mass = np.exp(values - values.max())
        tables.append(dict(zip(replies, (mass / mass.sum()).tolist(), strict=True)))
    return tables


def drawn(ids: Sequence[IntArray], rows: Sequence[FloatArray]) -> FloatArray:
    """Per reply, the log-probability under the mask: ``rows`` are the log-probabilities of its ids without one.

    Two replies ``[7, 2]`` and ``[8, 2]`` share what the model gives 7 and 8; the end 2 is then certain.

    >>> drawn([np.array([7, 2]), np.array([8, 2])], [np.log([0.1, 0.5]), np.log([0.3, 0.9])]).round(3).tolist()
    [-1.386, -0.288]
    """
    following: dict[tuple[int, ...], dict[int, float]] = {}
    for reply, row in zip(ids, rows, strict=True):
        for t, (id, logprob) in enumerate(zip(reply.tolist(), row.tolist(), strict=True)):
            following.setdefault(tuple(reply[:t].tolist()), {})[id] = logprob
    sums = {begin: float(np.logaddexp.reduce(list(allowed.values()))) for begin, allowed in following.items()}
    return np.array([
        sum(logprob - sums[tuple(reply[:t].tolist())] for t, logprob in enumerate(row.tolist()))
        for reply, row in zip(ids, rows, strict=True)
    ])
