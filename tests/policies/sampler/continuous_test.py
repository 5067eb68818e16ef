"""Continuous batching of transformers: the same replies as ours, windows, pages that run short."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import pytest
import torch

from polyturn.errors import BadInput
from polyturn.policies.device import device_of
from polyturn.policies.replicas import replica_of
from polyturn.policies.sampler.choose import TOLD, EngineName
from polyturn.policies.sampler.continuous import PAGE, ROWS, Continuous
from polyturn.types import Sampling, user
from tests.policies.tiny import fed, said_ids, talks, tiny_local, tiny_model, worst_gap


def bytes_of(pages: int) -> int:
    """Keys and values of two layers of two heads of eight numbers of four bytes, and as many columns of the mask."""
    rows = ROWS[device_of().type]
    return pages * PAGE * (2 * 2 * 2 * 8 * 4 + 4 * rows)


async def test_it_says_what_the_slots_say() -> None:
    model = tiny_model()
    found = []
    for engine in ("slots", "continuous"):
        policy = tiny_local(model, engine=engine)
        assert (policy.engine, policy.engine_reason, policy.info().sampling["engine"]) == (engine, "", engine)
        said = await talks(policy, range(8), 3, Sampling(max_tokens=12, top_k=40), at_once=8)
        found.append([said_ids(c).tolist() for dialogue in said for c in dialogue])
        policy.close()
    assert found[0] == found[1]


async def test_a_window_is_driven_and_agrees_with_its_own_forward() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(
        vocab_size=258, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.2,
    ))
    policy = tiny_local(model, engine="continuous")
    said = await talks(policy, range(6), 3, Sampling(max_tokens=9), at_once=6)
    assert worst_gap(model, said) < 2e-4 and policy.stats.mean_batch > 2
    policy.close()


async def test_short_pages_make_requests_begin_again_and_change_nothing() -> None:
    model = tiny_model()
    replies = []
    for pages in (9, 1000):
        policy = tiny_local(model, engine="continuous", cache_bytes=bytes_of(pages))
        stepper = policy._engine.stepper
        assert isinstance(stepper, Continuous) and stepper.capacity == pages * PAGE
        policy.chat.stop_ids = ()  # so that replies are long
        said = await asyncio.gather(*(
            policy.sample((user(f"hi {i}"),), sampling=Sampling(seed=i, max_tokens=100)) for i in range(9)))
        replies.append([said_ids(c).tolist() for c in said])
        assert worst_gap(model, [said]) < 1e-4
        assert (policy.stats.restarted > 0) == (pages == 9)
        assert not stepper._paged and not stepper._processor.scheduler.active_requests
        policy.close()
    assert replies[0] == replies[1]


async def test_a_path_longer_than_all_pages_is_read_plainly() -> None:
    model = tiny_model()
    policy = tiny_local(model, engine="continuous", cache_bytes=bytes_of(2))
    said = [await policy.sample((user("x" * size),), sampling=Sampling(seed=1, max_tokens=20)) for size in (4, 300)]
    assert worst_gap(model, [said]) < 1e-4
    assert await policy.logprobs([np.arange(40, dtype=np.int32)])
    policy.close()


async def test_a_prompt_of_more_rows_than_a_forward_takes_is_read_in_parts() -> None:
    model = tiny_model(max_position_embeddings=16384)
    policy = tiny_local(model, engine="continuous")
    rows = ROWS[policy.device.type]
    sampling = Sampling(seed=1, max_tokens=20)
    said = await asyncio.gather(*(
        policy.sample((user("x" * size),), sampling=sampling) for size in (3, 2 * rows + 7, 5)))
    assert worst_gap(model, [said]) < 1e-4
    policy.close()


async def test_pages_of_old_weights_are_not_read() -> None:
    model = tiny_model()
    policy = tiny_local(model, engine="continuous")
    question = (user("What is the capital of France, and why is it so?"),)
    first = await policy.sample(question, sampling=Sampling(seed=1, max_tokens=40))
    again = await policy.sample(question, sampling=Sampling(seed=1, max_tokens=40))
    assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, len(fed(first)) // PAGE * PAGE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    policy.publish(1)
    after = await policy.sample(question, sampling=Sampling(seed=1, max_tokens=40))
    assert after.usage.cached_tokens == 0 and worst_gap(model, [[after]]) < 1e-4
    policy.close()


async def test_the_state_of_random_numbers_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    model = tiny_model()
    torch.manual_seed(5)
    policy = tiny_local(model, engine="continuous")
    assert torch.rand(3).tolist() == expected
    policy.close()


@pytest.mark.parametrize("engine", ["slots", "continuous"])
def test_an_engine_that_was_asked_for_and_does_not_fit_is_refused(engine: EngineName) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=258, hidden_size=16, num_hidden_layers=2, state_size=4))
    with pytest.raises(BadInput, match=f"cannot be sampled by engine '{engine}': not {TOLD[engine]}: "):
        tiny_local(model, engine=engine)


def test_attention_that_may_leave_something_out_is_refused() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    with pytest.raises(BadInput, match="its attention is 'eager'; pages are read by sdpa"):
        tiny_local(model, engine="continuous")


def test_a_replica_runs_as_its_model_does() -> None:
    policy = tiny_local(engine="continuous")
    copy = replica_of(policy)
    assert copy.engine == "continuous"
    policy.close()
    copy.close()


async def test_in_bfloat16_it_follows_the_weights_of_now() -> None:
    model = tiny_model(initializer_range=0.05)
    policy = tiny_local(model, engine="continuous", dtype="bfloat16")
    for version in range(3):
        said = await talks(policy, range(8), 2, Sampling(max_tokens=20), at_once=8)
        assert worst_gap(model, said) < 0.05
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        assert worst_gap(model, said) > 0.1
        policy.publish(version + 1)
    policy.close()


@pytest.mark.parametrize("last", ["policy.close()", "print()"])
def test_a_program_ends_without_a_word(last: str) -> None:
    code = f"from tests.policies.tiny import tiny_local; policy = tiny_local(engine='continuous'); {last}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)
