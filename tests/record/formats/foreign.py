"""Records as others write them, drawn at random: what an importer must read, and give back as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from polyturn.record.formats.exchange import write_foreign
from tests.record.formats.probe import probe

TEXTS = ("", "hello", "1", "naïve café", "漢字 🙂 \U0001f469\u200d\U0001f680",
         'quote " \\ \n\t', "a/b~1", "<think>x", "null")
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Writer:
    """Draws the pieces of a record."""

    def __init__(self, seed: int) -> None:
        self.plain = random.Random(seed)

    def maybe(self, made: Callable[[], Any], chance: float = 0.5) -> dict[str, Any]:
        return made() if self.plain.random() < chance else {}

    def text(self) -> str:
        return self.plain.choice(TEXTS)

    def value(self, depth: int = 2) -> Any:
        kind = self.plain.randrange(8 if depth else 6)
        if kind >= 6:
            items = [self.value(depth - 1) for _ in range(self.plain.randint(0, 3))]
            return items if kind == 6 else {f"{self.text()}{i}": item for i, item in enumerate(items)}
        return [None, True, self.plain.randint(-9, 9), self.plain.random(), self.text(), False][kind]

    def mapping(self) -> dict[str, Any]:
        return {f"k{i}{self.text()}": self.value() for i in range(self.plain.randint(0, 3))}

    def content(self) -> Any:
        kinds: list[Callable[[], Any]] = [
            self.text, self.text, lambda: [{"type": "text", "text": self.text()}],
            lambda: [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
            lambda: [{"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}],
            lambda: [{"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}}],
            lambda: [{"type": "file", "file": {"file_id": "f1"}}],
        ]
        return self.plain.choice(kinds)()

    def arguments(self, objects: bool) -> Any:
        if objects:
            return self.mapping()
        return self.plain.choice([json.dumps(self.mapping()), '{"a":1}', "{}", "{not json", "[1]", ""])

    def calls(self, number: int, objects: bool) -> list[dict[str, Any]]:
        return [{"id": f"call_{number}_{i}", "type": "function", "function": {
            "name": self.plain.choice(["search", "book"]), "arguments": self.arguments(objects)}}
            for i in range(self.plain.randint(1, 3))]

    def tools(self) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {
            "name": name, **self.maybe(lambda: {"description": self.text()}),
            **self.maybe(lambda: {"parameters": {"type": "object", "properties": {}}, "strict": True}),
        }} for name in ("search", "book")[: self.plain.randint(0, 2)]]

    def messages(self, *, objects: bool = False, media: bool = True, last: bool = True) -> list[dict[str, Any]]:
        """A dialogue: perhaps a system message, then users, replies with and without calls, answers of tools."""
        found: list[dict[str, Any]] = []
        if self.plain.random() < 0.5:
            found.append({"role": self.plain.choice(["system", "developer"]), "content": self.text()})
        for number in range(self.plain.randint(1, 4)):
            found.append({"role": "user", "content": self.content() if media else self.text(),
                          **self.maybe(lambda: {"name": "ann"}, 0.2)})
            calls = self.calls(number, objects) if self.plain.random() < 0.4 else []
            if calls:
                found.append({"role": "assistant", "content": self.plain.choice([None, "", "wait"]),
                              "tool_calls": calls})
                found += [{"role": "tool", "tool_call_id": call["id"], "content": self.text(),
                           **self.maybe(lambda: {"name": "search"})} for call in calls]
            found.append({"role": "assistant", "content": self.text(),
                          **self.maybe(lambda: {"reasoning_content": "so"}, 0.2),
                          **self.maybe(lambda: {"refusal": None}, 0.2)})
        return found if last else found[:-1]


def openai(w: Writer) -> Any:
    messages = [{**m, **(w.maybe(lambda: {"weight": w.plain.choice([0, 1])}) if m["role"] == "assistant" else {})}
                for m in w.messages()]
    return {"messages": messages, **w.maybe(lambda: {"tools": w.tools()}),
            **w.maybe(lambda: {"parallel_tool_calls": False})}


def openai_preference(w: Writer) -> Any:
    return {"input": {"messages": w.messages(last=False), "tools": w.tools(), "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": "yes"}],
            "non_preferred_output": [{"role": "assistant", "content": w.text()}]}


def chatml(w: Writer) -> Any:
    return {"messages": w.messages(), **w.maybe(lambda: {"tools": w.tools()}), **w.maybe(lambda: {"reward": 0.5}),
            **w.maybe(lambda: {"task": "t1", "family": "f"}), "free": w.value(), **w.mapping()}


def sharegpt(w: Writer) -> Any:
    turns = []
    for _ in range(w.plain.randint(1, 4)):
        turns.append({"from": "human", "value": w.text()})
        if w.plain.random() < 0.4:
            turns.append({"from": "function_call", "value": w.plain.choice([
                '{"name": "f", "arguments": {"a": 1}}', '{"name":"f","arguments":"{}"}', "f(1)"])})
            turns.append({"from": "observation", "value": w.text()})
        turns.append({"from": "gpt", "value": w.text(), **w.maybe(lambda: {"weight": 1}, 0.2)})
    return {"conversations": turns, **w.maybe(lambda: {"system": w.text()}),
            **w.maybe(lambda: {"tools": w.plain.choice([json.dumps(w.tools()), "[]", "none"])}), **w.mapping()}


def tau_bench(w: Writer) -> Any:
    broke = w.plain.random() < 0.2
    info = {"error": "boom", "traceback": "..."} if broke else {
        "task": {"user_id": "u", "actions": [{"name": "book", "kwargs": w.mapping()}], "outputs": []}, "source": "user",
        "user_cost": 0.001, "reward_info": {"reward": 1.0, "info": w.mapping(), "actions": []}}
    return {"task_id": w.plain.randint(0, 49), "reward": 0.0 if broke else w.plain.choice([0.0, 1.0]), "info": info,
            "traj": [] if broke else w.messages(media=False), "trial": w.plain.randint(0, 3)}


def who_and_when(w: Writer) -> Any:
    hand = w.plain.random() < 0.5
    names = ["Orchestrator (thought)", "WebSurfer", "human"] if hand else ["A/B_Expert", "Checker", "Computer_terminal"]
    history: list[dict[str, str]] = [{"content": w.text(), "role": names[0]}]
    for _ in range(w.plain.randint(0, 6)):
        history.append({"content": w.text(), "role": w.plain.choice(names)})
    if not hand:
        history = [{"content": h["content"], "role": "assistant", "name": h["role"]} for h in history]
    return {"history": history, "question": w.text(), "ground_truth": w.text(), "question_ID": "q1",
            "is_corrected" if hand else "is_correct": False, **w.maybe(lambda: {"system_prompt": {"A": "x"}}),
            "mistake_agent": names[0].split(" (")[0], "mistake_reason": w.text(),
            "mistake_step": str(w.plain.randrange(len(history)))}


def trl_sft(w: Writer) -> Any:
    messages = w.messages(objects=True, media=False)
    tools = w.maybe(lambda: {"tools": w.tools()})
    if w.plain.random() < 0.5:
        return {"messages": messages, **tools, **w.mapping()}
    first = w.plain.randint(0, len(messages) - 1)
    return {"prompt": messages[:first], "completion": messages[first:], **tools}


def trl_preference(w: Writer) -> Any:
    prompt = w.messages(objects=True, last=False, media=False)
    chosen, rejected = [{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "no"}]
    more = w.maybe(lambda: {"tools": w.tools()})
    if w.plain.random() < 0.5:
        return {"chosen": [*prompt, *chosen], "rejected": [*prompt, *rejected], **more}
    return {"prompt": prompt, "chosen": chosen, "rejected": [*rejected, *w.messages(media=False)], **more}


def trl_grpo(w: Writer) -> Any:
    count = w.plain.randint(1, 8)
    mask = [1, *(w.plain.randint(0, 1) for _ in range(count - 1))]
    logprobs = [-w.plain.random() if one else 0.0 for one in mask]
    return {"prompt": w.messages(objects=True, last=False, media=False), "prompt_ids": [1, 2, 3],
            "completion_ids": [w.plain.randint(0, 40000) for _ in mask], "logprobs": logprobs,
            **w.maybe(lambda: {"env_mask": mask}), **w.maybe(lambda: {"reward": w.plain.random()}), **w.mapping()}


def atif(w: Writer, depth: int = 1) -> Any:
    steps: list[dict[str, Any]] = []
    if w.plain.random() < 0.5:
        steps.append({"step_id": 1, "source": "system", "message": w.text()})
    path: list[int] = []
    for number in range(w.plain.randint(1, 4)):
        picture = {"type": "image", "source": {"media_type": "image/png", "path": w.plain.choice([PIXEL, "a/b.png"])}}
        message = w.plain.choice([w.text(), [{"type": "text", "text": w.text()}, picture]])
        steps.append({"step_id": len(steps) + 1, "source": "user", "message": message,
                      **w.maybe(lambda: {"timestamp": "2026-01-02T03:04:05Z", "extra": {"a": 1}})})
        calls = [{"tool_call_id": f"c{number}.{i}", "function_name": "f", "arguments": w.mapping()}
                 for i in range(w.plain.randint(0, 2))]
        results = [{"source_call_id": call["tool_call_id"], "content": w.text()} for call in calls]
        metrics: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": 2, **w.maybe(lambda: {"cost_usd": 0.25})}
        if w.plain.random() < 0.6:
            fed, ids = [*path, 1, 2, number], [7, 8]
            metrics |= {"prompt_token_ids": fed, "completion_token_ids": ids,
                        **w.maybe(lambda: {"logprobs": [-1.5, -0.25]})}
            path = [*fed, *ids] if w.plain.random() < 0.8 else [99]
        steps.append({"step_id": len(steps) + 1, "source": "agent", "message": w.text(),
                      **w.maybe(lambda: {"reasoning_content": "hm"}),
                      **({"metrics": metrics} if w.plain.random() < 0.7 else {}),
                      **({"tool_calls": calls, "observation": {"results": results}} if calls else {}),
                      **w.maybe(lambda: {"is_copied_context": w.plain.random() < 0.5}, 0.2),
                      **w.maybe(lambda: {"timestamp": "2026-01-02T03:04:05.5+02:00"}, 0.3)})
    agent = {"name": "a", "version": "2", **w.maybe(lambda: {"model_name": "m", "tool_definitions": w.tools()})}
    inner = [{**atif(w, depth - 1), "trajectory_id": f"t{i}"} for i in range(w.plain.randint(0, 2))] if depth else []
    return {"schema_version": w.plain.choice(["ATIF-v1.7", "ATIF-v1.8"]), "agent": agent, "steps": steps,
            **w.maybe(lambda: {"session_id": "s", "notes": w.text(), "final_metrics": {"total_steps": 3}}),
            **w.maybe(lambda: {"extra": w.mapping()}), **({"subagent_trajectories": inner} if inner else {})}


def verifiers(w: Writer) -> Any:
    nodes: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []

    def add(parent: int | None, message: dict[str, Any], sampled: bool) -> int:
        scaffold, own = w.plain.randint(0, 2), w.plain.randint(1, 3) if sampled else 0
        mask = [False] * scaffold + [True] * own
        node: dict[str, Any] = {"parent": parent, "message": message, "sampled": sampled, "timestamp": 12.5,
                                "token_ids": [w.plain.randint(0, 99) for _ in mask], "mask": mask, "is_content": []}
        node["logprobs"] = [-w.plain.random() for _ in range(own)] if w.plain.random() < 0.8 else []
        nodes.append({**node, **w.maybe(lambda: {"advantages": None, "semantic_parents": []})})
        if sampled and w.plain.random() < 0.8:
            usage = {"prompt_tokens": 3, "completion_tokens": own, **w.maybe(lambda: {"cached_input_tokens": 2})}
            calls.append({"node": len(nodes) - 1, "model": "m",
                          "finish_reason": w.plain.choice(["stop", "length", None]),
                          "usage": w.plain.choice([usage, None]), "time": {"start": 1.5, "end": 2.5},
                          **w.maybe(lambda: {"sampling": {"temperature": 0.7, "top_p": None}})})
        return len(nodes) - 1

    for _ in range(w.plain.randint(1, 2)):
        here = add(None, {"role": w.plain.choice(["system", "user"]), "content": w.text()}, False)
        for number in range(w.plain.randint(1, 3)):
            asked = add(here, {"role": "user", "content": w.text()}, False)
            arguments = w.plain.choice(['{"a": 1}', "{"])
            call = {"id": f"c{number}", "type": "function", "name": "f", "arguments": arguments}
            here = add(asked, {"role": "assistant", "content": w.text(), "provider_state": None,
                               "reasoning_content": w.plain.choice([None, "so"]),
                               "tool_calls": w.plain.choice([None, [call]])}, True)
            if nodes[here]["message"]["tool_calls"]:
                answer = {"role": "tool", "tool_call_id": f"c{number}", "content": w.text(), "name": None}
                here = add(here, answer, False)
            elif w.plain.random() < 0.3:
                add(asked, {"role": "assistant", "content": "another"}, True)
    return {"version": 1, "id": f"t{w.plain.random()}", "verifiers": {"version": "0.4.0"},
            "task": {"type": "T", "data": {"idx": 3, "answer": w.value()}, "key": w.plain.choice([None, "k"])},
            "agent": {"config": {"model": None}, "name": "solver", "trainable": w.plain.random() < 0.8},
            "tools": [{"type": "function", "name": "f", "description": "", "parameters": {}}], "nodes": nodes,
            "calls": calls, "rewards": {"r": {"score": 0.5, "weight": 2.0}, "n": None}, "metrics": {"turns": 3.0},
            "info": w.mapping(), "stop_condition": w.plain.choice([None, "max_turns"]),
            "errors": w.plain.choice([[], [{"type": "E", "message": w.text(), "traceback": None}]]),
            "timing": {"start": 1.5, "boot": {"start": 1.5, "end": 2.0}}}


def inspect_sample(w: Writer, number: int) -> Any:
    def content() -> Any:
        return w.plain.choice([w.text(), "attachment://abc", [
            {"type": "reasoning", "reasoning": w.text()}, {"type": "text", "text": w.text(), "refusal": None},
            {"type": "image", "image": PIXEL, "detail": "auto"}, {"type": "data", "data": w.mapping()}]])

    messages: list[dict[str, Any]] = [{"id": "x1", "role": "system", "content": w.text()}]
    for k in range(w.plain.randint(1, 3)):
        messages.append({"role": "user", "content": content(), "source": "input"})
        calls = [{"id": f"c{k}", "function": "f", "arguments": w.mapping(), "type": "function",
                  **w.maybe(lambda: {"parse_error": "no"}, 0.2)}]
        asks = w.plain.random() < 0.4
        messages.append({"role": "assistant", "content": content(), "model": "m",
                         **({"tool_calls": calls} if asks else {})})
        if asks:
            messages.append({"role": "tool", "content": w.text(), "tool_call_id": f"c{k}", "function": "f",
                             **w.maybe(lambda: {"error": {"type": "timeout", "message": "late"}}, 0.3)})
    value = w.plain.choice([1.0, 0, "C", "I", "odd", True, {"a": 1}])
    return {"id": w.plain.choice([number, f"s{number}"]), "epoch": w.plain.randint(1, 3), "input": w.text(),
            "target": w.plain.choice(["9", ["a", "b"]]), "messages": messages,
            "output": {"model": "m", "choices": []}, "scores": w.plain.choice([None, {"s": {
                "value": value, **w.maybe(lambda: {"answer": "9", "explanation": w.text()})}}]),
            "attachments": {"abc": "long text"}, "events": [{"event": "info", "data": w.value()}],
            **w.maybe(lambda: {"uuid": f"u{w.plain.random()}", "started_at": "2026-01-02T03:04:05.25+00:00"}),
            **w.maybe(lambda: {"error": {"message": "boom", "traceback": "", "traceback_ansi": ""}}, 0.2),
            **w.maybe(lambda: {"limit": {"type": "token", "limit": 9}}, 0.2), "metadata": w.mapping()}


def inspect(w: Writer) -> Any:
    return {"version": 2, "status": "success", "eval": {"created": "2026-01-02T03:04:05+00:00", "task": "t",
            "dataset": {"name": "d"}, "model": "m", "config": {"epochs": 2}, "run_id": w.text()},
            **w.maybe(lambda: {"results": {"total_samples": 2, "completed_samples": 2, "scores": []}}),
            "samples": [inspect_sample(w, i) for i in range(w.plain.randint(1, 3))]}


def otel(w: Writer) -> Any:
    """A trace as a collector writes it: ids and order of its own, spans of other kinds among the chats."""
    trace = f"{w.plain.getrandbits(128):032x}"
    spans: list[dict[str, Any]] = []

    def span(parent: str | None, name: str, **values: Any) -> str:
        id = f"{w.plain.getrandbits(64):016x}"
        start = 1_700_000_000_000_000_000 + 1000 * len(spans)
        spans.append({"traceId": trace, "spanId": id, **({} if parent is None else {"parentSpanId": parent}),
                      "name": name, "kind": 3, "startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 500),
                      "attributes": [{"key": key, "value": value} for key, value in values.items()],
                      **w.maybe(lambda: {"flags": 257}, 0.3)})
        return id

    root = span(None, "invoke_agent planner", **{
        "gen_ai.operation.name": {"stringValue": "invoke_agent"}, "gen_ai.agent.name": {"stringValue": "planner"},
        "gen_ai.conversation.id": {"stringValue": f"conversation {trace}"}})
    history: list[dict[str, Any]] = [{"role": "user", "parts": [{"type": "text", "content": w.text()}]}]
    for number in range(w.plain.randint(1, 3)):
        call = {"type": "tool_call", "id": f"c{number}", "name": "f", "arguments": w.mapping()}
        asks = w.plain.random() < 0.5
        reply = {"role": "assistant", "parts": [{"type": "text", "content": w.text()}, *([call] if asks else [])]}
        content = {
            "gen_ai.input.messages": {"stringValue": json.dumps(history)},
            "gen_ai.output.messages": {"stringValue": json.dumps([{**reply, "finish_reason": "stop"}])},
        } if w.plain.random() < 0.8 else {}
        span(root, "chat m", **{
            "gen_ai.operation.name": {"stringValue": "chat"}, "gen_ai.request.model": {"stringValue": "m"},
            "gen_ai.usage.input_tokens": {"intValue": "7"}, "gen_ai.request.temperature": {"doubleValue": 0.5},
            "gen_ai.response.finish_reasons": {"arrayValue": {"values": [{"stringValue": "stop"}]}}, **content})
        history = [*history, reply]
        if asks:
            span(root, "execute_tool f", **{"gen_ai.operation.name": {"stringValue": "execute_tool"}})
            answer = {"type": "tool_call_response", "id": f"c{number}", "response": w.text()}
            history = [*history, {"role": "tool", "parts": [answer]}]
        history = [*history, {"role": "user", "parts": [{"type": "text", "content": f"go on {number}"}]}]
    spans[0]["events"] = [{"timeUnixNano": "1700000000000000001", "name": "gen_ai.evaluation.result", "attributes": [
        {"key": "gen_ai.evaluation.name", "value": {"stringValue": "relevance"}},
        {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.25}},
        {"key": "gen_ai.evaluation.explanation", "value": {"stringValue": w.text()}}]}]
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [
        {"scope": {"name": "other"}, "spans": spans, **w.maybe(lambda: {"schemaUrl": "x"})}]}]}


def polyturn(w: Writer) -> Any:
    """A row of the closed view with texts and numbers of any kind."""
    episode = probe(w.plain.randint(0, 9), w.plain.random())
    task = replace(episode.task, id=w.text(), payload=w.mapping())
    blind = tuple(replace(t, messages=tuple(replace(m, parts=tuple(p for p in m.parts if p.media is None))
                                            for m in t.messages)) for t in episode.trajectories)
    changed = replace(episode, id=f"e{w.plain.random()}", task=task, final=w.mapping(), trajectories=blind,
                      error=w.plain.choice([None, ""]),
                      source=w.plain.choice([None, {"format": "x", "residual": {"set": w.mapping(), "drop": []}}]))
    return next(write_foreign([changed], "polyturn"))


WRITERS: dict[str, Callable[[Writer], Any]] = {
    "polyturn": polyturn,
    "openai": openai, "openai-preference": openai_preference, "chatml": chatml, "sharegpt": sharegpt,
    "trl-sft": trl_sft, "trl-preference": trl_preference, "trl-grpo": trl_grpo, "verifiers": verifiers,
    "inspect": inspect, "atif": atif, "otel": otel, "tau-bench": tau_bench, "who-and-when": who_and_when,
}


def drawn(format: str, count: int) -> list[Any]:
    """Random records of a format."""
    return [WRITERS[format](Writer(seed)) for seed in range(count)]
