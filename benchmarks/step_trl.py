"""TRL's training step on the reference work: ``GRPOTrainer.train`` with a ``rollout_func``; for ``benchmarks.step``.

The rollouts are those of ``benchmarks.rollout_hf``: ``generate`` turn by turn, or continuous batching that shares equal
beginnings. They sample with weights of their own in the dtype that is asked for, copied before each batch, because TRL
would cast float32 weights again in every forward (``generate``), or for good (continuous batching).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import Called
from benchmarks.dialogue import Script, drawn, read
from benchmarks.learner import LIMIT, Case
from benchmarks.models import load, load_tokenizer
from benchmarks.reference import Row, Work
from benchmarks.rollout_hf import Continuous, Replies, generate, model_of
from benchmarks.step_ours import LR
from benchmarks.timing import fastest

ENGINES = (("generate", 64), ("generate", 32), ("generate", 16), ("continuous", 512), ("continuous", 256),
           ("continuous", 2048))  # fmt: skip
"""Rows a call, and tokens a step."""
MICRO_BATCHES = (2, 1, 4, 8)
"""Rows a pass; 16 take more than :data:`benchmarks.learner.LIMIT`."""


class Sampler:
    """Writes the replies of scripts with an engine, from weights that follow a model's."""

    def __init__(self, case: Case) -> None:
        self.model = model_of(case.dtype, case.layers)
        self.engine: Callable[[Sequence[Script]], Replies] = lambda scripts: generate(self.model, scripts, 64)

    def take(self, engine: tuple[str, int]) -> None:
        """Takes an engine of :data:`ENGINES`."""
        name, size = engine
        if name == "generate":
            self.engine = lambda scripts: generate(self.model, scripts, size)
        else:
            self.engine = Continuous(self.model, size).run

    def follow(self, model: Any) -> None:
        """Copies the weights of a model, adapters merged."""
        adapted = hasattr(model, "merge_adapter")
        if adapted:
            model.merge_adapter()
        found = {plain_name(name): value for name, value in model.state_dict().items() if "lora_" not in name}
        self.model.load_state_dict(found)
        if adapted:
            model.unmerge_adapter()


def plain_name(name: str) -> str:
    """The name of a weight without what peft puts around it.

    >>> plain_name("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def rows_of(scripts: Sequence[Script], written: Replies) -> list[Row]:
    """What was shown and written, as rows: a first prompt, then replies (trained) and what is shown between them.

    >>> from benchmarks.dialogue import linear
    >>> row = rows_of([linear(0, ((5, 6), (7,)), (1, 1))], [[[8], [9]]])[0]
    >>> row.ids.tolist(), row.prompt, row.trained_T.tolist()
    ([5, 6, 8, 7, 9], 2, [0, 0, 1, 0, 1])
    """
    found = []
    for rollout, (script, own) in enumerate(zip(scripts, written, strict=True)):
        ids: list[int] = []
        trained: list[int] = []
        for shown, reply in zip(script.shown, own, strict=True):
            ids += [*shown, *reply]
            trained += [0] * len(shown) + [1] * len(reply)
        found.append(Row(np.array(ids, np.int32), len(script.shown[0]), np.array(trained, np.int32), rollout))
    return found


def chosen(prompts: Sequence[str], scripts: Sequence[Script]) -> list[Script]:
    """The script of each prompt; a prompt is the number of its group, and its n-th occurrence the group's n-th rollout.

    >>> from benchmarks.dialogue import linear
    >>> a, b = (linear(0, ((5,),), (n,)) for n in (1, 2))
    >>> chosen(["0", "0"], [a, b]) == [a, b]
    True
    """
    seen: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        of_group = [script for script in scripts if script.group == int(prompt)]
        found.append(of_group[seen[prompt]])
        seen[prompt] += 1
    return found


def scored(prompts: Any, completions: Sequence[str], **more: Any) -> list[float]:
    """The reward of TRL's recipe."""
    return [drawn(text) for text in completions]


