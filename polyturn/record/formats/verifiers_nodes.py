"""Between a trajectory's tree of spans and the nodes of a verifiers trace.

Concatenated along a path of nodes, their tokens are what the model saw. An imported node keeps its tokens in spans of
its own; of a played trajectory the tokens between two replies are laid on the messages between them where each has a
span, else on the reply, before what it sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyturn.errors import BadInput
from polyturn.record.formats.chat import Store, arguments_text, dict_of
from polyturn.record.formats.check import Field
from polyturn.types import Message, Span, Trajectory, Turn


class Graph:
    """The messages and spans of a trace while its nodes are read; message i is node i."""

    def __init__(self, who: tuple[str, str]) -> None:
        self.who = who
        self.messages: list[Message] = []
        self.spans: list[Span] = []
        self._parents: list[int] = []
        self._leaf: list[int] = []
        """Per node, the last span on its path; -1 for none."""
        self._own: list[list[int]] = []

    def shape(self) -> dict[str, Any]:
        """How the nodes hang together and whose spans are whose: what a trajectory alone does not say."""
        return {"parents": list(self._parents), "spans": [list(own) for own in self._own]}

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root down to one."""
        found: list[int] = []
        while node >= 0:
            found.append(node)
            node = self._parents[node]
        return tuple(reversed(found))

    def add(self, node: Field, parent: int, message: Message, sampled: bool) -> tuple[int, ...] | None:
        """Adds a node; the spans that it sampled, or None for one that no call wrote."""
        ids = [item.token() for item in _list(node.get("token_ids"))]
        mask = [item.flag() for item in _list(node.get("mask"))]
        given = [item.number() for item in _list(node.get("logprobs"))]
        if len(mask) != len(ids):
            raise BadInput(f"{node.where}: {len(ids)} token_ids and {len(mask)} in its mask; expected as many")
        if given and len(given) != sum(mask):
            raise BadInput(f"{node.where}: {len(given)} logprobs for {sum(mask)} sampled tokens")
        leaf = self._leaf[parent] if parent >= 0 else -1
        drew: list[int] = []
        first, seen = len(self.spans), 0
        for start, end in _runs(mask):
            drawn = sampled and mask[start]
            count = end - start if mask[start] else 0
            logprobs = np.array(given[seen: seen + count] or [np.nan] * (end - start), np.float64)
            seen += count
            self.spans.append(Span(leaf, np.array(ids[start:end], np.int32), drawn, logprobs if drawn else None))
            leaf = len(self.spans) - 1
            drew += [leaf] if drawn else []
        own = list(range(drew[0], drew[-1] + 1)) if drew else []  # what stands between belongs to the turn too
        self._parents.append(parent)
        self._leaf.append(leaf)
        self._own.append(list(range(first, len(self.spans))))
        self.messages.append(message.edited(spans=tuple((*self.who, span) for span in own)))
        return tuple(own) if sampled else None


def _list(given: Field | None) -> list[Field]:
    return [] if given is None else given.items()


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Where equal flags begin and end."""
    cuts = [place for place in range(1, len(flags)) if flags[place] != flags[place - 1]]
    return list(zip([0, *cuts], [*cuts, len(flags)], strict=True)) if flags else []


@dataclass(slots=True)
class _Node:
    parent: int
    message: int
    spans: tuple[int, ...]
    turn: Turn | None = None


def grown(
    trajectory: Trajectory, store: Store, shape: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The nodes of a trajectory, and the node of each kept turn by its ``at``; ``shape``: of an imported trace, what
    :meth:`Graph.shape` said."""
    nodes: list[_Node] = []
    at: dict[tuple[int, int], int] = {}
    if _fits(shape, trajectory):
        nodes = _as_they_were(trajectory, shape)
    else:
        for turn in (turn for turn in trajectory.turns if not turn.branch and not turn.dropped):
            _commit(trajectory, turn, nodes, at)
    places = {node.turn.at: place for place, node in enumerate(nodes) if node.turn is not None}
    return [_written(trajectory, node, store) for node in nodes], places


