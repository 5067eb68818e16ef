"""Requests: where a reply ends, and ids that have no alternative."""

from __future__ import annotations

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.policies.sampler.request import Request, drawn_request, trie_of
from polyturn.types import IntArray, Sampling


def ids(*values: int) -> IntArray:
    return np.array(values, np.int32)


def asked(choices: list[IntArray] | None = None, limit: int = 99, **sampling: object) -> Request:
    return drawn_request(
        ids(1, 2), Sampling(**sampling), seed=0, limit=limit, stop_ids=(9,), choices=choices,  # type: ignore[arg-type]
        text=lambda said: "".join(chr(96 + i) for i in said),
    )


def test_a_reply_ends_at_the_end_of_turn_which_is_kept() -> None:
    request = asked()
    request.add(5, -0.5, ())
    assert request.finish == ""
    request.add(9, -0.1, ())
    assert (request.finish, request.ids().tolist(), request.logprobs) == ("stop", [5, 9], [-0.5, -0.1])


@pytest.mark.parametrize(("limit", "length"), [(99, 3), (4, 2)])
def test_a_reply_ends_at_its_limit_or_the_model_s(limit: int, length: int) -> None:
    request = asked(limit=limit, max_tokens=3)
    while not request.finish:
        request.add(5, -0.5, ())
    assert request.finish == "length" and request.ids().tolist() == [5] * length


def test_a_reply_ends_where_a_stop_string_is_said_even_across_ids() -> None:
    request = asked(stop=("bc",))
    for token in (1, 2):
        request.add(token, -0.5, ())
        assert request.finish == ""
    request.add(3, -0.5, ())
    assert request.finish == "stop"


def test_ids_without_an_alternative_are_added_at_once() -> None:
    request = asked([ids(4, 5, 6, 9), ids(4, 5, 7, 8, 9)])
    assert request.ids().tolist() == [4, 5] and request.support == [(4,), (5,)] and request.logprobs == [0.0, 0.0]
    request.add(7, -0.7, (6, 7))
    assert request.ids().tolist() == [4, 5, 7, 8, 9] and request.finish == "stop"
    assert request.logprobs == [0.0, 0.0, -0.7, 0.0, 0.0]
    outcome = request.outcome(version=3)
    assert outcome.support == ((4,), (5,), (6, 7), (8,), (9,)) and outcome.version == 3


def test_a_single_choice_needs_no_model() -> None:
    assert asked([ids(4, 5, 9)]).finish == "stop"


def test_a_choice_longer_than_the_limit_is_cut() -> None:
    request = asked([ids(4, 5, 6, 7, 9)], max_tokens=3)
    assert request.finish == "length" and request.ids().tolist() == [4, 5, 6]


def test_choices_whose_end_cannot_be_seen_are_refused() -> None:
    for choices in ([ids(4), ids(4, 5)], [ids()], [ids(4, 5), ids(4)]):
        with pytest.raises(BadInput, match="beginning of another"):
            trie_of(choices)


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert [asked().uniform() for _ in range(2)] == [asked().uniform()] * 2