class Rollouts:
    """A ``rollout_func``."""

    def __init__(self, sampler: Sampler, scripts: Sequence[Script]) -> None:
        self.sampler, self.scripts = sampler, scripts
        self.seconds = 0.0
        self.written = 0

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Plays a batch with the weights as they are."""
        began = time.perf_counter()
        self.sampler.follow(trainer.model)
        scripts = chosen(prompts, self.scripts)
        rows = rows_of(scripts, self.sampler.engine(scripts))
        self.seconds, self.written = time.perf_counter() - began, int(sum(row.trained_T.sum() for row in rows))
        return {
            "prompt_ids": [row.ids[: row.prompt].tolist() for row in rows],
            "completion_ids": [row.ids[row.prompt :].tolist() for row in rows],
            "env_mask": [row.trained_T[row.prompt :].tolist() for row in rows],
            "logprobs": None,  # as TRL's own engine gives none: the learner then computes no old ones either
        }


def settle(case: Case, sampler: Sampler, scripts: Sequence[Script], called: Called, *, swept: bool) -> int:
    """The fastest micro-batch; the sampler takes the fastest engine, and the sweep is said."""
    from benchmarks.learner_trl import Trl

    engines, sizes = (ENGINES, MICRO_BATCHES) if swept else (ENGINES[3:4], MICRO_BATCHES[:1])
    few = scripts[: 2 * sum(script.group == 0 for script in scripts)]

    def part(engine: tuple[str, int]) -> Sequence[Script]:
        return scripts[: engine[1]] if engine[0] == "generate" else few

    def played(engine: tuple[str, int]) -> None:
        sampler.take(engine)
        sampler.engine(part(engine))

    engine, by_engine = fastest(engines, played, most=LIMIT / 2**30, per=lambda each: len(part(each)))
    sampler.take(engine)
    rows = rows_of(few, sampler.engine(few))
    trl = Trl(load(case.train, layers=case.layers), load_tokenizer(), low=case.dtype == "bfloat16")
    advantage_R = np.linspace(-1, 1, len(rows))
    size, by_size = fastest(sizes, lambda n: trl.run(rows, advantage_R, n), most=LIMIT / 2**30)
    called.tell(setting=[*engine, size], sweep=[
        *((f"{each[0]} {each[1]}, {len(part(each))} episodes", *by_engine[each]) for each in engines),
        *((f"learning from {len(rows)} episodes, {n} rows", *by_size[n]) for n in sizes),
    ])  # fmt: skip
    return int(size)


def make_trainer(case: Case, work: Work, rollouts: Rollouts, called: Called, size: int, folder: str) -> Any:
    """A trainer that begins an update when asked to, and leaves by :class:`EndedError` where nothing more is asked."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    count = work.groups * work.rollouts
    config = GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=case.dtype == "bfloat16", gradient_checkpointing=False, beta=0.0,
        report_to="none", num_generations=work.rollouts, per_device_train_batch_size=size,
        gradient_accumulation_steps=count // size, loss_type="dapo", temperature=1.0, disable_tqdm=True,
        save_strategy="no", logging_strategy="no", max_steps=10**6, learning_rate=LR, lr_scheduler_type="constant",
        weight_decay=0.0, adam_beta2=0.95, max_grad_norm=1.0, max_completion_length=4096, shuffle_dataset=False,
        dataloader_pin_memory=False, optim="adamw_torch_fused",
    )  # fmt: skip
    questions = Dataset.from_list([{"prompt": str(g)} for g in range(work.groups)])
    trainer: Any = GRPOTrainer(
        load(case.train, layers=case.layers), scored, config, questions, processing_class=load_tokenizer(),
        rollout_func=rollouts, callbacks=[asked(rollouts, called)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class EndedError(Exception):
    """Nothing more is asked for."""


def asked(rollouts: Rollouts, called: Called) -> Any:
    """A callback of transformers that waits before each update and says what it took."""
    from transformers import TrainerCallback

    def begin(self: Any, *given: Any, **more: Any) -> None:
        if not called.begin():
            raise EndedError

    def end(self: Any, *given: Any, **more: Any) -> None:
        called.end(rollouts=rollouts.seconds, written=rollouts.written, trained=rollouts.written)

    return type("Asked", (TrainerCallback,), {"on_step_begin": begin, "on_step_end": end})()


def serve(case: Case, work: Work, folder: Path, *, swept: bool) -> None:
    """Says the sweep, then steps whenever it is told to. Reads what :func:`benchmarks.step_ours.serve` wrote."""
    called = Called()
    scripts = read(folder / "scripts.json")
    sampler = Sampler(case)
    size = settle(case, sampler, scripts, called, swept=swept)
    rollouts = Rollouts(sampler, scripts)
    with tempfile.TemporaryDirectory() as place:
        trainer = make_trainer(case, work, rollouts, called, size, place)
        called.tell(ready=True)
        try:
            trainer.train()
        except EndedError:
            return
