from __future__ import annotations

import numpy as np
import pytest

from polyturn.errors import BadInput, NotTrainable
from polyturn.ledger import Ledger
from polyturn.protocols import Completion, Piece
from polyturn.types import IntArray, Message, assistant


def ids(*values: int) -> IntArray:
    return np.array(values, np.int32)


def reply(*values: int) -> Completion:
    return Completion(assistant("x"), (Piece(ids(0)),), ids(*values), np.zeros(len(values)))


def own(ledger: Ledger, *spans: int) -> Message:
    return Message("assistant", "x", spans=tuple(("a", "p", span) for span in spans))  # type: ignore[arg-type]


def path_ids(ledger: Ledger, leaf: int) -> list[int]:
    found: list[int] = []
    while leaf >= 0:
        found = ledger.spans[leaf].ids.tolist() + found
        leaf = ledger.spans[leaf].parent
    return found


def test_a_prompt_that_begins_with_a_path_extends_it() -> None:
    ledger = Ledger("a", "p")
    first = ledger.write(ledger.place([Piece(ids(1, 2))]), reply(7, 8))
    pieces = ledger.written(own(ledger, *first))
    assert pieces is not None
    leaf = ledger.place([Piece(ids(1, 2)), *pieces, Piece(ids(3))])
    assert path_ids(ledger, leaf) == [1, 2, 7, 8, 3]
    assert len(ledger.spans) == 3  # [1 2], the reply, [3]: nothing stands twice


def test_a_prompt_that_differs_branches_and_shares_what_it_can() -> None:
    ledger = Ledger("a", "p")
    ledger.place([Piece(ids(1, 2)), Piece(ids(3))])
    leaf = ledger.place([Piece(ids(1, 2)), Piece(ids(4))])
    assert path_ids(ledger, leaf) == [1, 2, 4]
    assert [span.parent for span in ledger.spans] == [-1, 0, 0]


def test_a_rendered_piece_cut_elsewhere_still_finds_its_path() -> None:
    ledger = Ledger("a", "p")
    leaf = ledger.place([Piece(ids(1, 2)), Piece(ids(3))])
    assert ledger.place([Piece(ids(1)), Piece(ids(2, 3))]) == leaf
    further = ledger.place([Piece(ids(1, 2, 3, 4))])
    assert path_ids(ledger, further) == [1, 2, 3, 4] and len(ledger.spans) == 3


def test_an_own_reply_shown_elsewhere_is_copied_unsampled() -> None:
    ledger = Ledger("a", "p")
    (first,) = ledger.write(ledger.place([Piece(ids(1)), Piece(ids(2))]), reply(7, 8))
    pieces = ledger.written(own(ledger, first))
    assert pieces is not None
    leaf = ledger.place([Piece(ids(1)), *pieces, Piece(ids(3))])  # a window left [2] out
    assert path_ids(ledger, leaf) == [1, 7, 8, 3]
    assert [span.sampled for span in ledger.spans] == [False, False, True, False, False]
    again = ledger.place([Piece(ids(1)), *pieces, Piece(ids(3))])
    assert again == leaf


def test_equal_retries_keep_two_owners_and_the_right_one_is_extended() -> None:
    ledger = Ledger("a", "p")
    prompt = [Piece(ids(1))]
    (first,) = ledger.write(ledger.place(prompt), reply(7))
    (second,) = ledger.write(ledger.place(prompt), reply(7))
    assert first != second
    pieces = ledger.written(own(ledger, second))
    assert pieces is not None
    leaf = ledger.place([*prompt, *pieces, Piece(ids(3))])
    assert ledger.spans[leaf].parent == second


def test_a_reply_to_two_spans_is_spliced_in_order() -> None:
    ledger = Ledger("a", "p")
    (first,) = ledger.write(ledger.place([Piece(ids(1))]), reply(7))
    (second,) = ledger.write(first, reply(8))
    pieces = ledger.written(own(ledger, first, second))
    assert pieces is not None
    assert ledger.place([Piece(ids(1)), *pieces]) == second


def test_foreign_and_unknown_replies_are_not_written() -> None:
    ledger = Ledger("a", "p")
    assert ledger.written(assistant("x")) is None
    foreign = Message("assistant", "x", spans=(("b", "p", 0),))  # type: ignore[arg-type]
    assert ledger.written(foreign) is None
    assert own(ledger, 0).edited(parts="y").spans == ()


def test_ids_and_logprobs_must_be_as_many() -> None:
    ledger = Ledger("a", "p")
    bad = Completion(assistant("x"), (Piece(ids(0)),), ids(1, 2), np.zeros(1))
    with pytest.raises(NotTrainable, match="2 ids and 1 log-probabilities"):
        ledger.write(-1, bad)


def test_a_reply_without_ids_owns_nothing() -> None:
    ledger = Ledger("a", "p")
    assert ledger.write(-1, Completion(assistant("x"))) == ()
    assert ledger.spans == []


def test_a_quoted_tree_is_passed_through_and_owned_by_nobody() -> None:
    first = Ledger("a", "p")
    (said,) = first.write(first.place([Piece(ids(1, 2))]), reply(7, 8))
    pieces = first.written(own(first, said))
    assert pieces is not None
    leaf = first.place([Piece(ids(1, 2)), *pieces, Piece(ids(3))])
    again = Ledger("a", "p")
    again.quote(first.spans)
    quoted = again.written(own(first, said))
    assert quoted is not None
    assert again.place([Piece(ids(1, 2)), *quoted, Piece(ids(3))]) == leaf
    assert len(again.spans) == len(first.spans) and not any(span.sampled for span in again.spans)
    (fresh,) = again.write(leaf, reply(9))
    assert path_ids(again, fresh) == [1, 2, 7, 8, 3, 9]
    with pytest.raises(BadInput, match="quote before the first call"):
        again.quote(first.spans)
