"""How learning rates rise and fall, by hand."""

from __future__ import annotations

import math

import pytest

from polyturn.learn.rates import constant, cosine, linear


def test_a_constant_one_rises_over_its_first_updates() -> None:
    assert [constant(i, warm=5) for i in (0, 1, 4, 5, 99)] == pytest.approx([0.2, 0.4, 1.0, 1.0, 1.0])
    assert [constant(i, warm=1.5) for i in (0, 1)] == pytest.approx([2 / 3, 1.0])
    assert constant(0) == constant(7) == constant(0, warm=0.15) == 1.0


def test_a_linear_one_ends_at_nothing() -> None:
    assert [linear(i, 20, warm=10) for i in (0, 9, 19)] == pytest.approx([0.1, 0.55, 0.05])
    assert [linear(i, 4) for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_half_a_cosine_after_the_rise() -> None:
    # 1 of 10 updates rises; then 0.5 (1 + cos(pi 0 / 9)) = 1, ..., in the middle 0.5 (1 + cos(pi / 2)).
    assert cosine(0, 10) == cosine(1, 10) == cosine(0, 1) == 1.0
    assert cosine(10, 19, warm=2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 8 / 17)))
    assert cosine(5, 9) == pytest.approx(0.5)
    assert [cosine(k, 40, warm=4) for k in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(3, 3) == cosine(9, 9, warm=4) == pytest.approx(0.0)
