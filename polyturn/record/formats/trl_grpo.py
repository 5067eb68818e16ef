"""TRL, GRPO: what its rollout function returns: ``prompt_ids, completion_ids, logprobs, env_mask``, and the reward.

One row a path of the token tree. ``env_mask`` is 1 on tokens that were sampled here and that no earlier row holds;
``logprobs`` are those of the distribution sampled from, 0 on all other tokens, null where they are not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polyturn.errors import BadInput
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import episode_of, identity, shown, value_of
from polyturn.types import Episode, Message, Score, Span, Trajectory, Turn

NAME = "trl-grpo"


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a row: a turn for each run of sampled tokens. What they say is not known without a tokenizer,
    so the replies are empty."""
    given = record.get("prompt")
    messages = each(given, store) if given is not None and given.items() else []
    ids = [item.token() for item in record["completion_ids"].items()]
    mask = record.get("env_mask")
    sampled = [True] * len(ids) if mask is None else [item.whole() != 0 for item in mask.items()]
    logprobs = [np.nan if item.value is None else item.number() for item in record["logprobs"].items()]
    if not len(ids) == len(sampled) == len(logprobs) or not any(sampled):
        raise BadInput(f"{record.where}: {len(ids)} completion_ids, {len(sampled)} env_mask and {len(logprobs)} "
                       "logprobs; expected as many of each, and a sampled token")
    prompt = np.array([item.token() for item in record["prompt_ids"].items()], np.int32)
    spans = [Span(-1, prompt)]
    turns: list[Turn] = []
    for start, end in _runs(sampled):
        values = np.array(logprobs[start:end], np.float64)
        piece = np.array(ids[start:end], np.int32)
        spans.append(Span(len(spans) - 1, piece, sampled[start], values if sampled[start] else None))
        if sampled[start]:
            own = len(spans) - 1
            messages.append(Message("assistant", (), f"m{len(messages)}", origin="policy",
                                    spans=(("agent", NAME, own),)))
            place = len(messages) - 1
            turns.append(Turn(place, "agent", NAME, tuple(range(place)), place, (own,), step=len(turns)))
    trajectory = Trajectory("agent", NAME, None, tuple(messages), tuple(turns), tuple(spans))
    reward = record.get("reward")
    return [episode_of(trajectory, id=identity(record.value), format=NAME, kind="model",
                       scores={} if reward is None else {NAME: Score(reward.number())})]


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where a flag begins and where it ends: ``[True, True, False]`` gives (0, 2), (2, 3)."""
    start = 0
    for place in range(1, len(flags) + 1):
        if place == len(flags) or flags[place] != flags[start]:
            yield start, place
            start = place


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a path that ends in tokens that a kept turn sampled."""
    for episode in group:
        for trajectory in shown(episode, give.seats):
            turns = {span: turn for turn in trajectory.turns if not turn.branch and not turn.dropped
                     for span in turn.spans if trajectory.spans[span].sampled}
            done: set[int] = set()
            whole = (episode.source or {}).get("format") == NAME
            paths = [tuple(range(len(trajectory.spans)))] if whole else _paths(trajectory, set(turns))
            for path in paths:
                row = _row(trajectory, path, set(turns) - done)
                first = turns[next(span for span in path if span in turns)]
                messages = [trajectory.messages[index] for index in first.prompt]
                done |= set(path)
                yield {"prompt": [dict_of(message, give.store, arguments="object") for message in messages], **row,
                       "reward": value_of(episode, trajectory.seat)}


def _paths(trajectory: Trajectory, owned: set[int]) -> Iterator[tuple[int, ...]]:
    """The paths down to owned spans that no other owned span stands behind."""
    inner = {above for span in owned for above in trajectory.path(span)[:-1]}
    yield from (trajectory.path(span) for span in sorted(owned - inner))


def _row(trajectory: Trajectory, path: Sequence[int], own: set[int]) -> dict[str, Any]:
    """The ids before the first token that is trained here, then the rest with their log-probabilities and mask."""
    start = next((i for i, span in enumerate(path) if span in own), len(path))
    found: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
    for place, index in enumerate(path):
        span = trajectory.spans[index]
        ids = span.ids.tolist()
        if place < start:
            found["prompt_ids"] += ids
            continue
        found["completion_ids"] += ids
        found["env_mask"] += [int(index in own)] * len(ids)
        known = span.logprobs if index in own and span.logprobs is not None else None
        unknown: Any = None if index in own else 0.0
        found["logprobs"] += [unknown] * len(ids) if known is None else [
            None if np.isnan(value) else float(value) for value in known]
    return found
