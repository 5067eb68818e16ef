"""TRL itself takes one step on what is exported: supervised, preference and GRPO rows of a run that was played here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyturn.record.formats.exchange import export_run
from polyturn.record.write import open_run
from polyturn.types import (
    Episode,
    Event,
    Message,
    PolicyInfo,
    Span,
    Task,
    Trajectory,
    Turn,
    assistant,
    user,
)
from tests.policies.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of two attempts at two turns each; the second attempt is worth more."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with open_run(folder) as recorder:
        for group in range(2):
            for trial in range(2):
                recorder.episode(played(group, trial))
    return folder


def played(group: int, trial: int) -> Episode:
    """A dialogue in tokens of bytes, each reply sampled with a log-probability of -2 a token."""
    tokenizer = tiny_tokenizer()
    messages: list[Message] = [user(f"Guess {group}.", id="m0")]
    spans: list[Span] = []
    turns: list[Turn] = []
    for k in range(2):
        told = tokenizer.apply_chat_template([{"role": "user", "content": messages[-1].text}], tokenize=False,
                                             add_generation_prompt=True)
        spans.append(Span(len(spans) - 1, np.array(tokenizer.encode(told, add_special_tokens=False), np.int32)))
        ids = np.array([*tokenizer.encode(f"{trial}{k}", add_special_tokens=False), 257], np.int32)
        spans.append(Span(len(spans) - 1, ids, True, np.full(len(ids), -2.0)))
        place = len(messages)
        messages.append(assistant(f"{trial}{k}", id=f"m{place}", spans=(("agent", "main", len(spans) - 1),)))
        turns.append(Turn(place, "agent", "main", tuple(range(place)), place, (len(spans) - 1,)))
        messages.append(user("Lower.", id=f"m{place + 1}"))
    trajectory = Trajectory("agent", "main", None, tuple(messages), tuple(turns), tuple(spans))
    paid = Event(9, "reward", "agent", {"channel": "win", "value": float(trial)})
    return Episode(f"e{group}.{trial}", Task(f"t{group}", "guess"), group, f"g{group}", trial,
                   train=frozenset({"agent"}), cast={"agent": PolicyInfo("main", "model")},
                   trajectories=(trajectory,), events=(paid,))


def exported(run: Path, format: str, folder: Path) -> list[dict[str, Any]]:
    export_run(run, format, folder / "rows.jsonl")
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {"output_dir": str(folder / "out"), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True,
            "report_to": "none", "bf16": False, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1,
            "learning_rate": 1e-3, "seed": 0, **more}


def stepped(trainer: Any) -> float:
    """The loss of the one step; the weights moved."""
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = [name for name, p in trainer.model.named_parameters() if name in before and (p != before[name]).any()]
    assert moved
    return float(next(row["loss"] for row in trainer.state.log_history if "loss" in row))


def test_supervised(run: Path, tmp_path: Path) -> None:
    """4 episodes of 2 replies are 8 rows, and each has the tokens of its own reply for labels."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = exported(run, "trl-sft", tmp_path)
    assert [(len(row["prompt"]), [m["content"] for m in row["completion"]]) for row in rows[:2]] == [
        (1, ["00"]), (3, ["01"])]
    assert len(rows) == 8
    trainer = SFTTrainer(tiny_model(), SFTConfig(**settings(tmp_path, completion_only_loss=True)),
                         train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer())
    trained = [sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset]
    assert trained == [4] * 8, "two digits, the end of turn and a newline that the template writes: the reply alone"
    assert stepped(trainer) > 0


def test_preference(run: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = exported(run, "trl-preference", tmp_path)
    assert [[m["content"] for m in row["chosen"]] for row in rows] == [["10", "Lower.", "11"]] * 2
    assert [[m["content"] for m in row["rejected"]] for row in rows] == [["00", "Lower.", "01"]] * 2
    trainer = DPOTrainer(tiny_model(), tiny_model(), DPOConfig(**settings(tmp_path)),
                         train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer())
    assert stepped(trainer) == pytest.approx(np.log(2), abs=1e-3), "policy and reference are still the same"


def test_grpo(run: Path, tmp_path: Path) -> None:
    """The rows are handed to the trainer as its rollout function's output, mask and log-probabilities included."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = exported(run, "trl-grpo", tmp_path)
    assert [sum(row["env_mask"]) for row in rows] == [6] * 4, "two replies of three tokens"
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"][0]["content"], []).append(row)

    def rollouts(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        seen: dict[str, int] = {}
        found = []
        for prompt in prompts:
            key = prompt[0]["content"]
            found.append(by_prompt[key][seen.get(key, 0) % 2])
            seen[key] = seen.get(key, 0) + 1
        return {key: [row[key] for row in found] for key in ("prompt_ids", "completion_ids", "logprobs", "env_mask",
                                                             "reward")}

    def paid(completions: list[Any], reward: list[float], **more: Any) -> list[float]:
        return reward

    questions = Dataset.from_list([{"prompt": found[0]["prompt"]} for found in by_prompt.values()])
    config = GRPOConfig(**settings(tmp_path, num_generations=2, per_device_train_batch_size=4))
    trainer = GRPOTrainer(tiny_model(), paid, config, questions, processing_class=tiny_tokenizer(),
                          rollout_func=rollouts)
    stepped(trainer)
    logged = next(row for row in trainer.state.log_history if "reward" in row)
    assert logged["reward"] == 0.5 and logged["completions/mean_length"] == 6
