"""Numbers that a record can hold, and the others."""

from __future__ import annotations

import orjson
import pytest

from polyturn.json_numbers import LEAST, MOST, finite, whole, whole_or_none


@pytest.mark.parametrize("number", [0, -1, LEAST, MOST])
def test_what_is_read_can_be_written(number: int) -> None:
    assert whole(str(number)) == orjson.loads(orjson.dumps(number)) == number


@pytest.mark.parametrize("digits", [str(LEAST - 1), str(MOST + 1), "9" * 400, "-" + "9" * 5000])
def test_what_is_beyond_64_bits_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="beyond 64 bits"):
        whole(digits)
    assert whole_or_none(digits) is None


@pytest.mark.parametrize("text", ["", "-1", "1.0", "\u00b2", "\u0663", "1_0", " 1", str(2**63), "9" * 5000])
def test_texts_that_are_no_number_of_a_table(text: str) -> None:
    assert whole_or_none(text) is None
    assert whole_or_none(str(2**63 - 1)) == 2**63 - 1


def test_numbers_that_no_float_holds() -> None:
    assert finite("1e308") == 1e308
    with pytest.raises(ValueError, match="no JSON number"):
        finite("1e309")
