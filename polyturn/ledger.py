"""The ledger: spans in, paths out. What was sampled is what is trained.

One :class:`Ledger` for each (seat, policy) of an episode keeps an append-only tree of token spans. A prompt is placed
on the tree: it **extends** a path while it begins with one, and **branches** where it does not. A sampled span has one
owner, the call that made it, however many later prompts show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from polyturn.errors import BadInput, NotTrainable
from polyturn.protocols import Completion, Piece
from polyturn.types import IntArray, Message, Seat, Span


class Ledger:
    """The token tree of one policy in one seat.

    >>> ledger = Ledger("agent", "main")
    >>> leaf = ledger.place([Piece(np.array([1, 2], np.int32))])
    >>> ledger.place([Piece(np.array([1, 2], np.int32)), Piece(np.array([3], np.int32))]), len(ledger.spans)
    (1, 2)
    """

    def __init__(self, seat: Seat, policy: str) -> None:
        self.seat = seat
        self.policy = policy
        self.spans: list[Span] = []
        self._rendered: dict[int, list[int]] = defaultdict(list)
        """Parent span -> its children that were not sampled."""

    def quote(self, spans: Sequence[Span]) -> None:
        """Begins the tree with another trajectory's spans, as text that nobody here sampled; their places stay the
        same, so that its messages are spliced as the ids they were sampled as. Raises: BadInput for a tree that has
        begun."""
        if self.spans:
            raise BadInput(f"the ledger of seat {self.seat!r} has {len(self.spans)} spans; quote before the first call")
        for index, span in enumerate(spans):
            self.spans.append(Span(span.parent, span.ids, media=span.media))
            self._rendered[span.parent].append(index)

    def place(self, prompt: Sequence[Piece]) -> int:
        """The leaf span under which the reply to ``prompt`` belongs (-1: no prompt), growing the tree where needed.

        An own sampled span in its own place is passed through. Shown anywhere else (a window, a summary) its ids are
        copied there, unsampled: its owner keeps the only trained one.
        """
        at = -1
        run: list[IntArray] = []
        for piece in prompt:
            if self._stands_under(piece, self._rendered_path(at, run, grow=False)):
                self._rendered_path(at, run, grow=True)
                assert piece.span is not None
                at, run = piece.span[2], []
            else:
                run.append(np.asarray(piece.ids, np.int32))
        found = self._rendered_path(at, run, grow=True)
        assert found is not None
        return found

    def write(self, leaf: int, completion: Completion) -> tuple[int, ...]:
        """The span that a reply's ids became under ``leaf``, as a tuple of indices; empty where they are unknown.

        Raises: NotTrainable when ids and log-probabilities differ in number.
        """
        if completion.ids is None or not completion.prompt:
            return ()
        ids, logprobs, support = completion.ids, completion.logprobs, completion.support
        for name, values in (("log-probabilities", logprobs), ("supports", support)):
            if values is not None and len(values) != len(ids):
                raise NotTrainable(f"policy {self.policy!r} gave {len(ids)} ids and {len(values)} {name}")
        span = Span(
            leaf, np.asarray(ids, np.int32), completion.sampled,
            None if logprobs is None else np.asarray(logprobs, np.float64), completion.version, support,
        )
        self.spans.append(span)
        return (len(self.spans) - 1,)

    def written(self, message: Message) -> tuple[Piece, ...] | None:
        """The ids that an own message was sampled as; None for a foreign, edited or untokenized one."""
        if not message.spans or any(span[:2] != (self.seat, self.policy) for span in message.spans):
            return None
        return tuple(Piece(self.spans[span[2]].ids, span) for span in message.spans)

    def _stands_under(self, piece: Piece, parent: int | None) -> bool:
        if piece.span is None or piece.span[:2] != (self.seat, self.policy) or parent is None:
            return False
        return self.spans[piece.span[2]].parent == parent

    def _rendered_path(self, at: int, run: Sequence[IntArray], *, grow: bool) -> int | None:
        """Follows rendered ids down from ``at``; the end, or None if the tree would have to grow and may not."""
        left = [ids for ids in run if len(ids)]
        while left:
            flat = left[0] if len(left) == 1 else np.concatenate(left)
            child = self._longest_child(at, flat)
            if child is None:
                if not grow:
                    return None
                self.spans.append(Span(at, left[0]))
                child = len(self.spans) - 1
                self._rendered[at].append(child)
            at, left = child, _without(left, len(self.spans[child].ids))
        return at

    def _longest_child(self, at: int, flat: IntArray) -> int | None:
        best, most = None, 0
        for child in self._rendered[at]:
            ids = self.spans[child].ids
            if most < len(ids) <= len(flat) and bool((flat[: len(ids)] == ids).all()):
                best, most = child, len(ids)
        return best


def _without(run: list[IntArray], count: int) -> list[IntArray]:
    """The run without its first ``count`` ids, still cut where it was."""
    left = []
    for ids in run:
        if count >= len(ids):
            count -= len(ids)
        else:
            left.append(ids[count:])
            count = 0
    return left
