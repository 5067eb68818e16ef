"""Divergences by hand, never negative, zero for the same context, and the sampled estimates against the exact ones."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from polyturn.diagnose.drift import divergence, js_T, kl_T, sampled_kl, turn_divergence
from polyturn.errors import BadInput, NotFinite
from polyturn.types import FloatArray
from tests.policies.tiny import tiny_local, tiny_model


def logs(*rows: list[float]) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float64))


def random_logs(draws: np.random.Generator, positions: int, size: int) -> FloatArray:
    raw = 3 * draws.normal(size=(positions, size))
    return raw - np.logaddexp.reduce(raw, -1, keepdims=True)


def test_kl_and_js_by_hand() -> None:
    q, p = logs([0.5, 0.5], [0.9, 0.1]), logs([0.25, 0.75], [0.9, 0.1])
    # 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.3465736 - 0.2027326; the second position is equal
    assert kl_T(q, p) == pytest.approx([0.1438410, 0.0], abs=1e-6)
    # 0.25 ln(0.25/0.5) + 0.75 ln(0.75/0.5) = -0.1732868 + 0.3040988
    assert kl_T(p, q)[0] == pytest.approx(0.1308120, abs=1e-6)
    # m = 0.375, 0.625: (0.5 ln(0.5/0.375) + 0.5 ln(0.5/0.625) + 0.25 ln(0.25/0.375) + 0.75 ln(0.75/0.625)) / 2
    # = (0.1438410 - 0.1115718 - 0.1013663 + 0.1367412) / 2 = 0.0676442 / 2
    assert js_T(q, p)[0] == pytest.approx(0.0338221, abs=1e-6)


def test_means_over_the_reply_and_its_sampled_estimates_by_hand() -> None:
    found = divergence(logs([0.5, 0.5], [0.9, 0.1]), logs([0.25, 0.75], [0.9, 0.1]), [0, 1])
    # exact 0.1438410 / 2; sampled (ln 2 + 0) / 2; k3 with r = 0.5: (0.5 - 1 + ln 2) / 2 = 0.1931472 / 2
    assert (found.kl, found.tokens) == (pytest.approx(0.0719205, abs=1e-6), 2)
    assert (found.sampled, found.sampled_k3) == pytest.approx((log(2) / 2, 0.0965736), abs=1e-6)


def test_zeros() -> None:
    assert kl_T(logs([1.0, 0.0]), logs([0.5, 0.5])).tolist() == [pytest.approx(log(2))]  # 0 ln 0 = 0
    assert kl_T(logs([0.5, 0.5]), logs([1.0, 0.0])).tolist() == [np.inf]
    assert js_T(logs([1.0, 0.0]), logs([0.0, 1.0])).tolist() == [pytest.approx(log(2))]


def test_never_negative_on_a_thousand_random_pairs_and_as_slow_loops_say() -> None:
    draws = np.random.default_rng(0)
    for _ in range(1000):
        q, p = random_logs(draws, 1, 7), random_logs(draws, 1, 7)
        slow = sum(np.exp(a) * (a - b) for a, b in zip(q[0].tolist(), p[0].tolist(), strict=True))
        found = divergence(q, p, [3])
        assert found.kl == pytest.approx(slow, abs=1e-9)
        assert min(found.kl, found.reverse, found.js, found.sampled_k3) >= 0 and found.js <= log(2)
        assert kl_T(p, q)[0] != pytest.approx(slow, abs=1e-9)  # the directions are not the same


def test_what_does_not_fit_is_refused() -> None:
    q = logs([0.5, 0.5])
    for other in (logs([0.2, 0.3, 0.5]), logs([0.5, 0.5], [0.5, 0.5])):
        with pytest.raises(BadInput, match="one vocabulary"):
            kl_T(q, other)
    with pytest.raises(NotFinite, match="sums to"):
        kl_T(q, np.zeros((1, 2)))
    with pytest.raises(BadInput, match="one row for each"):
        divergence(q, q, [0, 1])
    with pytest.raises(NotFinite, match="not recorded"):
        sampled_kl(np.array([np.nan]), np.array([-1.0]))
    with pytest.raises(BadInput, match="equal rows"):
        sampled_kl(np.zeros(0), np.zeros(0))


def ids(draws: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return draws.integers(0, 256, count).astype(np.int32)


async def test_the_same_context_has_no_divergence_and_costs_two_passes_from_the_cache() -> None:
    policy, draws = tiny_local(tiny_model()), np.random.default_rng(3)
    prompt, other, reply = ids(draws, 200), ids(draws, 180), ids(draws, 9)
    same = await turn_divergence(policy, policy, prompt, prompt, reply)
    assert max(same.kl, same.reverse, same.js) < 1e-6 and abs(same.sampled) < 1e-6
    await policy.distributions(np.concatenate([prompt, other]))
    before, steps = policy.stats.prefilled, policy.stats.steps
    longer = np.concatenate([prompt, other])
    found = await turn_divergence(policy, policy, longer, prompt, reply)
    assert found.kl > 1e-3
    assert policy.stats.steps - steps == 2  # two forward passes ...
    assert policy.stats.prefilled - before == 2 * (len(reply) + 1)  # ... of the reply and the token before it
    policy.close()


async def test_the_exact_value_agrees_with_the_sampled_one_at_five_thousand_samples() -> None:
    policy, draws = tiny_local(tiny_model()), np.random.default_rng(4)
    first, second = ids(draws, 30), ids(draws, 30)
    q = (await policy.distributions(first, first=29))[0]
    p = (await policy.distributions(second, first=29))[0]
    exact = float(kl_T(q[None], p[None])[0])
    drawn = draws.choice(len(q), 5000, p=np.exp(q) / np.exp(q).sum())
    plain, k3 = q[drawn] - p[drawn], np.expm1(p[drawn] - q[drawn]) - (p[drawn] - q[drawn])
    assert sampled_kl(q[drawn], p[drawn]) == pytest.approx((plain.mean(), k3.mean()))
    for values in (plain, k3):
        assert abs(values.mean() - exact) < 3 * values.std() / np.sqrt(5000)
    assert exact > 10 * plain.std() / np.sqrt(5000)  # so that the test could fail
    policy.close()


async def test_an_empty_prompt_or_reply_is_refused() -> None:
    policy, some = tiny_local(tiny_model()), np.array([1, 2], np.int32)
    for prompt, reply in ((some[:0], some), (some, some[:0])):
        with pytest.raises(BadInput, match="at least one each"):
            await turn_divergence(policy, policy, prompt, some, reply)
    policy.close()
