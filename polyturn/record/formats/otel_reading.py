"""One trace while its spans are read: chats become turns of the agents that they stand in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from polyturn.errors import BadInput
from polyturn.record.formats.chat import Store, tools_of
from polyturn.record.formats.check import Field, parsed
from polyturn.record.formats.otel_values import read_attributes, read_messages, seconds
from polyturn.types import (
    Episode,
    Finding,
    Message,
    PolicyInfo,
    Sampling,
    Score,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
)

CHATS = {"chat", "text_completion", "generate_content"}
_FINISH: dict[str, Any] = {"stop": "stop", "length": "length", "max_tokens": "length", "tool_call": "tool",
                           "tool_calls": "tool", "abort": "abort"}


@dataclass(slots=True)
class _Grown:
    parent: tuple[str, str] | None
    messages: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    place: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """(how often it stood before in the same context, what it says) -> the message."""

    def context(self, said: list[Message]) -> list[int]:
        """The places of the messages of one context, added where they are new."""
        seen: dict[bytes, int] = {}
        found = []
        for message in said:
            text = orjson.dumps([message.role, [(p.kind, p.text, p.media, p.data) for p in message.parts],
                                 [(c.id, c.name, c.raw) for c in message.calls], message.call_id])
            key = (seen.get(text, 0), text)
            seen[text] = key[0] + 1
            if key not in self.place:
                self.place[key] = len(self.messages)
                self.messages.append(replace(message, id=f"m{len(self.messages)}"))
            found.append(self.place[key])
        return found


class Reading:
    """The agents, turns and scores of one trace; :meth:`know` all spans first, then :meth:`take` them in time order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._spans: dict[str, tuple[str, dict[str, Any]]] = {}
        self._grown: dict[tuple[str, str], _Grown] = {}
        self._scores: dict[str, dict[str, Score]] = {}
        self._conversation = self._trace = ""
        self._values: dict[str, Any] = {}
        self._times: list[float] = []
        self._error: str | None = None
        self._at = 0

    def know(self, span: Field) -> None:
        """Notes where a span stands and what it says."""
        values = read_attributes(span.get("attributes"))
        above = span.get("parentSpanId")
        parent = "" if above is None else above.text()
        self._spans[span["spanId"].text()] = (parent, values)
        self._trace = span["traceId"].text()
        self._conversation = self._conversation or str(values.get("gen_ai.conversation.id") or "")
        self._values = {**{k: v for k, v in values.items() if k.startswith("polyturn.")}, **self._values}
        self._times += [seconds(span.get("startTimeUnixNano")), seconds(span.get("endTimeUnixNano"))]
        status = span.get("status")
        if not parent and status is not None and status.value.get("code") in (2, "STATUS_CODE_ERROR"):
            self._error = str(values.get("error.type") or status.value.get("message") or "error")

    def take(self, span: Field) -> int | None:
        """Reads a span; the ``at`` of the turn that it became, None for one that is no chat."""
        values = self._spans[span["spanId"].text()][1]
        events = span.get("events")
        for event in [] if events is None else events.items():
            if event["name"].text() == "gen_ai.evaluation.result":
                self._evaluated(read_attributes(event.get("attributes")), span)
        return self._chat(span, values) if str(values.get("gen_ai.operation.name")) in CHATS else None

    def _agents(self, span: Field) -> list[str]:
        """The names of the agents that a span stands in, outermost first."""
        names = []
        here = span["spanId"].text()
        for _ in range(len(self._spans)):
            here, values = self._spans.get(here, ("", {}))
            if values.get("gen_ai.operation.name") == "invoke_agent":
                names.append(str(values.get("gen_ai.agent.name") or "agent"))
        return names[::-1] or ["agent"]

    def _seat(self, span: Field) -> str:
        """Nested agents are sub-seats; one of ours says its whole seat itself."""
        names = self._agents(span)
        if "/" in names[-1] and all(names[-1].startswith(f"{name}/") for name in names[:-1]):
            return names[-1]
        return "/".join(name.replace("/", "-") or "agent" for name in names)

    def _chat(self, span: Field, values: dict[str, Any]) -> int:
        seat, policy = self._seat(span), str(values.get("gen_ai.request.model") or "model")
        above = next((key for key in reversed(self._grown) if key[0] == seat.rpartition("/")[0]), None)
        grown = self._grown.setdefault((seat, policy), _Grown(above))
        told = read_messages(values.get("gen_ai.input.messages"), f"{span.where}, gen_ai.input.messages", self.store)
        said = read_messages(values.get("gen_ai.output.messages"), f"{span.where}, gen_ai.output.messages", self.store)
        reply = replace(said[0], role="assistant", origin="policy") if said else Message("assistant", origin="policy")
        *prompt, place = grown.context([*told, reply])
        if place in prompt or any(turn.reply == place for turn in grown.turns):
            place = len(grown.messages)  # the same words said again
            grown.messages.append(replace(reply, id=f"m{place}"))
        given = values.get("gen_ai.response.finish_reasons")
        finish = given if isinstance(given, list) and given else [None]
        grown.turns.append(Turn(
            self._at, seat, policy, tuple(prompt), place, (), _FINISH.get(str(finish[0]), "stop"),
            step=len(grown.turns), usage=_usage(values), sampling=_sampling(values, span.where),
            started=seconds(span.get("startTimeUnixNano")), ended=seconds(span.get("endTimeUnixNano"))))
        tools = values.get("gen_ai.tool.definitions")
        if isinstance(tools, str):
            offered = tools_of(Field(parsed(tools, f"{span.where}, gen_ai.tool.definitions"), span.where))
            grown.tools += [tool for tool in offered if tool not in grown.tools]
        self._at += 1
        return self._at - 1

    def _evaluated(self, values: dict[str, Any], span: Field) -> None:
        name, value = str(values.get("gen_ai.evaluation.name") or "evaluation"), values.get(
            "gen_ai.evaluation.score.value")
        label, why = values.get("gen_ai.evaluation.score.label"), values.get("gen_ai.evaluation.explanation")
        seat = str(values.get("polyturn.seat") or self._agents(span)[0])
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        findings = () if why is None else (Finding("explanation", reason=str(why), source=name),)
        self._scores.setdefault(name, {})[seat] = Score(
            number, {"pass": True, "fail": False}.get(str(label)), findings=findings)

    def episode(self, where: str) -> Episode:
        """The episode of what was read. Raises: BadInput for a trace without a chat."""
        if not self._grown:
            raise BadInput(f"{where}: no span of a model call ({', '.join(sorted(CHATS))}) is in this trace")
        trajectories = tuple(
            Trajectory(seat, policy, grown.parent, tuple(grown.messages), tuple(grown.turns), tools=tuple(grown.tools))
            for (seat, policy), grown in self._grown.items())
        values, trial = self._values, self._values.get("polyturn.trial")
        task = Task(str(values.get("polyturn.task.id") or self._conversation or self._trace),
                    str(values.get("polyturn.task.family") or "otel"))
        return Episode(
            self._conversation or self._trace, task, 0, trial=trial if isinstance(trial, int) else 0,
            cast={t.seat: PolicyInfo(t.policy, "endpoint") for t in trajectories}, trajectories=trajectories,
            stop=Stop("done") if self._error is None else Stop("error", self._error), error=self._error,
            scores=self._scores, started=min(self._times), ended=max(self._times),
        )


def _usage(values: dict[str, Any]) -> Usage:
    names = ("gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.output_tokens")
    return Usage(*(value if isinstance(value := values.get(name), int) else 0 for name in names))


def _sampling(values: dict[str, Any], where: str) -> Sampling:
    given = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}
    found: dict[str, Any] = {name: kind(value) for name, kind in given.items()
                             if isinstance(value := values.get(f"gen_ai.request.{name}"), int | float)}
    stops = values.get("gen_ai.request.stop_sequences")
    try:
        return Sampling(**found, stop=tuple(map(str, stops)) if isinstance(stops, list) else ())
    except ValueError as error:
        raise BadInput(f"{where}: {error}") from None
