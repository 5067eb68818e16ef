"""The local policy: what it draws, what it says about it, what it loads and saves."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import resource
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.chat import Chat
from polyturn.errors import BadInput, PolicyFailed
from polyturn.policies.local import Local, with_lora
from polyturn.policies.sampler.choose import EngineName
from polyturn.policies.sampler.continuous import PAGE
from polyturn.policies.sampler.plain import Plain
from polyturn.protocols import Policy, Scoring
from polyturn.types import IntArray, Sampling, assistant, system, user
from tests.policies.tiny import (
    every_engine,
    fed,
    gap,
    plain_logprobs,
    said_ids,
    talks,
    tiny_folder,
    tiny_local,
    tiny_model,
    tiny_tokenizer,
    worst_gap,
)


def test_it_keeps_the_protocols() -> None:
    policy = tiny_local()
    assert isinstance(policy, Policy) and isinstance(policy, Scoring)
    assert (policy.engine, policy.engine_reason, policy.limit) == ("slots", "", 1024)
    policy.close()


@every_engine
async def test_greedy_replies_equal_generate(engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
    prompts = [(user("hi"),), (system("Be brief."), user("What is the capital of France?")), (user("x" * 90),)]
    for sampled in await asyncio.gather(*(
        policy.sample(p, sampling=Sampling(temperature=0, max_tokens=40)) for p in prompts
    )):
        prompt = torch.from_numpy(fed(sampled).astype(np.int64))[None].to(policy.device)
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40
        )[0, prompt.shape[1] :].tolist()
        assert sampled.ids is not None and sampled.ids.tolist() == expected
        assert sampled.finish == ("stop" if expected[-1] == 257 else "length")
        assert gap(model, sampled) < 1e-4
    policy.close()


@every_engine
async def test_logprobs_equal_a_plain_forward_over_many_turns(engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
    said = await talks(policy, range(12), 4, Sampling(max_tokens=12), at_once=12)
    assert worst_gap(model, said) < 1e-4
    assert policy.stats.mean_batch > 4
    page = {"slots": 1, "continuous": PAGE, "plain": 10**9}[engine]
    for before, after in (pair for dialogue in said for pair in pairwise(dialogue)):
        assert before.ids is not None  # all but its last drawn id is in the cache
        assert after.usage.cached_tokens >= (before.usage.prompt_tokens + len(before.ids) - 1) // page * page
    policy.close()


@every_engine
async def test_stop_strings_and_limits(engine: EngineName) -> None:
    policy = tiny_local(engine=engine)
    free = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=30))
    assert free.ids is not None and free.finish == "length" and len(free.ids) == 30 and free.ids[-1] != 257
    letter = next(c for c in free.message.text[3:] if c.isascii() and c.isprintable() and c != " ")
    cut = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=30, stop=(letter,)))
    assert cut.finish == "stop" and cut.ids is not None
    assert letter in cut.message.text and cut.ids.tolist() == free.ids[: len(cut.ids)].tolist()
    assert letter not in policy.chat.parse(cut.ids[:-1]).text
    policy.close()


@every_engine
async def test_the_model_limit_ends_a_reply_or_refuses_the_prompt(engine: EngineName) -> None:
    policy = tiny_local(tiny_model(max_position_embeddings=64), engine=engine)
    reply = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=300))
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens == 64 and reply.finish == "length"
    with pytest.raises(PolicyFailed, match=r"prompt has 1\d\d tokens.*64 together"):
        await policy.sample((user("x" * 100),))
    policy.close()


@every_engine
async def test_a_last_assistant_message_is_continued(engine: EngineName) -> None:
    policy = tiny_local(engine=engine)
    reply = await policy.sample((user("hi"), assistant("Once upon")), sampling=Sampling(max_tokens=4, seed=0))
    assert bytes_of(fed(reply)).endswith(b"Once upon")
    policy.close()


def bytes_of(ids: IntArray) -> bytes:
    return tiny_tokenizer().decode(ids.tolist()).encode()


@every_engine
async def test_scoring_equals_a_plain_forward(engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
    draws = np.random.default_rng(0)
    paths = [draws.integers(0, 256, size).astype(np.int32) for size in (1, 2, 40, 700)]
    for path, found in zip(paths, await policy.logprobs(paths), strict=True):
        assert np.isnan(found[0])
        if len(path) > 1:
            assert np.abs(found[1:] - plain_logprobs(model, path[:1], path[1:])).max() < 1e-4
    rows = await policy.distributions(paths[2])
    assert rows.shape == (40, 258)
    assert np.abs(np.exp(rows).sum(-1) - 1).max() < 1e-5
    assert np.abs(rows[np.arange(39), paths[2][1:]] - plain_logprobs(model, paths[2][:1], paths[2][1:])).max() < 1e-4
    policy.close()


@pytest.mark.parametrize("deterministic", [False, True])
async def test_distributions_from_a_position_on_continue_a_cached_beginning(deterministic: bool) -> None:
    policy = tiny_local(tiny_model(), deterministic=deterministic)
    path = np.random.default_rng(1).integers(0, 256, 600).astype(np.int32)
    whole = await policy.distributions(path)
    before = policy.stats.prefilled
    rows = await policy.distributions(path, first=580)
    assert rows.shape == (20, 258) and np.abs(rows - whole[580:]).max() < (1e-12 if deterministic else 1e-4)
    assert policy.stats.prefilled - before == 20  # the first 580 came from the cache
    other = await asyncio.gather(*(policy.distributions(path[:size], first=size - 5) for size in (300, 301, 599)))
    for size, found in zip((300, 301, 599), other, strict=True):
        assert np.abs(found - whole[size - 5 : size]).max() < 1e-4
    for first in (-1, 600):
        with pytest.raises(BadInput, match="expected a position in it"):
            await policy.distributions(path, first=first)
    policy.close()


async def test_a_model_without_slots_gives_the_same_rows_from_a_position_on() -> None:
    policy = tiny_local(tiny_model())
    path = np.random.default_rng(1).integers(0, 256, 60).astype(np.int32)
    whole = await policy.distributions(path)
    policy._engine.stepper = Plain(policy.model)
    rows = await policy.distributions(path, first=50)
    assert rows.shape == (10, 258) and np.abs(rows - whole[50:]).max() < 1e-4
    policy.close()


async def test_a_saved_model_is_loaded_by_transformers_unchanged(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = tiny_local()
    policy.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    saved = policy.model.state_dict()
    assert all(torch.equal(value, saved[name].cpu()) for name, value in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert Chat(tokenizer).template_sha256 == policy.info().template_sha256
    policy.close()


def test_a_full_disk_leaves_the_model_that_was_saved_before(tmp_path: Path) -> None:
    folder, policy = tmp_path / "warm", tiny_local()
    policy.save(folder)
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        next(policy.model.parameters()).zero_()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"the model could not be written to .*warm: .*what it held before is whole"):
            policy.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    policy.save(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if after[name] != before[name]} == {"model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["warm"]
    policy.close()


def test_bad_folders_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no model folder"):
        Local.load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"no config\.json"):
        Local.load(tmp_path)
    folder = tiny_folder(tmp_path / "tiny")
    for name, message in (("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")):
        (folder / name).unlink()
        if name == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
        with pytest.raises(BadInput, match=message):
            Local.load(folder)


def test_torn_weights_are_bad_input(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BadInput, match="cannot be loaded"):
        Local.load(folder)


def test_weights_that_may_run_code_are_refused(tmp_path: Path) -> None:
    """A .bin file is a pickle: of a model, or of an adapter; and code that a folder brings is not run."""
    trace = tmp_path / "trace"

    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {trace}",)

    folder = tiny_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Harm()}))
    with pytest.raises(BadInput, match="is a pickle"):
        Local.load(folder)
    whole, adapter = tiny_folder(tmp_path / "whole"), tmp_path / "adapter"
    adapter.mkdir()
    told = {"peft_type": "LORA", "base_model_name_or_path": str(whole), "r": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(told))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({"a": Harm()}))
    with pytest.raises(BadInput, match="is a pickle"):
        Local.load(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (adapter / "adapter_config.json").write_text(json.dumps({**told, "base_model_name_or_path": str(adapter)}))
    with pytest.raises(BadInput, match="an adapter itself"):
        Local.load(adapter)
    config = json.loads((whole / "config.json").read_text())
    code = {"auto_map": {"AutoModelForCausalLM": "harm.Model", "AutoConfig": "harm.Config"}, "model_type": "harm"}
    (whole / "config.json").write_text(json.dumps({**config, **code}))
    (whole / "harm.py").write_text(f"import os\nos.system('touch {trace}')\n")
    with pytest.raises(BadInput, match="cannot be loaded"):
        Local.load(whole)
    assert not trace.exists()


async def test_without_a_template_a_plain_one_is_used_and_said(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer(template=None).save_pretrained(tmp_path)
    policy = Local.load(tmp_path)
    assert "no chat template" in policy.warning
    reply = await policy.sample((user("hi"),), sampling=Sampling(max_tokens=4, seed=0))
    assert reply.usage.completion_tokens > 0
    policy.close()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadInput, match="expected one of float32, bfloat16"):
        tiny_local(dtype="float16")
    with pytest.raises(BadInput, match="needs dtype 'float32'"):
        tiny_local(dtype="bfloat16", deterministic=True)
    with pytest.raises(BadInput, match="engine is 'vllm'; expected slots, continuous, plain"):
        tiny_local(engine="vllm")
    with pytest.raises(BadInput, match="by the engine 'slots' alone; got 'continuous'"):
        tiny_local(engine="continuous", deterministic=True)
    with pytest.raises(BadInput, match="none of the layers"):
        with_lora(torch.nn.Linear(2, 2), 4)


@pytest.mark.model
async def test_smollm2_greedy_equals_generate_and_its_logprobs_a_plain_forward() -> None:
    policy = Local.load()
    assert policy.engine == "slots" and not policy.warning
    prompts = [(user("What is 3 + 4?"),), (system("Answer in one word."), user("The capital of France?"))]
    for sampled in await asyncio.gather(*(
        policy.sample(p, sampling=Sampling(temperature=0, max_tokens=16)) for p in prompts
    )):
        prompt = torch.from_numpy(fed(sampled).astype(np.int64))[None].to(policy.device)
        expected = policy.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=16
        )[0, prompt.shape[1] :].tolist()
        assert said_ids(sampled).tolist() == expected
        assert gap(policy.model, sampled) < 1e-4
    policy.close()


@pytest.mark.model
async def test_smollm2_over_turns_agrees_with_a_plain_forward() -> None:
    policy = Local.load()
    said = await talks(policy, range(4), 3, Sampling(max_tokens=12), at_once=4)
    assert worst_gap(policy.model, said) < 1e-4
    assert min(c.usage.cached_tokens / c.usage.prompt_tokens for dialogue in said for c in dialogue[1:]) > 0.5
    policy.close()


@pytest.mark.model
async def test_smollm2_in_bfloat16_stays_near_float32(capsys: pytest.CaptureFixture[str]) -> None:
    policy = Local.load(dtype="bfloat16")
    said = await talks(policy, range(4), 2, Sampling(max_tokens=12), at_once=4)
    rounded = Local.load().model.to(torch.bfloat16)
    pairs = [(fed(c), said_ids(c), c.logprobs) for d in said for c in d]
    ours = np.concatenate([np.abs(plain_logprobs(policy.model, p, i) - was) for p, i, was in pairs if was is not None])
    theirs = np.concatenate([
        np.abs(plain_logprobs(policy.model, p, i) - plain_logprobs(rounded, p, i)) for p, i, _ in pairs
    ])
    with capsys.disabled():
        print(f"[bfloat16 against float32: mean {ours.mean():.3f}, most {ours.max():.2f}; "
              f"the model's own bfloat16 forward: {theirs.mean():.3f}, {theirs.max():.2f}]", end=" ")
    assert ours.mean() < 1.5 * theirs.mean() < 0.15
    policy.close()


@pytest.mark.model
async def test_smollm2_gives_the_same_bits_at_any_concurrency() -> None:
    policy = Local.load(deterministic=True)
    found, steps = [], []
    for at_once in (1, 7, 32):
        before = policy.stats
        said = await talks(policy, range(5), 2, Sampling(max_tokens=4), at_once)
        found.append([(said_ids(c).tobytes(), np.asarray(c.logprobs).tobytes()) for d in said for c in d])
        now = policy.stats
        steps.append((now.sequences - before.sequences) / (now.steps - before.steps))
        policy.publish(0)  # drops the caches, so that all is computed again
    assert found[0] == found[1] == found[2]
    assert steps[0] == 1 and min(steps[1:]) > 1
    policy.close()
