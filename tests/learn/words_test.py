"""Rules in words."""

from __future__ import annotations

from functools import partial

import pytest

from polyturn.advantages.family import ByFamily
from polyturn.advantages.group import RoleBaseline, group_centred, group_standardised
from polyturn.learn.words import clipping, in_words
from polyturn.losses.likelihood import likelihood
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_trajectory
from polyturn.losses.regularize import entropy, with_term
from polyturn.losses.terms import Sum


def test_what_is_bound_and_what_stands_by_itself() -> None:
    assert in_words(partial(group_standardised, scale="sample")) == (
        "group_standardised(channels=('score'), key=('group', 'seat'), scale='sample', epsilon=1e-06)")
    assert in_words(partial(partial(policy_gradient, clip_low=0.1), clip_high=0.3)) == (
        "policy_gradient(clip_low=0.1, clip_high=0.3, dual_clip=None, truncate=None, unknown='refuse')")


def test_what_is_remembered_is_no_setting() -> None:
    rule = RoleBaseline(alpha=0.5)
    before = in_words(rule)
    rule.baseline["kuhn", "a"] = 0.75
    assert in_words(rule) == before and "alpha=0.5" in before and "baseline" not in before


def test_parts_within_parts() -> None:
    text = in_words(ByFamily({"guess": group_centred}, scaled=False))
    assert text == "ByFamily(rules={'guess': group_centred(channels=('score'), key=('group', 'seat'))}, scaled=False)"


@pytest.mark.parametrize("loss", [
    partial(policy_gradient, clip_high=0.28), Sum((0.5, entropy), (1.0, partial(policy_gradient, clip_high=0.28))),
    partial(with_term, main=partial(policy_gradient, clip_high=0.28), term=entropy, coefficient=0.01),
])
def test_the_clip_is_found_in_what_a_loss_is_made_of(loss: object) -> None:
    found = clipping(loss)
    assert found is not None and found[1] == {"clip_low": 0.2, "clip_high": 0.28}


def test_no_clip_is_none() -> None:
    assert clipping(likelihood) is None
    found = clipping(partial(policy_gradient_by_trajectory, clip_high=float("inf"), dual_clip=3.0))
    assert found is not None and found[1] == {"clip_low": 3e-4, "clip_high": None, "dual_clip": 3.0}
