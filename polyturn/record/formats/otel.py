"""OpenTelemetry GenAI spans in OTLP/JSON, a trace an episode: agents, their chats, the tools that they called, scores.

``invoke_workflow`` > ``invoke_agent`` > ``chat`` and ``execute_tool``; what verifiers gave are events
``gen_ai.evaluation.result``. Ids follow from the episode's, so that an export is the same each time. The names are
those of the conventions as they stood in 2026, all of which are marked as in development. Spans of one trace may stand
in several lines, as exporters write them; spans that are no chat are kept aside. Tokens are not in these spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput
from polyturn.json_numbers import whole_or_none
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, arguments_text, tool_dicts
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import shown
from polyturn.record.formats.files import read_records
from polyturn.record.formats.otel_reading import Reading
from polyturn.record.formats.otel_values import (
    attributes,
    messages_text,
    nanoseconds,
    span_id,
    trace_id,
)
from polyturn.types import Episode, Trajectory, Turn

NAME, PROVIDER = "otel", "polyturn"
_FINISH = {"tool": "tool_call", "budget": "length"}


def opened(path: Path, bad: list[str] | None) -> Iterator[Field]:
    """One document a trace, gathered over all lines of a file, in the order in which traces begin."""
    traces: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for line in read_records(path, bad=bad):
        try:
            found = [(r.value, s.value, span.value, span["traceId"].text()) for r in line["resourceSpans"].items()
                     for s in r["scopeSpans"].items() for span in s["spans"].items()]
        except BadInput as error:
            if bad is None:
                raise
            bad.append(str(error))
            continue
        for resource, scope, span, name in found:
            places.setdefault(name, line.where)
            _add(traces.setdefault(name, {"resourceSpans": []}), resource, scope, span)
    yield from (Field(trace, places[name]) for name, trace in traces.items())


def _add(trace: dict[str, Any], resource: Mapping[str, Any], scope: Mapping[str, Any], span: Any) -> None:
    """Adds a span to its trace, under the resource and scope that it came with."""
    about = {key: value for key, value in resource.items() if key != "scopeSpans"}
    within = {key: value for key, value in scope.items() if key != "spans"}
    held = trace["resourceSpans"]
    if not held or {k: v for k, v in held[-1].items() if k != "scopeSpans"} != about:
        held.append({**about, "scopeSpans": []})
    scopes = held[-1]["scopeSpans"]
    if not scopes or {k: v for k, v in scopes[-1].items() if k != "spans"} != within:
        scopes.append({**within, "spans": []})
    scopes[-1]["spans"].append(span)


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a trace: every chat is a turn of the agent that it stands in."""
    reading = Reading(store)
    skeleton = json.loads(json.dumps(record.object()))
    spans = [(span, place) for place, span in _spans(record)]
    for span, _ in sorted(spans, key=lambda pair: _start(pair[0])):
        reading.know(span)
    for span, (i, j, k) in sorted(spans, key=lambda pair: _start(pair[0])):
        at = reading.take(span)
        if at is not None:
            skeleton["resourceSpans"][i]["scopeSpans"][j]["spans"][k] = {"chat": at}
    return [replace(reading.episode(record.where), source={"format": NAME, "skeleton": skeleton})]


def _spans(record: Field) -> Iterator[tuple[tuple[int, int, int], Field]]:
    for i, resource in enumerate(record["resourceSpans"].items()):
        for j, scope in enumerate(resource["scopeSpans"].items()):
            for k, span in enumerate(scope["spans"].items()):
                yield (i, j, k), span


def _start(span: Field) -> int:
    text = str(span["startTimeUnixNano"].value)
    found = whole_or_none(text)
    if found is None:
        raise BadInput(f"{span.where}.startTimeUnixNano: is {text[:40]!r}; expected nanoseconds")
    return found


