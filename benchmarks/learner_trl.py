"""TRL's GRPO trainer on the reference work: its own loss over its own per-token log-probabilities, and the backward."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.reference import Row
from polyturn.types import FloatArray


class Trl:
    """A ``GRPOTrainer`` around a model. ``low``: bfloat16 by its autocast; no gradient checkpointing, which costs time.

    Its loss is ``dapo``: the sum over trained tokens divided by their number in the whole batch, as ours is weighted.
    """

    def __init__(self, model: Any, tokenizer: Any, *, low: bool, device: str = "cpu") -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        self._folder = tempfile.TemporaryDirectory()
        config = GRPOConfig(
            output_dir=self._folder.name, use_cpu=device == "cpu", bf16=low, gradient_checkpointing=False, beta=0.0,
            report_to="none", num_generations=2, per_device_train_batch_size=2, loss_type="dapo", temperature=1.0,
            disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        question = Dataset.from_list([{"prompt": "x"}] * 2)
        self.trainer: Any = GRPOTrainer(model, _paid, config, question, processing_class=tokenizer)
        self.trainer.current_gradient_accumulation_steps = self.trainer.args.steps_per_generation
        self.model = self.trainer.accelerator.prepare_model(model)
        self.model.train()
        self.device = device

    def run(self, rows: Sequence[Row], advantage_R: FloatArray, micro_batch: int) -> float:
        """The loss; adds the gradient of the batch to the parameters, ``micro_batch`` rows at a time."""
        count = torch.tensor(float(sum(row.trained_T.sum() for row in rows)), device=self.device)
        total = 0.0
        for start in range(0, len(rows), micro_batch):
            part = slice(start, start + micro_batch)
            inputs = {**padded(rows[part]), "advantages": torch.as_tensor(advantage_R[part], dtype=torch.float32)}
            inputs = {name: value.to(self.device) for name, value in inputs.items()}
            loss = self.trainer._compute_loss(self.model, inputs | {"num_items_in_batch": count})
            loss.backward()
            total += float(loss.detach())
        return total


def _paid(completions: Sequence[Any], **more: Any) -> list[float]:
    return [0.0] * len(completions)


def padded(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The rows as TRL collates them: prompts padded on the left, completions on the right, here to the longest of the
    micro-batch (TRL itself pads to the longest of the whole batch)."""
    prompt = max(row.prompt for row in rows)
    completion = max(len(row.ids) - row.prompt for row in rows)
    found = {
        name: np.zeros((len(rows), size), np.int64)
        for name, size in (
            ("prompt_ids", prompt), ("prompt_mask", prompt), ("completion_ids", completion),
            ("completion_mask", completion), ("tool_mask", completion),
        )
    }  # fmt: skip
    for r, row in enumerate(rows):
        size = len(row.ids) - row.prompt
        found["prompt_ids"][r, prompt - row.prompt :] = row.ids[: row.prompt]
        found["prompt_mask"][r, prompt - row.prompt :] = 1
        found["completion_ids"][r, :size] = row.ids[row.prompt :]
        found["completion_mask"][r, :size] = 1
        found["tool_mask"][r, :size] = row.trained_T[row.prompt :]
    return {name: torch.as_tensor(value) for name, value in found.items()}