def _commit(trajectory: Trajectory, turn: Turn, nodes: list[_Node], at: dict[tuple[int, int], int]) -> None:
    """Adds what a turn's prompt and reply bring: nodes are shared while messages and tokens are the same."""
    path = trajectory.path(turn.spans[-1]) if turn.spans else ()
    first = path.index(turn.spans[0]) if turn.spans and turn.spans[0] in path else len(path)
    here, used, known = -1, 0, 0
    for index in turn.prompt:
        found = at.get((here, index))
        if found is None or nodes[found].spans != path[used: used + len(nodes[found].spans)]:
            break
        if used + len(nodes[found].spans) > first:
            break
        here, used, known = found, used + len(nodes[found].spans), known + 1
    fresh, between = turn.prompt[known:], path[used:first]
    each = len(between) in (len(fresh), len(fresh) + 1) and bool(fresh)
    for number, index in enumerate(fresh):
        nodes.append(_Node(here, index, between[number: number + 1] if each else ()))
        at[here, index] = len(nodes) - 1
        here = len(nodes) - 1
    rest = between[len(fresh):] if each else between
    nodes.append(_Node(here, turn.reply, (*rest, *path[first:]), turn))
    at[here, turn.reply] = len(nodes) - 1


def _fits(shape: Mapping[str, Any], trajectory: Trajectory) -> bool:
    """Whether a shape is of these messages and spans, and not of what they were before somebody changed them."""
    parents, spans = shape.get("parents"), shape.get("spans")
    if not isinstance(parents, list) or not isinstance(spans, list):
        return False
    count = len(trajectory.messages)
    named = sorted(span for own in spans for span in own)
    return len(parents) == len(spans) == count and named == list(range(len(trajectory.spans)))


def _as_they_were(trajectory: Trajectory, shape: Mapping[str, Any]) -> list[_Node]:
    """The nodes of an imported trace in their own order."""
    turns = {turn.reply: turn for turn in trajectory.turns}
    pairs = zip(shape["parents"], shape["spans"], strict=True)
    return [_Node(int(parent), index, tuple(spans), turns.get(index)) for index, (parent, spans) in enumerate(pairs)]


def _written(trajectory: Trajectory, node: _Node, store: Store) -> dict[str, Any]:
    spans = [trajectory.spans[index] for index in node.spans]
    own = set(node.turn.spans) if node.turn is not None else set()
    mask = [index in own and span.sampled for index, span in zip(node.spans, spans, strict=True) for _ in span.ids]
    logprobs = [value for index, span in zip(node.spans, spans, strict=True) if index in own and span.sampled
                for value in ([np.nan] * len(span.ids) if span.logprobs is None else span.logprobs.tolist())]
    return {
        "parent": None if node.parent < 0 else node.parent,
        "message": _message(trajectory.messages[node.message], store),
        "sampled": node.turn is not None and (not own or any(mask)),
        "timestamp": 0.0 if node.turn is None else node.turn.ended,
        "token_ids": [id for span in spans for id in span.ids.tolist()], "mask": mask,
        "logprobs": [] if np.isnan(logprobs).any() else logprobs,
    }


def _message(message: Message, store: Store) -> dict[str, Any]:
    """A message as verifiers takes it: every field of its role and no other."""
    given = dict_of(message, store)
    if message.role == "tool":
        given["tool_call_id"] = message.call_id or ""
    elif message.role == "assistant":
        given.pop("name", None)
        content = given["content"]
        given["content"] = content if content is None or isinstance(content, str) else message.text
    else:
        given.pop("name", None)
    if message.calls:
        given["tool_calls"] = [{"id": call.id, "type": "function", "name": call.name,
                                "arguments": arguments_text(call)} for call in message.calls]
    return given