# ---------------------------------------------------------------- out


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One trace an episode."""
    for episode in group:
        chosen = shown(episode, give.seats)
        source = episode.source or {}
        if source.get("format") == NAME and isinstance(source.get("skeleton"), dict):
            chats = {turn.at: _chat(episode, t, turn, give.store) for t in episode.trajectories for turn in t.turns}
            yield _filled(source["skeleton"], chats)
        elif chosen:
            scope = {"scope": {"name": "polyturn"}, "spans": list(_trace(episode, chosen, give.store))}
            about = {"attributes": attributes({"service.name": "polyturn"})}
            yield {"resourceSpans": [{"resource": about, "scopeSpans": [scope]}]}


def _filled(skeleton: Any, chats: Mapping[int, dict[str, Any]]) -> Any:
    """An imported trace with its chats in their places; a chat whose turn is gone is left out."""
    if isinstance(skeleton, list):
        return [_filled(item, chats) for item in skeleton if not _gone(item, chats)]
    if isinstance(skeleton, dict):
        if set(skeleton) == {"chat"}:
            return chats[skeleton["chat"]]
        return {key: _filled(value, chats) for key, value in skeleton.items()}
    return skeleton


def _gone(item: Any, chats: Mapping[int, dict[str, Any]]) -> bool:
    return isinstance(item, dict) and set(item) == {"chat"} and item["chat"] not in chats


def _trace(episode: Episode, chosen: Sequence[Trajectory], store: Store) -> Iterator[dict[str, Any]]:
    ended = episode.ended or max((turn.ended for t in chosen for turn in t.turns), default=0.0)
    failed = episode.stop.kind == "error"
    yield _span(episode, ("workflow",), "", f"invoke_workflow {episode.task.family}", (episode.started, ended), {
        "gen_ai.operation.name": "invoke_workflow", "gen_ai.conversation.id": episode.id,
        "gen_ai.provider.name": PROVIDER, "polyturn.task.id": episode.task.id, "polyturn.task.family":
        episode.task.family, "polyturn.trial": episode.trial, "error.type": episode.stop.reason if failed else None,
    }, events=list(_evaluations(episode, ended)), failed=failed)
    for trajectory in chosen:
        above = ("workflow",) if trajectory.parent is None else ("agent", *trajectory.parent)
        own = ("agent", trajectory.seat, trajectory.policy)
        times = (min(t.started for t in trajectory.turns), max(t.ended for t in trajectory.turns)) if (
            trajectory.turns) else (episode.started, ended)
        yield _span(episode, own, span_id(episode.id, *above), f"invoke_agent {trajectory.seat}", times, {
            "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": trajectory.seat,
            "gen_ai.agent.id": trajectory.seat, "gen_ai.request.model": trajectory.policy,
            "gen_ai.provider.name": PROVIDER, "gen_ai.conversation.id": episode.id})
        for turn in trajectory.turns:
            yield _chat(episode, trajectory, turn, store)
            yield from _tools(episode, trajectory, turn)


def _evaluations(episode: Episode, when: float) -> Iterator[dict[str, Any]]:
    """What verifiers gave, as events; one that abstained has a label and no value."""
    for verifier, by_seat in episode.scores.items():
        for seat, score in by_seat.items():
            why = "; ".join(finding.reason for finding in score.findings if finding.reason)
            label = "abstained" if score.value is None else None if score.success is None else (
                "pass" if score.success else "fail")
            yield {"timeUnixNano": nanoseconds(when), "name": "gen_ai.evaluation.result", "attributes": attributes({
                "gen_ai.evaluation.name": verifier, "gen_ai.evaluation.score.value": score.value,
                "gen_ai.evaluation.score.label": label, "gen_ai.evaluation.explanation": why or None,
                "polyturn.seat": seat})}


def _chat(episode: Episode, trajectory: Trajectory, turn: Turn, store: Store) -> dict[str, Any]:
    """The span of one call of a model."""
    prompt = [trajectory.messages[index] for index in turn.prompt]
    finish = _FINISH.get(turn.finish, turn.finish)
    usage, sampling = turn.usage, turn.sampling
    above = span_id(episode.id, "agent", trajectory.seat, trajectory.policy)
    return _span(episode, ("chat", turn.at), above, f"chat {turn.policy}", (turn.started, turn.ended), {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": turn.policy,
        "gen_ai.response.model": turn.policy, "gen_ai.response.id": f"{episode.id}#{turn.at}",
        "gen_ai.request.temperature": float(sampling.temperature), "gen_ai.request.top_p": float(sampling.top_p),
        "gen_ai.request.max_tokens": sampling.max_tokens, "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stop_sequences": list(sampling.stop) or None, "gen_ai.response.finish_reasons": [finish],
        "gen_ai.usage.input_tokens": usage.prompt_tokens, "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or None,
        "gen_ai.tool.definitions": json.dumps(tool_dicts(trajectory.tools)) if trajectory.tools else None,
        "gen_ai.input.messages": messages_text(prompt, store),
        "gen_ai.output.messages": messages_text([trajectory.messages[turn.reply]], store, finish),
    }, kind=3)


def _tools(episode: Episode, trajectory: Trajectory, turn: Turn) -> Iterator[dict[str, Any]]:
    """The spans of the tools that a reply called, where an answer is known."""
    answers = {message.call_id: message for message in trajectory.messages if message.role == "tool"}
    above = span_id(episode.id, "agent", trajectory.seat, trajectory.policy)
    for number, call in enumerate(trajectory.messages[turn.reply].calls):
        answer = answers.get(call.id)
        if answer is not None:
            yield _span(episode, ("tool", turn.at, number), above, f"execute_tool {call.name}",
                        (turn.ended, turn.ended), {
                            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name,
                            "gen_ai.tool.call.id": call.id, "gen_ai.tool.type": "function",
                            "gen_ai.tool.call.arguments": arguments_text(call), "gen_ai.tool.call.result": answer.text,
                        }, failed=answer.status == "error")


def _span(
    episode: Episode, place: Sequence[object], parent: str, name: str, times: tuple[float, float],
    values: Mapping[str, Any], *, kind: int = 1, events: Sequence[dict[str, Any]] = (), failed: bool = False,
) -> dict[str, Any]:
    found: dict[str, Any] = {"traceId": trace_id(episode.id), "spanId": span_id(episode.id, *place)}
    if parent:
        found["parentSpanId"] = parent
    found |= {"name": name, "kind": kind, "startTimeUnixNano": nanoseconds(times[0]),
              "endTimeUnixNano": nanoseconds(times[1]), "attributes": attributes(values)}
    if events:
        found["events"] = list(events)
    return {**found, "status": {"code": 2}} if failed else found
