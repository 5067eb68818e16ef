"""The local policy: what it draws, what it says about it, and that neither depends on its company."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.chat import Chat
from polyturn.errors import BadInput, PolicyFailed
from polyturn.ledger import Ledger
from polyturn.policies.local import Local, load_folder, with_lora
from polyturn.protocols import Completion, Policy, Scoring
from polyturn.types import IntArray, Message, Sampling, assistant, system, user
from tests.policies.tiny import plain_logprobs, tiny_folder, tiny_local, tiny_model, tiny_tokenizer


def fed(completion: Completion) -> IntArray:
    return np.concatenate([piece.ids for piece in completion.prompt])


async def talk(policy: Local, seed: int, turns: int, sampling: Sampling, opening: str = "hello") -> list[Completion]:
    """A dialogue whose replies are spliced into the later prompts, as the ledger does it."""
    ledger = Ledger("agent", policy.name)
    messages: list[Message] = [system("Answer."), user(f"{opening} {seed}")]
    said = []
    for turn in range(turns):
        own = Sampling(**{**{f: getattr(sampling, f) for f in sampling.__slots__}, "seed": 1000 * seed + turn})
        completion = await policy.sample(messages, sampling=own, written=ledger.written)
        spans = ledger.write(ledger.place(completion.prompt), completion)
        reply = completion.message.edited(id=f"m{turn}")
        reply = Message("assistant", reply.parts, spans=tuple(("agent", policy.name, s) for s in spans))
        messages += [reply, user(f"and then, {turn}?")]
        said.append(completion)
    return said


async def talks(policy: Local, seeds: Sequence[int], turns: int, sampling: Sampling, at_once: int) -> list[Any]:
    gate = asyncio.Semaphore(at_once)

    async def one(seed: int) -> list[Completion]:
        async with gate:
            return await talk(policy, seed, turns, sampling)

    return await asyncio.gather(*(one(seed) for seed in seeds))


def worst_gap(model: Any, said: Sequence[Sequence[Completion]]) -> float:
    gaps = [
        np.abs(plain_logprobs(model, fed(c), c.ids) - c.logprobs).max()
        for dialogue in said for c in dialogue if c.ids is not None and c.logprobs is not None
    ]
    return float(max(gaps))


def test_it_keeps_the_protocols() -> None:
    policy = tiny_local()
    assert isinstance(policy, Policy) and isinstance(policy, Scoring)
    assert (policy.engine, policy.engine_reason, policy.limit) == ("slots", "", 1024)
    policy.close()


async def test_greedy_replies_equal_generate() -> None:
    model = tiny_model()
    policy = tiny_local(model)
    prompts = [(user("hi"),), (system("Be brief."), user("What is the capital of France?")), (user("x" * 90),)]
    for sampled in await asyncio.gather(*(
        policy.sample(p, sampling=Sampling(temperature=0, max_tokens=40)) for p in prompts
    )):
        prompt = torch.from_numpy(fed(sampled).astype(np.int64))[None]
        expected = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=40
        )[0, prompt.shape[1] :].tolist()
        assert sampled.ids is not None and sampled.ids.tolist() == expected
        assert sampled.finish == ("stop" if expected[-1] == 257 else "length")
        assert np.abs(plain_logprobs(model, fed(sampled), sampled.ids) - sampled.logprobs).max() < 1e-4
    policy.close()


async def test_logprobs_equal_a_plain_forward_over_many_turns() -> None:
    model = tiny_model()
    policy = tiny_local(model)
    said = await talks(policy, range(12), 4, Sampling(max_tokens=12), at_once=12)
    assert worst_gap(model, said) < 1e-4
    assert policy.stats.mean_batch > 4
    later = [c.usage for dialogue in said for c in dialogue[1:]]
    assert min(usage.cached_tokens / usage.prompt_tokens for usage in later) > 0.5
    again = [dialogue[1].usage for dialogue in said]
    first = [dialogue[0] for dialogue in said]
    for usage, before in zip(again, first, strict=True):  # all but the last drawn id of the turn before is in the cache
        assert before.ids is not None
        assert usage.cached_tokens >= before.usage.prompt_tokens + len(before.ids) - 1
    policy.close()


@pytest.mark.parametrize("cache_bytes", [1, 200_000])
async def test_a_tiny_budget_changes_nothing_but_time(cache_bytes: int) -> None:
    # one slot of 64 ids: 2 layers x 2 heads x 8 numbers x keys and values x 4 bytes x 64 = 16,384 bytes
    model = tiny_model()
    policy = tiny_local(model, cache_bytes=cache_bytes)
    said = await talks(policy, range(10, 16), 3, Sampling(max_tokens=30), at_once=6)
    assert worst_gap(model, said) < 1e-4
    roomy = tiny_local(model)
    same = await talks(roomy, range(10, 16), 3, Sampling(max_tokens=30), at_once=6)
    assert [[c.ids.tolist() for c in d] for d in said] == [[c.ids.tolist() for c in d] for d in same]
    assert policy.stats.cached < roomy.stats.cached
    policy.close()
    roomy.close()


async def test_a_group_shares_its_prompt_and_forks() -> None:
    policy = tiny_local()
    messages = (system("A long common opening. " * 8), user("Go."))
    sampled = await asyncio.gather(*(
        policy.sample(messages, sampling=Sampling(seed=seed, max_tokens=6)) for seed in range(8)
    ))
    length = sampled[0].usage.prompt_tokens
    cached = sorted(c.usage.cached_tokens for c in sampled)
    assert cached == [0, *[length - 1] * 7]  # computed once, copied seven times
    assert len({tuple(c.ids.tolist()) for c in sampled if c.ids is not None}) > 1
    policy.close()


async def test_the_model_is_fed_what_the_completion_says() -> None:
    policy = tiny_local()
    seen: list[int] = []
    embedding = policy.sampling_model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, ids, out: seen.extend(ids[0].flatten().tolist()))
    said = await talk(policy, 3, 4, Sampling(max_tokens=9))
    fresh = []
    for completion in said:
        assert completion.ids is not None
        path = [*fed(completion).tolist(), *completion.ids.tolist()]
        fresh += path[completion.usage.cached_tokens : -1]  # the last id is never fed in its own turn
    assert seen == fresh
    policy.close()


async def test_draws_do_not_depend_on_company() -> None:
    policy = tiny_local()
    sampling = Sampling(seed=5, max_tokens=20)
    alone = await policy.sample((user("hi"),), sampling=sampling)
    others = [policy.sample((user(f"other {i}"),), sampling=Sampling(seed=i)) for i in range(9)]
    crowded = (await asyncio.gather(*others[:5], policy.sample((user("hi"),), sampling=sampling), *others[5:]))[5]
    assert alone.ids is not None and crowded.ids is not None
    assert alone.ids.tolist() == crowded.ids.tolist()
    other = await policy.sample((user("hi"),), sampling=Sampling(seed=6, max_tokens=20))
    assert other.ids is not None and other.ids.tolist() != alone.ids.tolist()
    policy.close()


async def test_deterministic_bits_at_any_concurrency(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for at_once in (1, 7, 32):
        policy = tiny_local(deterministic=True, cache_bytes=2**20 if at_once == 7 else 2**28)
        said = await talks(policy, range(32), 2, Sampling(max_tokens=8), at_once)
        found.append([(c.ids.tobytes(), c.logprobs.tobytes()) for dialogue in said for c in dialogue])
        with capsys.disabled():
            print(f"[deterministic, {at_once} at once: mean batch {policy.stats.mean_batch:.1f}]", end=" ")
        assert (policy.stats.mean_batch > 1) == (at_once > 1)
        policy.close()
    assert found[0] == found[1] == found[2]


async def test_choices_are_renormalised_and_recorded() -> None:
    model = tiny_model()
    policy = tiny_local(model)
    choices = ("[1]", "[2]", "[13]")
    drawn = [
        await policy.sample((user("move"),), sampling=Sampling(choices=choices, seed=seed, temperature=9.0))
        for seed in range(24)
    ]
    assert {c.message.text for c in drawn} == set(choices)
    for completion in drawn:
        assert completion.ids is not None and completion.logprobs is not None and completion.support is not None
        assert completion.ids[-1] == 257 and completion.finish == "stop"
        logits = every_logit(model, completion) / 9.0
        for row, token, logprob, support in zip(
            logits, completion.ids.tolist(), completion.logprobs, completion.support, strict=True
        ):
            assert token in support
            kept = torch.log_softmax(row[list(support)], -1)
            assert float(kept[support.index(token)]) == pytest.approx(logprob, abs=1e-4)
    widths = {c.message.text: [len(s) for s in c.support or ()] for c in drawn}
    # "[" has no alternative; then 1 or 2; after "[1" either "]" or "3"
    assert widths == {"[1]": [1, 2, 2, 1], "[2]": [1, 2, 1, 1], "[13]": [1, 2, 2, 1, 1]}
    policy.close()


@torch.no_grad()
def every_logit(model: Any, completion: Completion) -> torch.Tensor:
    assert completion.ids is not None
    path = torch.from_numpy(np.concatenate([fed(completion), completion.ids]).astype(np.int64))
    out: torch.Tensor = model(input_ids=path[None], use_cache=False).logits[0, -len(completion.ids) - 1 : -1]
    return out


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.6), Sampling(top_k=7, top_p=0.5)])
async def test_top_k_and_top_p_record_their_support(sampling: Sampling) -> None:
    model = tiny_model()
    policy = tiny_local(model)
    own = Sampling(temperature=0.7, top_k=sampling.top_k, top_p=sampling.top_p, seed=4, max_tokens=10)
    completion = await policy.sample((user("hi"),), sampling=own)
    assert completion.support is not None and completion.ids is not None and completion.logprobs is not None
    logits = every_logit(model, completion) / 0.7
    for row, token, logprob, support in zip(
        logits, completion.ids.tolist(), completion.logprobs, completion.support, strict=True
    ):
        rank = sorted(range(258), key=lambda i: -float(row[i]))[: own.top_k or 258]
        p = torch.softmax(row[rank], -1).tolist()
        kept = [i for n, i in enumerate(rank) if sum(p[:n]) < own.top_p]
        assert set(support) == set(kept)
        assert float(torch.log_softmax(row[list(support)], -1)[support.index(token)]) == pytest.approx(logprob, abs=1e-4)
    policy.close()


async def test_temperature_is_applied_before_the_logprob() -> None:
    model = tiny_model()
    policy = tiny_local(model)
    completion = await policy.sample((user("hi"),), sampling=Sampling(temperature=0.5, seed=1, max_tokens=10))
    assert completion.ids is not None and completion.support is None
    assert np.abs(plain_logprobs(model, fed(completion), completion.ids, 0.5) - completion.logprobs).max() < 1e-4
    policy.close()


async def test_draws_follow_the_distribution() -> None:
    model = tiny_model(initializer_range=0.05)  # a flat distribution
    policy = tiny_local(model)
    drawn = await asyncio.gather(*(
        policy.sample((user("hi"),), sampling=Sampling(seed=seed, max_tokens=1, top_k=4)) for seed in range(800)
    ))
    support = drawn[0].support[0] if drawn[0].support else ()
    counts = np.array([sum(c.ids[0] == token for c in drawn if c.ids is not None) for token in support])
    p = torch.softmax(every_logit(model, drawn[0])[0][list(support)], -1).numpy()
    # chi-square with 3 degrees of freedom exceeds 16.3 once in a thousand
    assert ((counts - 800 * p) ** 2 / (800 * p)).sum() < 16.3
    policy.close()


async def test_stop_strings_and_limits() -> None:
    policy = tiny_local()
    free = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=30))
    assert free.ids is not None and free.finish == "length" and len(free.ids) == 30 and free.ids[-1] != 257
    letter = next(c for c in free.message.text[3:] if c.isascii() and c.isprintable() and c != " ")
    cut = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=30, stop=(letter,)))
    assert cut.finish == "stop" and cut.ids is not None
    assert letter in cut.message.text and cut.ids.tolist() == free.ids[: len(cut.ids)].tolist()
    assert letter not in policy.chat.parse(cut.ids[:-1]).text
    policy.close()


async def test_the_model_limit_ends_a_reply_or_refuses_the_prompt() -> None:
    policy = tiny_local(tiny_model(max_position_embeddings=64))
    reply = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=300))
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens == 64 and reply.finish == "length"
    with pytest.raises(PolicyFailed, match=r"prompt has 1\d\d tokens.*64 together"):
        await policy.sample((user("x" * 100),))
    policy.close()


async def test_numbers_that_are_not_finite_fail_their_request_only() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[ord("!") - ord("!")] = float("nan")  # id 0 is "!"
    policy = tiny_local(model)
    good = [policy.sample((user(f"hi {i}"),), sampling=Sampling(seed=i, max_tokens=5, top_k=2)) for i in range(4)]
    results = await asyncio.gather(
        *good, policy.sample((user("bad!"),), sampling=Sampling(seed=9)), return_exceptions=True
    )
    assert isinstance(results[-1], PolicyFailed) and "not finite" in str(results[-1])
    assert all(isinstance(result, Completion) for result in results[:-1])
    after = await policy.sample((user("bad?"),), sampling=Sampling(seed=9, max_tokens=3, top_k=2))
    assert after.logprobs is not None and np.isfinite(after.logprobs).all()
    policy.close()


async def test_a_cancelled_request_frees_its_slot() -> None:
    policy = tiny_local(cache_bytes=1)  # one slot: the second waits for the first
    endless = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=900)))
    await asyncio.sleep(0.1)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    sampled_before = policy.stats.sampled
    reply = await asyncio.wait_for(policy.sample((user("ho"),), sampling=Sampling(seed=1, max_tokens=3)), 20)
    assert reply.usage.completion_tokens <= 3
    assert sampled_before > 0 and policy.stats.sampled < 900
    policy.close()


async def test_an_error_inside_reaches_every_waiter_and_the_next_call_works() -> None:
    policy = tiny_local()
    layer = policy.sampling_model.model.layers[1]

    def burn(*_: Any) -> None:
        raise RuntimeError("the machine is on fire")

    hook = layer.register_forward_hook(burn)
    results = await asyncio.gather(*(policy.sample((user(f"{i}"),)) for i in range(5)), return_exceptions=True)
    assert all(isinstance(r, PolicyFailed) and "on fire" in str(r) for r in results)
    hook.remove()
    reply = await policy.sample((user("hi"),), sampling=Sampling(max_tokens=3, seed=0))
    assert reply.usage.completion_tokens > 0
    policy.close()


async def test_closing_tells_waiters_and_later_callers() -> None:
    policy = tiny_local()
    task = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=900)))
    await asyncio.sleep(0.05)
    policy.close()
    policy.close()
    with pytest.raises(PolicyFailed, match="closed"):
        await task
    with pytest.raises(PolicyFailed, match="closed"):
        await policy.sample((user("hi"),))


async def test_scoring_equals_a_plain_forward() -> None:
    model = tiny_model()
    policy = tiny_local(model)
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_publish_brings_the_new_weights_and_drops_old_caches(dtype: Any) -> None:
    model = tiny_model()
    policy = tiny_local(model, dtype=dtype)
    greedy = Sampling(temperature=0, max_tokens=20)
    before = await policy.sample((user("hi"),), sampling=greedy)
    hashed = policy.info().weights_sha256
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    if dtype == "float32":
        with pytest.raises(PolicyFailed, match="publish"):
            await policy.sample((user("hi"),), sampling=greedy)
    else:
        same = await policy.sample((user("hi"),), sampling=greedy)
        assert same.ids is not None and before.ids is not None
        assert same.ids.tolist() == before.ids.tolist() and same.version == 0
    policy.publish(7)
    after = await policy.sample((user("hi"),), sampling=greedy)
    assert (after.version, after.usage.cached_tokens, policy.info().version) == (7, 0, 7)
    assert policy.info().weights_sha256 != hashed
    assert after.ids is not None
    gap = np.abs(plain_logprobs(model, fed(after), after.ids) - after.logprobs).max()
    assert gap < (1e-4 if dtype == "float32" else 0.3)
    policy.close()


async def test_publish_waits_for_replies_at_work() -> None:
    policy = tiny_local(tiny_model(), dtype="bfloat16")
    task = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=200)))
    await asyncio.sleep(0.05)
    policy.publish(1)
    late = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=2))
    assert ((await task).version, late.version) == (0, 1)
    policy.close()


async def test_sampling_leaves_the_training_model_alone() -> None:
    model = tiny_model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    policy = tiny_local(model)
    await policy.sample((user("hi"),), sampling=Sampling(max_tokens=3, seed=0))
    assert model.training and not policy.sampling_model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    shared = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in shared for p in policy.sampling_model.parameters())
    policy.close()


async def test_lora_is_merged_for_sampling_and_peft_loads_it_unchanged(tmp_path: Path) -> None:
    from peft import PeftModel

    base = tiny_folder(tmp_path / "base")
    policy = Local.load(base, lora=4)
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7  # A and B of seven matrices in two layers
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    policy.publish(1)
    sampled = await policy.sample((user("hi"),), sampling=Sampling(seed=3, max_tokens=12))
    assert sampled.ids is not None
    assert np.abs(plain_logprobs(policy.model, fed(sampled), sampled.ids) - sampled.logprobs).max() < 1e-4
    assert np.abs(plain_logprobs(tiny_model(), fed(sampled), sampled.ids) - sampled.logprobs).max() > 0.1
    policy.save(tmp_path / "adapter")
    again: Any = PeftModel.from_pretrained(load_folder(base)[0], str(tmp_path / "adapter"))
    assert np.abs(plain_logprobs(again, fed(sampled), sampled.ids) - sampled.logprobs).max() < 1e-4
    loaded = Local.load(tmp_path / "adapter")
    same = await loaded.sample((user("hi"),), sampling=Sampling(seed=3, max_tokens=12))
    assert same.ids is not None and same.ids.tolist() == sampled.ids.tolist()
    policy.close()
    loaded.close()


async def test_a_saved_model_is_loaded_by_transformers_unchanged(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = tiny_local()
    policy.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    saved = policy.model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert Chat(tokenizer).template_sha256 == policy.info().template_sha256
    policy.close()


async def test_a_model_that_cannot_be_driven_runs_plainly_and_says_so() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=257, bos_token_id=256,
        pad_token_id=257, initializer_range=0.5,
    ))
    policy = tiny_local(model)
    assert policy.engine == "plain" and policy.engine_reason
    said = await talks(policy, range(3), 2, Sampling(max_tokens=6), at_once=3)
    assert worst_gap(model, said) < 1e-3
    choice = await policy.sample((user("move"),), sampling=Sampling(choices=("[1]", "[2]"), seed=0))
    assert choice.message.text in {"[1]", "[2]"}
    policy.close()
    with pytest.raises(BadInput, match="deterministically"):
        tiny_local(model, deterministic=True)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "gpt2", "phi3", "olmo2", "granite"])
async def test_other_families_agree_with_their_own_forward(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=258, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=257, bos_token_id=256, pad_token_id=257,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(config)
    policy = tiny_local(model)
    said = await talks(policy, range(3), 2, Sampling(max_tokens=6), at_once=3)
    assert worst_gap(model, said) < 2e-4
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
    with pytest.raises(BadInput, match="none of the layers"):
        with_lora(torch.nn.Linear(2, 2), 4)


async def test_a_last_assistant_message_is_continued() -> None:
    policy = tiny_local()
    reply = await policy.sample((user("hi"), assistant("Once upon")), sampling=Sampling(max_tokens=4, seed=0))
    assert bytes_of(fed(reply)).endswith(b"Once upon")
    policy.close()


def bytes_of(ids: IntArray) -> bytes:
    return tiny_tokenizer().decode(ids.tolist()).encode()
