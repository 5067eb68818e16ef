"""The engine: whatever happens, everybody who waits is told and the next call works."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.errors import PolicyFailed
from polyturn.policies.local import Local
from polyturn.policies.sampler.choose import EngineName
from polyturn.protocols import Completion
from polyturn.types import Sampling, user
from tests.policies.tiny import every_engine, tiny_local, tiny_model


async def at_work(policy: Local) -> None:
    """Returns when the engine has begun to sample."""
    while policy.stats.sampled < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@every_engine
async def test_numbers_that_are_not_finite_fail_their_request_only(engine: EngineName) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[ord("!") - ord("!")] = float("nan")  # id 0 is "!"
    policy = tiny_local(model, engine=engine)
    good = [policy.sample((user(f"hi {i}"),), sampling=Sampling(seed=i, max_tokens=5, top_k=2)) for i in range(4)]
    results = await asyncio.gather(
        *good, policy.sample((user("bad!"),), sampling=Sampling(seed=9)), return_exceptions=True
    )
    assert isinstance(results[-1], PolicyFailed) and "not finite" in str(results[-1])
    assert all(isinstance(result, Completion) for result in results[:-1])
    after = await policy.sample((user("bad?"),), sampling=Sampling(seed=9, max_tokens=3, top_k=2))
    assert after.logprobs is not None and np.isfinite(after.logprobs).all()
    policy.close()


@every_engine
async def test_a_cancelled_request_frees_its_slot(engine: EngineName) -> None:
    policy = tiny_local(cache_bytes=1, engine=engine)  # one slot: the second waits for the first
    policy.chat.stop_ids = ()  # so that it ends only at its limit
    endless = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=900)))
    await at_work(policy)
    endless.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless
    sampled_before = policy.stats.sampled
    reply = await asyncio.wait_for(policy.sample((user("ho"),), sampling=Sampling(seed=1, max_tokens=3)), 20)
    assert reply.usage.completion_tokens <= 3
    assert sampled_before > 0 and policy.stats.sampled < 900
    policy.close()


@every_engine
async def test_an_error_inside_reaches_every_waiter_and_the_next_call_works(engine: EngineName) -> None:
    policy = tiny_local(engine=engine)
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


@every_engine
async def test_closing_tells_waiters_and_later_callers(engine: EngineName) -> None:
    policy = tiny_local(engine=engine)
    policy.chat.stop_ids = ()  # so that it ends only at its limit
    task = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=900)))
    await at_work(policy)
    policy.close()
    policy.close()
    with pytest.raises(PolicyFailed, match="closed"):
        await task
    with pytest.raises(PolicyFailed, match="closed"):
        await policy.sample((user("hi"),))


@every_engine
async def test_publish_waits_for_replies_at_work(engine: EngineName) -> None:
    policy = tiny_local(tiny_model(), dtype="bfloat16", engine=engine)
    policy.chat.stop_ids = ()
    task = asyncio.create_task(policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=900)))
    await at_work(policy)
    policy.publish(1)
    late = await policy.sample((user("hi"),), sampling=Sampling(seed=2, max_tokens=2))
    assert ((await task).version, late.version) == (0, 1)
    policy.close()


def test_who_publishes_and_an_engine_without_work_let_their_threads_go(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    for place in ("polyturn.policies.local", "polyturn.policies.sampler.engine"):
        monkeypatch.setattr(f"{place}.let_go", lambda: gone.append(threading.current_thread().name))
    here = threading.current_thread().name
    policy = tiny_local(tiny_model())
    assert here in gone
    gone.clear()
    policy.publish(1)
    assert gone.count(here) == 1
    until = time.monotonic() + 30
    while "sampler-main" not in gone and time.monotonic() < until:
        time.sleep(0.01)
    policy.close()
    assert "sampler-main" in gone
