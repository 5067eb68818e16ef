"""What an ATIF document has to keep: the rules of Harbor's own models, which need a newer Python than this library.

Unknown keys are forbidden outside ``extra``; step ids count from 1; answers of tools name calls of their own step; only
agents think, call and have metrics; embedded trajectories have names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from polyturn.errors import BadInput
from polyturn.record.formats.check import Field, shown

VERSIONS = tuple(f"ATIF-v1.{minor}" for minor in range(9))
KEYS: Mapping[str, tuple[str, ...]] = {
    "document": ("schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics",
                 "continued_trajectory_ref", "extra", "subagent_trajectories"),
    "agent": ("name", "version", "model_name", "tool_definitions", "extra"),
    "step": ("step_id", "timestamp", "source", "model_name", "reasoning_effort", "message", "reasoning_content",
             "tool_calls", "observation", "metrics", "is_copied_context", "llm_call_count", "extra"),
    "call": ("tool_call_id", "function_name", "arguments", "extra"),
    "observation": ("results",),
    "result": ("source_call_id", "content", "subagent_trajectory_ref", "extra"),
    "metrics": ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_usd", "prompt_token_ids",
                "completion_token_ids", "logprobs", "extra"),
    "part": ("type", "text", "source"),
    "source": ("media_type", "path", "duration_sec"),
}
AGENT_ONLY = ("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics")


def check_document(given: Field, *, embedded: bool = False) -> None:
    """Raises: BadInput for the first rule that a document breaks, with its place."""
    _known(given, "document")
    if given.value.get("schema_version", VERSIONS[-1]) not in VERSIONS:
        raise BadInput(f"{given.where}.schema_version: is {shown(given.value['schema_version'])}; expected one of "
                       f"{VERSIONS[0]} to {VERSIONS[-1]}")
    agent = given["agent"]
    _known(agent, "agent")
    agent["name"].text()
    agent["version"].text()
    if embedded:
        given["trajectory_id"].text()
    steps = given["steps"].items()
    if not steps:
        raise BadInput(f"{given.where}.steps: is empty; expected a step")
    for number, step in enumerate(steps, 1):
        if step["step_id"].whole() != number:
            raise BadInput(f"{step.where}.step_id: is {step.value['step_id']}; expected {number}, counted from 1")
        _step(step)
    inner = given.get("subagent_trajectories")
    names = set()
    for document in [] if inner is None else inner.items():
        check_document(document, embedded=True)
        name = document["trajectory_id"].text()
        if name in names:
            raise BadInput(f"{document.where}.trajectory_id: {name!r} stands there twice")
        names.add(name)


def _known(given: Field, kind: str) -> None:
    strange = [key for key in given.object() if key not in KEYS[kind]]
    if strange:
        raise BadInput(f"{given.where}: has {strange[0]!r}; expected {', '.join(KEYS[kind])} (own fields go under "
                       "'extra')")


def _step(step: Field) -> None:
    _known(step, "step")
    source = step["source"].one_of({"system": 0, "user": 0, "agent": 1})
    wrong = [name for name in AGENT_ONLY if step.get(name) is not None]
    if not source and wrong:
        raise BadInput(f"{step.where}.{wrong[0]}: only a step of an agent may have it")
    count = step.get("llm_call_count")
    silent = [name for name in ("metrics", "reasoning_content") if step.get(name) is not None]
    if count is not None and count.whole() == 0 and source and silent:
        raise BadInput(f"{step.where}.{silent[0]}: a step without a model call cannot have it")
    _content(step["message"])
    _time(step.get("timestamp"))
    calls, observed, metrics = step.get("tool_calls"), step.get("observation"), step.get("metrics")
    made = set()
    for call in [] if calls is None else calls.items():
        _known(call, "call")
        call["arguments"].object()
        call["function_name"].text()
        made.add(call["tool_call_id"].text())
    if metrics is not None:
        _known(metrics, "metrics")
        ids, logprobs = metrics.get("completion_token_ids"), metrics.get("logprobs")
        if ids is not None and logprobs is not None and len(ids.items()) != len(logprobs.items()):
            raise BadInput(f"{metrics.where}: {len(ids.items())} completion_token_ids and {len(logprobs.items())} "
                           "logprobs; expected as many of each")
    if observed is not None:
        _known(observed, "observation")
        for result in observed["results"].items():
            _result(result, made)


def _result(result: Field, made: set[Any]) -> None:
    _known(result, "result")
    answers, content = result.get("source_call_id"), result.get("content")
    if answers is not None and answers.text() not in made:
        raise BadInput(f"{answers.where}: {answers.value!r} is no call of this step")
    if content is not None:
        _content(content)


def _content(content: Field) -> None:
    for part in [] if isinstance(content.value, str) else content.items():
        _known(part, "part")
        kind = part["type"].one_of({"text": "text", "image": "source", "audio": "source"})
        if kind == "source":
            _known(part["source"], "source")
        else:
            part["text"].text()


def _time(given: Field | None) -> None:
    if given is not None:
        try:
            datetime.fromisoformat(given.text().replace("Z", "+00:00"))
        except ValueError:
            raise BadInput(f"{given.where}: {given.value!r} is no ISO 8601 time") from None
