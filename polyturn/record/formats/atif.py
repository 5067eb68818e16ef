"""ATIF, the Agent Trajectory Interchange Format of Harbor (versions 1.0 to 1.8): one JSON document an episode.

Steps are messages; a tool's answers stand in the step that called. The document is the first trajectory's first
dialogue; other seats, sub-seats and dialogues after a summary are ``subagent_trajectories``, whose steps that were
shown again are ``is_copied_context``. Token ids and log-probabilities of a step stand in its metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from polyturn.errors import BadInput
from polyturn.record.formats.atif_rules import check_document
from polyturn.record.formats.carry import KEY, carried, is_carried, unpacked
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, call_from, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import Dialogue, dialogues, identity
from polyturn.types import (
    Call,
    Episode,
    Message,
    Part,
    PolicyInfo,
    Role,
    Span,
    Stop,
    Task,
    Trajectory,
    Turn,
    Usage,
)

NAME, VERSION = "atif", "ATIF-v1.8"
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "agent": "assistant"}
_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}
_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}


# ---------------------------------------------------------------- in


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a document: the root agent is the seat ``agent``, embedded agents are its sub-seats."""
    check_document(record)
    grown: list[Trajectory] = []
    _grow(record, "agent", None, grown, store)
    extra = record.get("extra")
    held = None if extra is None else extra.object().get(KEY)
    whole = unpacked(held, record.value, NAME, lambda e: list(records([e], Give(store))), record.where, store)
    if whole is not None:
        return [whole]
    session = record.get("session_id")
    task = Task(identity([step.value for step in record["steps"].items()][:1]), NAME)
    cast = {t.seat: PolicyInfo(t.policy, "model" if t.spans else "endpoint") for t in grown}
    return [Episode(identity(record.value), task, 0, "" if session is None else session.text(), cast=cast,
                    trajectories=tuple(grown), stop=Stop("done"), source={"format": NAME})]


def _grow(given: Field, seat: str, parent: tuple[str, str] | None, grown: list[Trajectory], store: Store) -> None:
    """Adds the trajectory of a document and those embedded in it, in order; turns count on over all of them."""
    agent = given["agent"]
    model = agent.get("model_name")
    policy = agent["name"].text() if model is None else model.text()
    reading = _Reading(seat, policy, sum(len(t.turns) for t in grown), store)
    for step in given["steps"].items():
        reading.step(step)
    grown.append(Trajectory(seat, policy, parent, tuple(reading.messages), tuple(reading.turns),
                            tuple(reading.spans), tools=_tools(agent.get("tool_definitions"))))
    inner = given.get("subagent_trajectories")
    for number, embedded in enumerate([] if inner is None else inner.items()):
        _grow(embedded, f"{seat}/{number}", (seat, policy), grown, store)


def _tools(given: Field | None) -> Any:
    try:
        return tools_of(given)
    except BadInput:
        return ()  # of another shape than OpenAI's, which the format only recommends: kept aside


class _Reading:
    """One trajectory while its steps are read."""

    def __init__(self, seat: str, policy: str, at: int, store: Store) -> None:
        self.seat, self.policy, self.at, self.store = seat, policy, at, store
        self.messages: list[Message] = []
        self.turns: list[Turn] = []
        self.spans: list[Span] = []
        self.path: list[int] = []
        """The ids down to the last span."""

    def step(self, given: Field) -> None:
        role = _ROLES[given["source"].text()]
        copied = given.get("is_copied_context")
        count = given.get("llm_call_count")
        own = role == "assistant" and not (copied is not None and copied.flag()) and not (
            count is not None and count.whole() == 0)
        spans = self.tokens(given.get("metrics")) if own else ()
        thought = given.get("reasoning_content")
        parts = [] if thought is None else [Part("reasoning", thought.text())]
        origin: Any = "policy" if own else "copied" if role == "assistant" else "user" if role == "user" else "env"
        calls = given.get("tool_calls")
        found = () if calls is None else tuple(map(_call, calls.items()))
        self.add(role, (*parts, *_parts(given["message"], self.store)), calls=found, origin=origin,
                 spans=tuple((self.seat, self.policy, span) for span in spans))
        if own:
            place = len(self.messages) - 1
            when = _seconds(given.get("timestamp"))
            self.turns.append(Turn(self.at, self.seat, self.policy, tuple(range(place)), place, spans,
                                   "tool" if found else "stop", step=len(self.turns),
                                   usage=_usage(given.get("metrics")), started=when, ended=when))
            self.at += 1
        observed = given.get("observation")
        for result in [] if observed is None else observed["results"].items():
            answers, content = result.get("source_call_id"), result.get("content")
            self.add("tool", () if content is None else _parts(content, self.store), origin="tool",
                     call_id=None if answers is None else answers.text())

    def add(self, role: Role, parts: tuple[Part, ...], **more: Any) -> None:
        self.messages.append(Message(role, parts, f"m{len(self.messages)}", **more))

    def tokens(self, metrics: Field | None) -> tuple[int, ...]:
        """The span of a step's own tokens, behind the prompt that it says it was given."""
        prompt = None if metrics is None else metrics.get("prompt_token_ids")
        own = None if metrics is None else metrics.get("completion_token_ids")
        if metrics is None or prompt is None or own is None:
            return ()
        ids = [item.token() for item in own.items()]
        fed = [item.token() for item in prompt.items()]
        given = metrics.get("logprobs")
        logprobs = [np.nan] * len(ids) if given is None else [item.number() for item in given.items()]
        follows = bool(self.path) and fed[: len(self.path)] == self.path
        parent = len(self.spans) - 1 if follows else -1
        rest = fed[len(self.path):] if follows else fed
        if rest:
            self.spans.append(Span(parent, np.array(rest, np.int32)))
            parent = len(self.spans) - 1
        self.spans.append(Span(parent, np.array(ids, np.int32), True, np.array(logprobs, np.float64)))
        self.path = [*fed, *ids]
        return (len(self.spans) - 1,)


