"""Replicas of one model: rolling weights, who serves meanwhile, and versions that are kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from polyturn.errors import BadInput
from polyturn.policies.replicas import Pinned, Replicas, batches, replica_of, weights_of
from polyturn.types import Sampling, user
from tests.policies.tiny import gap, tiny_local, tiny_model

SAID = [user("hello")]


def other_weights(model: Any) -> dict[str, torch.Tensor]:
    return weights_of(tiny_model(seed=5)) if model is not None else {}


async def test_a_replica_has_weights_of_its_own() -> None:
    model = tiny_local()
    copy = replica_of(model)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.1)
    said = await copy.sample(SAID, sampling=Sampling(max_tokens=4, seed=1))  # training goes on: no error, old weights
    assert said.version == 0 and gap(tiny_model(), said) < 1e-4
    copy.publish(3, weights_of(model.model))
    again = await copy.sample(SAID, sampling=Sampling(max_tokens=4, seed=1))
    assert again.version == 3 and gap(model.model, again) < 1e-4
    with pytest.raises(BadInput, match="no parameter 'other'"):
        copy.publish(4, {"other": torch.zeros(1)})
    model.close()
    copy.close()


async def test_weights_roll_while_others_serve() -> None:
    model = tiny_local()
    pool, alone = Replicas(model, 2), Replicas(model, 1)
    sampling = Sampling(max_tokens=24, seed=3)
    versions: list[int] = []

    async def talk() -> None:
        for _ in range(6):
            versions.append((await pool.sample(SAID, sampling=sampling)).version)

    talks = [asyncio.create_task(talk()) for _ in range(3)]
    await asyncio.sleep(0.02)
    await pool.roll(1, other_weights(model))
    await asyncio.gather(*talks)
    assert pool.fewest_serving == 1 and pool.serving == [True, True] and pool.at_work == [0, 0]
    assert (await pool.sample(SAID, sampling=sampling)).version == 1 and set(versions) <= {0, 1}
    assert pool.info().version == 1 and pool.info().weights_sha256 == pool.every[1].info().weights_sha256
    # one copy alone, or all at once: for a moment nobody serves
    await alone.roll(1, other_weights(model))
    await pool.roll(2, other_weights(model), at_once=2)
    assert (alone.fewest_serving, pool.fewest_serving) == (0, 0)
    assert pool.count(SAID) == model.count(SAID) and pool.limit == model.limit
    for each in (pool, alone, model):
        each.close()


async def test_requests_wait_while_nobody_serves() -> None:
    pool = Replicas(tiny_local(), 1)
    pool.serving[0] = False
    waits = asyncio.create_task(pool.sample(SAID, sampling=Sampling(max_tokens=2)))
    await asyncio.sleep(0.05)
    assert not waits.done()
    await pool.roll(4, {})
    assert (await waits).version == 4
    pool.close()


async def test_pinned_versions_are_kept_until_as_many_newer_ones_came() -> None:
    model = tiny_local(deterministic=True)
    pinned = Pinned(model, 2)
    with pytest.raises(BadInput, match="version 0 is not kept"):
        pinned.of(0)
    own, other = weights_of(model.model), other_weights(model)
    await pinned.keep(0, own)
    await pinned.keep(1, other)
    sampling = Sampling(max_tokens=6, seed=8)
    old, new = [await pinned.of(v).sample(SAID, sampling=sampling) for v in (0, 1)]
    assert (old.version, new.version) == (0, 1)
    assert gap(tiny_model(), old) < 1e-4 and gap(tiny_model(seed=5), new) < 1e-4
    await pinned.keep(2, own)
    with pytest.raises(BadInput, match=r"kept are \[1, 2\]"):
        pinned.of(0)
    again = Pinned(model, 2)
    await again.restore(pinned.state())
    assert (await again.of(1).sample(SAID, sampling=sampling)).message == new.message
    for each in (model, pinned, again):
        each.close()


def test_batches_cover_every_copy_once() -> None:
    for count in range(1, 12):
        for at_once in range(1, 5):
            assert [i for batch in batches(count, at_once) for i in batch] == list(range(count))
    with pytest.raises(BadInput, match="0 copies at once"):
        list(batches(2, 0))
    with pytest.raises(BadInput, match="0 replicas"):
        Replicas(tiny_local(), 0)
    with pytest.raises(BadInput, match="0 versions"):
        Pinned(tiny_local(), 0)
