"""Samplers of transformers on the reference work: ``generate`` on padded batches, and continuous batching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from benchmarks.dialogue import Script
from benchmarks.models import load

Replies: TypeAlias = list[list[list[int]]]
"""The ids that were written: of each script, of each turn."""
BLOCK = 32
"""Tokens of a page, so that prompts of a group share theirs."""


def model_of(dtype: str, layers: int | None = None) -> Any:
    """The model for sampling."""
    return load(layers=layers).to(getattr(torch, dtype)).eval()


@torch.inference_mode()
def generate(model: Any, scripts: Sequence[Script], rows: int) -> Replies:
    """Plays all, ``rows`` at a time, turn by turn; every turn is one call on padded prompts.

    A batch writes as many ids as its longest reply; what is too much of the others is cut off.
    """
    written: Replies = []
    for start in range(0, len(scripts), rows):
        part = scripts[start : start + rows]
        paths: list[list[int]] = [[] for _ in part]
        own: Replies = [[] for _ in part]
        for turn in range(len(part[0].lengths)):
            for path, script in zip(paths, part, strict=True):
                script.prompt(path, turn)
            longest = max(script.lengths[turn] for script in part)
            for i, reply in enumerate(_reply(model, paths, longest)):
                own[i].append(reply[: part[i].lengths[turn]])
                paths[i].extend(own[i][-1])
        written += own
    return written


def count(written: Replies) -> int:
    """How many ids were written."""
    return sum(len(reply) for own in written for reply in own)


def _reply(model: Any, paths: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    width = max(map(len, paths))
    ids = torch.tensor([[0] * (width - len(path)) + list(path) for path in paths])
    mask = torch.tensor([[0] * (width - len(path)) + [1] * len(path) for path in paths])
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=True,
        temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0,
    )  # fmt: skip
    found: list[list[int]] = out[:, width:].tolist()
    return found


class Continuous:
    """Continuous batching: a rollout's next turn is asked for as soon as its reply is there, and beginnings that are
    equal are computed once (pages of :data:`BLOCK`)."""

    def __init__(self, model: Any, batch_tokens: int, blocks: int = 4096) -> None:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        self.model = model
        self.asked = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=-1, max_new_tokens=64)
        self.config = ContinuousBatchingConfig(
            page_size=BLOCK, num_blocks=blocks, max_batch_tokens=batch_tokens, allow_block_sharing=True, seed=0)

    def run(self, scripts: Sequence[Script]) -> Replies:
        """Plays all. Raises: RuntimeError where a request fails."""
        written: Replies = [[] for _ in scripts]
        with self.model.continuous_batching_context_manager(
            generation_config=self.asked, continuous_batching_config=self.config,
        ) as manager:
            paths = [list(script.shown[0]) for script in scripts]
            for i, path in enumerate(paths):
                manager.add_request(path, f"{i}", scripts[i].lengths[0], eos_token_id=-1)
            left = sum(len(script.lengths) for script in scripts)
            while left:
                result = manager.get_result(timeout=60)
                if result is None or result.error:
                    raise RuntimeError(f"continuous batching failed: {result and result.error}")
                if not result.is_finished():
                    continue
                left -= 1
                i = int(result.request_id.split(".")[0])
                written[i].append(list(result.generated_tokens))
                turn = len(written[i])
                if turn < len(scripts[i].lengths):
                    paths[i] += result.generated_tokens
                    scripts[i].prompt(paths[i], turn)
                    manager.add_request(paths[i], f"{i}.{turn}", scripts[i].lengths[turn], eos_token_id=-1)
        return written