def _call(given: Field) -> Call:
    where = f"{given.where}.arguments"
    return call_from(given["tool_call_id"].text(), given["function_name"].text(), given["arguments"].object(), where)


def _parts(content: Field, store: Store) -> tuple[Part, ...]:
    if isinstance(content.value, str):
        return (Part("text", content.value),) if content.value else ()
    found = []
    for part in content.items():
        if part["type"].text() == "text":
            found.append(Part("text", part["text"].text()))
        else:
            taken = store.taken(part["source"]["path"].text())
            mime = part["source"]["media_type"].text()
            kind: Any = "audio" if part["type"].text() == "audio" else "image"
            found.append(Part(kind, media=taken.media, mime=mime, data=taken.data))
    return tuple(found)


def _usage(metrics: Field | None) -> Usage:
    if metrics is None:
        return Usage()
    whole = {name: metrics.get(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")}
    cost = metrics.get("cost_usd")
    return Usage(**{name: value.whole() for name, value in whole.items() if value is not None},
                 cost_usd=None if cost is None else cost.number())


def _seconds(given: Field | None) -> float:
    """Seconds since 1970 of an ISO 8601 time; 0 where there is none."""
    if given is None:
        return 0.0
    when = datetime.fromisoformat(given.text().replace("Z", "+00:00"))
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


# ---------------------------------------------------------------- out


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One document an episode, with the whole episode in its ``extra`` unless a bare export was asked for."""
    for episode in group:
        chosen = [t for t in episode.trajectories if not give.seats or t.seat in give.seats]
        documents = {(t.seat, t.policy): _documents(t, give.store) for t in chosen if t.messages}
        if not documents:
            continue
        order = [key for key in documents if key[0] in episode.train] or list(documents)
        root, *rest = documents.pop(order[0])
        inner = [*rest, *(document for found in documents.values() for document in found)]
        if (episode.source or {}).get("format") == NAME and not is_carried(episode, NAME, give.bare):
            yield _nested(episode, chosen, give.store)
            continue
        root["session_id"] = episode.group or episode.id
        if inner:
            root["subagent_trajectories"] = inner
        if is_carried(episode, NAME, give.bare):
            said = [message for trajectory in chosen for message in trajectory.messages]
            root["extra"] = {**root.get("extra", {}), KEY: carried(episode, give.store, said)}
        yield root


def _nested(episode: Episode, chosen: Sequence[Trajectory], store: Store) -> dict[str, Any]:
    """A document that was imported, embedded as it was: ``agent/0/1`` stands in ``agent/0``."""
    by_seat = {t.seat: _document(t, _whole(t), 0, store) for t in chosen}
    for seat, document in by_seat.items():
        above = by_seat.get(seat.rpartition("/")[0])
        if above is not None:
            above.setdefault("subagent_trajectories", []).append(document)
    root = next(iter(by_seat.values()))
    return {**root, "session_id": episode.group} if episode.group else root


def _whole(trajectory: Trajectory) -> Dialogue:
    turns = {turn.reply: turn for turn in trajectory.turns}
    return Dialogue(trajectory, trajectory.messages, turns, frozenset(turns))


def _documents(trajectory: Trajectory, store: Store) -> list[dict[str, Any]]:
    found = dialogues(trajectory) or [_whole(trajectory)]
    return [_document(trajectory, dialogue, number, store) for number, dialogue in enumerate(found)]


def _document(trajectory: Trajectory, dialogue: Dialogue, number: int, store: Store) -> dict[str, Any]:
    """A trajectory in the sense of the format: one dialogue of ours."""
    agent: dict[str, Any] = {"name": trajectory.seat, "version": "1", "model_name": trajectory.policy}
    if trajectory.tools:
        agent["tool_definitions"] = tool_dicts(trajectory.tools)
    steps: list[dict[str, Any]] = []
    for place, message in enumerate(dialogue.messages):
        if message.role == "tool":
            _observe(steps, message, store)
        else:
            steps.append(_step(dialogue, place, len(steps) + 1, store))
    name = f"{trajectory.seat}:{trajectory.policy}#{number}"
    return {"schema_version": VERSION, "trajectory_id": name, "agent": agent, "steps": steps}


def _step(dialogue: Dialogue, place: int, number: int, store: Store) -> dict[str, Any]:
    message, turn = dialogue.messages[place], dialogue.turns.get(place)
    step: dict[str, Any] = {"step_id": number, "source": _SOURCES[message.role],
                            "message": _content(message.parts, store)}
    if message.role != "assistant":
        return step
    if message.reasoning:
        step["reasoning_content"] = message.reasoning
    if message.calls:
        step["tool_calls"] = [{"tool_call_id": call.id, "function_name": call.name,
                               "arguments": dict(call.arguments or {})} for call in message.calls]
    if turn is None or place not in dialogue.trained:
        return {**step, "is_copied_context": True}
    if turn.started:
        step["timestamp"] = datetime.fromtimestamp(turn.started, UTC).isoformat().replace("+00:00", "Z")
    metrics = _metrics(dialogue.trajectory, turn)
    return {**step, "metrics": metrics} if metrics else step


def _metrics(trajectory: Trajectory, turn: Turn) -> dict[str, Any]:
    usage = turn.usage
    found: dict[str, Any] = {}
    if usage.prompt_tokens or usage.completion_tokens or usage.cached_tokens:
        found |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
                  "cached_tokens": usage.cached_tokens}
    if usage.cost_usd is not None:
        found["cost_usd"] = usage.cost_usd
    if turn.spans:
        path = trajectory.path(turn.spans[-1])
        first = path.index(turn.spans[0]) if turn.spans[0] in path else len(path) - 1
        ids = [trajectory.spans[index].ids.tolist() for index in path]
        found["prompt_token_ids"] = [id for span in ids[:first] for id in span]
        found["completion_token_ids"] = [id for span in ids[first:] for id in span]
        logprobs = [_logprobs(trajectory.spans[index]) for index in path[first:]]
        known = [value for values in logprobs for value in values]
        if not np.isnan(known).any():
            found["logprobs"] = known
    return found


def _logprobs(span: Span) -> list[float]:
    return [float("nan")] * len(span.ids) if span.logprobs is None else span.logprobs.tolist()


def _observe(steps: list[dict[str, Any]], message: Message, store: Store) -> None:
    """Puts a tool's answer where its call is; without one into the last step, which then names no call."""
    result: dict[str, Any] = {"content": _content(message.parts, store)}
    if not steps:
        steps.append({"step_id": 1, "source": "system", "message": ""})
    holder = steps[-1]
    for step in reversed(steps):
        if message.call_id is not None and any(call["tool_call_id"] == message.call_id
                                               for call in step.get("tool_calls", ())):
            holder, result = step, {"source_call_id": message.call_id, **result}
            break
    holder.setdefault("observation", {"results": []})["results"].append(result)


def _content(parts: Sequence[Part], store: Store) -> Any:
    """Text, or typed parts where a picture or a sound is among them; other media are named in words."""
    shown = [part for part in parts if part.kind != "reasoning"]
    if all(part.kind == "text" for part in shown):
        return "".join(part.text for part in shown)
    found: list[dict[str, Any]] = []
    for part in shown:
        kind = "audio" if part.kind == "audio" else "image"
        if part.kind in ("image", "audio") and (kind == "audio" or (part.mime or "image/png") in _IMAGES):
            source = {"media_type": part.mime or "image/png", "path": store.address(part)}
            found.append({"type": kind, "source": source})
        else:
            found.append({"type": "text", "text": part.text or str(part.data or part.media or "")})
    return found
