"""The driven model: fed what the completion says, the same bits in any company, other families."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyturn.types import Sampling
from tests.policies.tiny import fed, talk, talks, tiny_local, tiny_model, worst_gap


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


@pytest.mark.parametrize("changes", [{"sliding_window": 16, "model_type": "mistral"}])
async def test_attention_that_is_not_driven_falls_back_and_says_so(changes: dict[str, object]) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(
        vocab_size=258, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.2,
    ))
    policy = tiny_local(model)
    assert policy.engine == "continuous" and "sliding_window" in policy.engine_reason
    said = await talks(policy, range(2), 2, Sampling(max_tokens=6), at_once=2)
    assert worst_gap(model, said) < 2e-4
    policy.close()


async def test_long_prompts_are_read_in_parts_while_others_go_on() -> None:
    from polyturn.policies.sampler.driven import ROWS

    model = tiny_model(max_position_embeddings=16384)
    policy = tiny_local(model)
    draws = np.random.default_rng(0)
    path = draws.integers(0, 256, 3 * ROWS[policy.device.type] + 7).astype(np.int32)
    found = (await policy.logprobs([path]))[0]
    with torch.no_grad():
        ids = torch.from_numpy(path.astype(np.int64))[None].to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0].cpu()
    expected = torch.log_softmax(logits, -1)[np.arange(len(path) - 1), path[1:]].numpy()
    assert np.abs(found[1:] - expected).max() < 2e-4
    assert policy.stats.steps == 4
    policy.close()
