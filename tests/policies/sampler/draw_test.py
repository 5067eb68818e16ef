"""Draws: the distribution, its support, and the log-probability under exactly that."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from polyturn.errors import PolicyFailed
from polyturn.policies.sampler.choose import EngineName
from polyturn.policies.sampler.draw import draw
from polyturn.policies.sampler.request import Request, drawn_request
from polyturn.types import Sampling, user
from tests.policies.tiny import every_engine, every_logit, gap, tiny_local, tiny_model

LOGITS = torch.tensor([0.0, 1.0, 2.0, -1.0])
"""exp: 1, 2.71828, 7.38906, 0.36788; sum 11.47522; p = 0.08714, 0.23688, 0.64391, 0.03206."""


def at(uniform: float, **sampling: float) -> Request:
    request = drawn_request(np.array([1], np.int32), Sampling(**sampling), seed=0, limit=99, stop_ids=())  # type: ignore[arg-type]
    request.uniform = lambda: uniform
    return request


@pytest.mark.parametrize(("uniform", "place", "logprob"), [
    (0.0, 0, -2.44019), (0.087, 0, -2.44019), (0.0872, 1, -1.44019), (0.3239, 1, -1.44019), (0.3241, 2, -0.44019),
    (0.9679, 2, -0.44019), (0.968, 3, -3.44019), (1 - 1e-16, 3, -3.44019),
])
def test_a_draw_by_hand(uniform: float, place: int, logprob: float) -> None:
    # cumulated: 0.08714, 0.32403, 0.96794, 1; log p = logit - log 11.47522 = logit - 2.44019
    (found,) = draw(LOGITS[None], [at(uniform)])
    assert not isinstance(found, PolicyFailed)
    assert found[0] == place and found[1] == pytest.approx(logprob, abs=1e-5) and found[2] == ()


def test_greedy_takes_the_best_and_tells_its_logprob_at_temperature_one() -> None:
    (found,) = draw(LOGITS[None], [at(0.0, temperature=0)])
    assert found == (2, pytest.approx(-0.44019, abs=1e-5), ())


def test_top_k_by_hand() -> None:
    # of ids 1 and 2: p = 2.71828 / 10.10734 = 0.26894 and 0.73106
    low, high = draw(LOGITS.repeat(2, 1), [at(0.2689, top_k=2), at(0.2690, top_k=2)])
    assert low == (1, pytest.approx(-1.31326, abs=1e-5), (1, 2))
    assert high == (2, pytest.approx(-0.31326, abs=1e-5), (1, 2))


def test_top_p_keeps_the_fewest_with_that_mass() -> None:
    one, two = draw(LOGITS.repeat(2, 1), [at(0.5, top_p=0.64), at(0.5, top_p=0.65)])
    assert one == (2, 0.0, (2,))  # 0.64391 is enough
    assert two == (2, pytest.approx(-0.31326, abs=1e-5), (1, 2))


def test_broken_rows_are_named_and_the_others_drawn() -> None:
    rows = LOGITS.repeat(5, 1)
    rows[1, 0], rows[2, 3], rows[3] = float("nan"), float("inf"), float("-inf")
    found = draw(rows, [at(0.5)] * 5)
    assert [isinstance(one, PolicyFailed) for one in found] == [False, True, True, True, False]
    impossible = LOGITS.clone()
    impossible[2] = float("-inf")  # a model may rule ids out
    assert draw(impossible[None], [at(0.999)])[0] == (3, pytest.approx(-1 - 1.40761, abs=1e-5), ())  # log 4.08616


def test_a_draw_equals_a_slow_twin() -> None:
    noise = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, 1000, generator=noise)
    requests = [at(row / 64, temperature=0.5 + row / 40) for row in range(64)]
    for row, found in enumerate(draw(logits, requests)):
        assert not isinstance(found, PolicyFailed)
        weights = [np.exp(float(x) / (0.5 + row / 40)) for x in logits[row]]
        total, below, place = sum(weights), 0.0, 0
        while below + weights[place] <= row / 64 * total:
            below += weights[place]
            place += 1
        assert found[0] == place and found[1] == pytest.approx(np.log(weights[place] / total), abs=1e-4)


@every_engine
async def test_choices_are_renormalised_and_recorded(engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
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


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.6), Sampling(top_k=7, top_p=0.5)])
@every_engine
async def test_top_k_and_top_p_record_their_support(sampling: Sampling, engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
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
        expected = float(torch.log_softmax(row[list(support)], -1)[support.index(token)])
        assert expected == pytest.approx(logprob, abs=1e-4)
    policy.close()


@every_engine
async def test_temperature_is_applied_before_the_logprob(engine: EngineName) -> None:
    model = tiny_model()
    policy = tiny_local(model, engine=engine)
    completion = await policy.sample((user("hi"),), sampling=Sampling(temperature=0.5, seed=1, max_tokens=10))
    assert completion.ids is not None and completion.support is None
    assert gap(model, completion, 0.5) < 1e-4
    policy.close()


@every_engine
async def test_draws_follow_the_distribution(engine: EngineName) -> None:
    model = tiny_model(initializer_range=0.05)  # a flat distribution
    policy = tiny_local(model, engine=engine)
    drawn = await asyncio.gather(*(
        policy.sample((user("hi"),), sampling=Sampling(seed=seed, max_tokens=1, top_k=4)) for seed in range(800)
    ))
    support = drawn[0].support[0] if drawn[0].support else ()
    counts = np.array([sum(c.ids[0] == token for c in drawn if c.ids is not None) for token in support])
    p = torch.softmax(every_logit(model, drawn[0])[0][list(support)], -1).numpy()
    # chi-square with 3 degrees of freedom exceeds 16.3 once in a thousand
    assert ((counts - 800 * p) ** 2 / (800 * p)).sum() < 16.3
    policy.close()


@every_engine
async def test_draws_do_not_depend_on_company(engine: EngineName) -> None:
    policy = tiny_local(engine=engine)
    sampling = Sampling(seed=5, max_tokens=20)
    alone = await policy.sample((user("hi"),), sampling=sampling)
    others = [policy.sample((user(f"other {i}"),), sampling=Sampling(seed=i)) for i in range(9)]
    crowded = (await asyncio.gather(*others[:5], policy.sample((user("hi"),), sampling=sampling), *others[5:]))[5]
    assert alone.ids is not None and crowded.ids is not None
    assert alone.ids.tolist() == crowded.ids.tolist()
    other = await policy.sample((user("hi"),), sampling=Sampling(seed=6, max_tokens=20))
    assert other.ids is not None and other.ids.tolist() != alone.ids.tolist()
    policy.close()
