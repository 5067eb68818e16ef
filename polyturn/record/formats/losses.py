"""What a format keeps of an episode, measured: written, read again, and compared fact by fact.

A *fact* is something that an episode says; :data:`FACTS` reads the facts of one kind from episodes. A kind is kept by a
format if every fact of it comes back, whichever episode it comes back in, and lost if none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import orjson

from polyturn.media import Media
from polyturn.record.formats.catalogue import format_named, part
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.record.formats.exchange import write_foreign
from polyturn.types import Episode, Message, Trajectory, Turn

Verdict = Literal["kept", "partly", "lost"]


def kept(format: str, episodes: Sequence[Episode], media: Media, *, bare: bool) -> dict[str, Verdict]:
    """Kind of fact -> what becomes of it when ``episodes`` are written in a format and read again."""
    written = list(write_foreign(episodes, format, media=media, bare=bare))
    split = part(format, "split")
    fields = [Field(orjson.loads(orjson.dumps(record)), f"record {i}") for i, record in enumerate(written)]
    records = fields if split is None else [record for field in fields for record in split(field)]
    again = [replace(e, source=None) for record in records for e in format_named(format).episodes(record, Store(media))]
    found: dict[str, Verdict] = {}
    for kind, facts in FACTS.items():
        before, after = _counted(facts, episodes), _counted(facts, again)
        back = before & after
        found[kind] = "kept" if before <= after else "partly" if back else "lost"
    return found


def _counted(facts: Callable[[Episode], Iterator[Any]], episodes: Sequence[Episode]) -> set[str]:
    return {repr(fact) for episode in episodes for fact in facts(episode)}


def _trained(episode: Episode) -> Iterator[tuple[Trajectory, Turn]]:
    """The turns of the seats that learn; of an imported episode all."""
    for trajectory in episode.trajectories:
        if not episode.train or trajectory.seat in episode.train:
            yield from ((trajectory, turn) for turn in trajectory.turns)


def _shown(episode: Episode) -> Iterator[Message]:
    """The messages of these turns."""
    for trajectory, turn in _trained(episode):
        yield from (trajectory.messages[index] for index in (*turn.prompt, turn.reply))


def _path(trajectory: Trajectory, turn: Turn) -> list[int]:
    path = trajectory.path(turn.spans[-1]) if turn.spans else ()
    return [id for index in path for id in trajectory.spans[index].ids.tolist()]


def _texts(episode: Episode) -> Iterator[Any]:
    yield from ((m.role, m.text) for m in _shown(episode) if m.text)


def _thoughts(episode: Episode) -> Iterator[Any]:
    yield from ((m.text, m.reasoning) for m in _shown(episode) if m.reasoning)


def _pictures(episode: Episode) -> Iterator[Any]:
    yield from ((p.kind, p.media, p.mime) for m in _shown(episode) for p in m.parts if p.media)


def _calls(episode: Episode) -> Iterator[Any]:
    yield from ((c.name, sorted((c.arguments or {}).items())) for m in _shown(episode) for c in m.calls)


def _raw(episode: Episode) -> Iterator[Any]:
    yield from (c.raw for m in _shown(episode) for c in m.calls)


def _links(episode: Episode) -> Iterator[Any]:
    yield from (("call", c.id, c.name) for m in _shown(episode) for c in m.calls)
    yield from (("answer", m.call_id, m.text) for m in _shown(episode) if m.role == "tool")


def _together(episode: Episode) -> Iterator[Any]:
    yield from (tuple(c.name for c in m.calls) for m in _shown(episode) if len(m.calls) > 1)


def _failed(episode: Episode) -> Iterator[Any]:
    yield from ((m.text, m.status) for m in _shown(episode) if m.role == "tool" and m.status != "ok")


def _tools(episode: Episode) -> Iterator[Any]:
    yield from ((t.name, t.description, sorted(t.parameters)) for x in episode.trajectories for t in x.tools)


def _replies(episode: Episode) -> Iterator[Any]:
    yield from (t.messages[turn.reply].text for t, turn in _trained(episode) if t.messages[turn.reply].text)


def _contexts(episode: Episode) -> Iterator[Any]:
    for t, turn in _trained(episode):
        texts = [t.messages[index].text for index in (*turn.prompt, turn.reply)]
        if any(texts):
            yield texts


def _sampled(episode: Episode) -> Iterator[Any]:
    yield from ([id for i in turn.spans for id in t.spans[i].ids.tolist()] for t, turn in _trained(episode)
                if any(t.spans[i].sampled for i in turn.spans))


def _prompts(episode: Episode) -> Iterator[Any]:
    yield from (_path(t, turn) for t, turn in _trained(episode) if turn.spans)


def _logprobs(episode: Episode) -> Iterator[Any]:
    for t, turn in _trained(episode):
        values = [v for i in turn.spans if t.spans[i].logprobs is not None for v in np.asarray(t.spans[i].logprobs)]
        if values and not np.isnan(values).any():
            yield [float(value) for value in values]


def _versions(episode: Episode) -> Iterator[Any]:
    yield from (s.version for t in episode.trajectories for s in t.spans if s.sampled and s.version)


def _seats(episode: Episode) -> Iterator[Any]:
    yield from ((t.seat, t.parent) for t in episode.trajectories)


def _worth(episode: Episode) -> Iterator[Any]:
    yield from (s.value for by_seat in episode.scores.values() for s in by_seat.values() if s.value is not None)


def _scores(episode: Episode) -> Iterator[Any]:
    yield from ((name, s.value) for name, by_seat in episode.scores.items() for s in by_seat.values())


def _findings(episode: Episode) -> Iterator[Any]:
    yield from ((f.name, f.reason) for by in episode.scores.values() for s in by.values() for f in s.findings)


def _rewards(episode: Episode) -> Iterator[Any]:
    yield from (sorted(turn.rewards.items()) for _, turn in _trained(episode) if turn.rewards)


def _sampling(episode: Episode) -> Iterator[Any]:
    yield from ((turn.sampling.temperature, turn.sampling.top_p, turn.sampling.max_tokens)
                for _, turn in _trained(episode))


def _usage(episode: Episode) -> Iterator[Any]:
    yield from ((turn.usage.prompt_tokens, turn.usage.cached_tokens, turn.usage.completion_tokens)
                for _, turn in _trained(episode) if turn.usage.prompt_tokens)


def _times(episode: Episode) -> Iterator[Any]:
    yield from (round(turn.started, 3) for _, turn in _trained(episode) if turn.started)


def _tasks(episode: Episode) -> Iterator[Any]:
    yield (episode.task.id, episode.task.family)


def _seeds(episode: Episode) -> Iterator[Any]:
    yield episode.seed


def _stops(episode: Episode) -> Iterator[Any]:
    yield episode.stop.kind


def _finals(episode: Episode) -> Iterator[Any]:
    yield sorted((episode.final or {}).items())


FACTS: Mapping[str, Callable[[Episode], Iterator[Any]]] = {
    "texts": _texts, "reasoning": _thoughts, "pictures": _pictures, "tool calls": _calls,
    "the raw text of arguments": _raw, "ids of calls": _links, "several calls in one message": _together,
    "failed tool calls": _failed, "tool definitions": _tools, "which replies are learned": _replies,
    "several contexts": _contexts, "sampled token ids": _sampled, "prompt token ids": _prompts,
    "log-probabilities": _logprobs, "versions of weights": _versions, "seats and sub-seats": _seats, "worth": _worth,
    "scores by name": _scores, "findings": _findings, "rewards by turn": _rewards, "sampling settings": _sampling,
    "token counts": _usage, "times": _times, "task": _tasks, "seed": _seeds, "why it ended": _stops,
    "final state": _finals,
}
"""Kind of fact -> the facts of an episode; those about messages are of the seats that learn."""
