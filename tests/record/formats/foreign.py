"""Records as others write them, drawn at random: what an importer must read, and give back as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

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


WRITERS: dict[str, Callable[[Writer], Any]] = {
    "openai": openai, "openai-preference": openai_preference, "chatml": chatml, "sharegpt": sharegpt,
    "tau-bench": tau_bench, "who-and-when": who_and_when,
    "trl-sft": trl_sft, "trl-preference": trl_preference, "trl-grpo": trl_grpo,
}


def drawn(format: str, count: int) -> list[Any]:
    """Random records of a format."""
    return [WRITERS[format](Writer(seed)) for seed in range(count)]
