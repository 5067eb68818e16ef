from __future__ import annotations

from typing import Any

import pytest

from polyturn.tools.functions import Functions, ToolFailed, fitting, named, read, shortened, signature
from polyturn.types import Tool

SCHEMA = {
    "type": "object", "required": ["city", "nights"],
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}, "nights": {"type": "integer"},
                   "pool": {"type": "boolean"}, "near": {"type": "array"}},
}
HOTEL = Tool("hotel", "Price of a stay.", SCHEMA)


def test_the_signature_is_read_off_the_schema() -> None:
    assert signature(HOTEL) == "hotel(city: str, nights: int, pool: bool = None, near: list = None)"
    assert signature(Tool("now")) == "now()"


def test_texts_are_cut_with_a_mark() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcde", 3) == "abc\n[2 more characters were cut]"


def test_a_call_reaches_the_function_with_named_arguments() -> None:
    registry = Functions(((HOTEL, lambda city, nights, pool=False: (city, nights, pool)),))
    assert registry.tools == (HOTEL,)
    assert registry.call("hotel", {"nights": 2, "city": "Oslo"}) == ("Oslo", 2, False)
    with pytest.raises(ToolFailed, match="did you mean 'hotel'"):
        registry.call("hotels", {})


def test_positional_arguments_take_their_names_in_order() -> None:
    assert named(HOTEL, ["Oslo", 2], {"pool": True}) == {"city": "Oslo", "nights": 2, "pool": True}
    with pytest.raises(ToolFailed, match="got city twice"):
        named(HOTEL, ["Oslo"], {"city": "Rome"})
    with pytest.raises(ToolFailed, match="takes 4 argument"):
        named(HOTEL, [1, 2, 3, 4, 5], {})


@pytest.mark.parametrize(("arguments", "said"), [
    ({"city": "Oslo"}, "nights is missing"), ({"city": "Oslo", "nights": 1, "x": 1}, "x is no argument"),
    ({"city": "Oslo", "nights": "1"}, "expected int"), ({"city": "Oslo", "nights": True}, "expected int"),
    ({"city": "Bern", "nights": 1}, "expected one of"), ({"city": 3, "nights": 1}, "expected str"),
    (None, "is missing"),
])
def test_arguments_that_do_not_fit_are_told_why(arguments: dict[str, Any] | None, said: str) -> None:
    with pytest.raises(ToolFailed, match=said):
        fitting(HOTEL, arguments)
    assert fitting(HOTEL, {"city": "Rome", "nights": 3}) == {"city": "Rome", "nights": 3}


def test_bare_texts_are_read_by_the_schema() -> None:
    """A city called 12 stays a text; only a parameter that is a number becomes one."""
    assert read(HOTEL, ["12", "03", "true", "[1]"]) == {"city": "12", "nights": 3, "pool": True, "near": [1]}
    with pytest.raises(ToolFailed, match="nights is 'two'; expected int"):
        read(HOTEL, ["Oslo", "two"])
    with pytest.raises(ToolFailed, match="expected a JSON bool"):
        read(HOTEL, ["Oslo", "2", "yes"])
