"""One request to the engine: the ids it starts from, how it is drawn, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from polyturn.errors import BadInput
from polyturn.types import FloatArray, IntArray, Sampling

Trie: TypeAlias = dict[int, Any]
"""Token id -> the trie of what may follow; an empty one ends a reply."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the engine hands back: ids with their log-probabilities and supports."""

    ids: IntArray
    logprobs: FloatArray
    support: tuple[tuple[int, ...], ...] | None
    finish: str
    cached: int
    """Prompt tokens that were read from a cache."""
    version: int


@dataclass(eq=False, slots=True)
class Request:
    """A sequence of ids that grows: ``path[:length]`` is known, ``path[:fed]`` went through the model.

    ``room`` = ids that may be added. ``text`` decodes new ids and is needed for stop strings only.
    """

    path: IntArray
    length: int
    sampling: Sampling
    uniform: Callable[[], float]
    """The request's own numbers in [0, 1): its draws depend on nothing else."""
    room: int
    stop_ids: frozenset[int] = frozenset()
    trie: Trie | None = None
    text: Callable[[Sequence[int]], str] | None = None
    score: Callable[[int, Any], None] | None = None
    """Of a path that is only scored: takes (position, logits at it and after) as they come, from ``first`` on."""
    first: int = 0
    prompt: int = 0
    fed: int = 0
    cached: int = -1
    slot: int = -1
    order: int = 0
    own_cache: Any = None
    logprobs: list[float] = field(default_factory=list)
    support: list[tuple[int, ...]] = field(default_factory=list)
    finish: str = ""
    future: Future[Outcome] = field(default_factory=Future)

    @property
    def pending(self) -> int:
        """Ids that are known and not yet fed."""
        return self.length - self.fed

    def ids(self) -> IntArray:
        """The ids added so far."""
        return self.path[self.prompt : self.length].copy()

    def add(self, token: int, logprob: float, support: tuple[int, ...]) -> None:
        """Appends a drawn id, then all ids that the trie leaves no choice about (log-probability 0), and sets
        ``finish`` where the reply ends."""
        self._append(token, logprob, support)
        self.add_forced()

    def add_forced(self) -> None:
        """Appends the ids that have no alternative."""
        while not self.finish and self.trie is not None and len(self.trie) == 1:
            token = next(iter(self.trie))
            self._append(token, 0.0, (token,))

    def _append(self, token: int, logprob: float, support: tuple[int, ...]) -> None:
        self.path[self.length] = token
        self.length += 1
        self.logprobs.append(logprob)
        self.support.append(support)
        if self.trie is not None:
            self.trie = self.trie[token]
        self.finish = self._finish(token)

    def _finish(self, token: int) -> str:
        if token in self.stop_ids or self.trie == {} or self._said_stop():
            return "stop"
        return "length" if self.length - self.prompt >= self.room else ""

    def _said_stop(self) -> bool:
        if not self.sampling.stop or self.text is None:
            return False
        said = self.text(self.path[self.prompt : self.length].tolist())
        return any(stop in said for stop in self.sampling.stop)

    def outcome(self, version: int) -> Outcome:
        """The reply as it stands."""
        masked = any(self.support)
        return Outcome(
            self.ids(), np.array(self.logprobs, np.float64), tuple(self.support) if masked else None,
            self.finish or "abort", max(self.cached, 0), version,
        )


def drawn_request(
    prompt: IntArray, sampling: Sampling, *, seed: int, limit: int, stop_ids: Sequence[int],
    choices: Sequence[IntArray] | None = None, text: Callable[[Sequence[int]], str] | None = None,
) -> Request:
    """A request for a reply to ``prompt``; the reply ends at the latest where the model's ``limit`` is reached."""
    room = min(sampling.max_tokens, limit - len(prompt))
    path = np.empty(len(prompt) + max(room, 0), np.int32)
    path[: len(prompt)] = prompt
    request = Request(
        path, len(prompt), sampling, np.random.default_rng(seed).random, room, frozenset(stop_ids),
        None if choices is None else trie_of(choices), text, prompt=len(prompt),
    )
    request.add_forced()
    return request


def scored_request(ids: IntArray, score: Callable[[int, Any], None], *, first: int = 0) -> Request:
    """A request that adds nothing and hands the logits after each of ``ids``, from ``first`` on, to ``score``."""
    path = np.asarray(ids, np.int32)
    return Request(path, len(path), Sampling(), lambda: 0.0, 0, score=score, first=first, prompt=len(path))


def trie_of(choices: Sequence[IntArray]) -> Trie:
    """The trie of the allowed replies.

    >>> import numpy as np
    >>> trie_of([np.array([5, 2], np.int32), np.array([5, 6, 2], np.int32)])
    {5: {2: {}, 6: {2: {}}}}

    Raises: BadInput where one reply is empty or the beginning of another, so that its end could not be seen.
    """
    root: Trie = {}
    for ids in choices:
        node = root
        for token in ids.tolist():
            node = node.setdefault(int(token), {})
        node[-1] = {}
    _check_ends(root, 0)
    return root


def _check_ends(node: Trie, depth: int) -> None:
    if -1 in node:
        if len(node) > 1 or depth == 0:
            raise BadInput("one of the choices is empty or the beginning of another; end each with the end-of-turn id")
        del node[-1]
    for child in node.values():
        _check_ends(child, depth + 1)
