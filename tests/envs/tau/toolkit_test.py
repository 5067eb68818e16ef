from __future__ import annotations

from typing import Any

import pytest

from polyturn.envs.dialogue import Refused
from polyturn.envs.tau.toolkit import TEXT, WHOLE, answer, calculate, objects, one_of, tool


@pytest.mark.parametrize(("expression", "value"), [
    ("1 + 2 * 3", "7.0"), ("(1 + 2) * 3", "9.0"), ("-5 + 2", "-3.0"), ("0.1 + 0.2", "0.3"), ("7 // 2", "3.0"),
    ("2 ** 10", "1024.0"), (" 135.24 - 153.23", "-17.99"), ("1/3", "0.33"), ("2.675 * 100", "267.5"), ("+4", "4.0"),
])
def test_arithmetic(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", [
    "", "1 +", "1 / 0", "a", "__import__('os')", "1e5", "3 4", "()", "9 ** 9 ** 9", "(-8) ** 0.5", "9" * 400,
    "(" * 300 + "1" + ")" * 300, "1+" * 300 + "1", "2 ** 50 * 1000000", "0 ** -1", "(1)(2)", "1, 2",
])
def test_whatever_is_no_small_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(Refused):
        calculate(expression)


class Shelf:
    """Something with one tool."""

    def put(self, box: str, number: int, things: list[dict[str, Any]]) -> Any:
        return f"{box}: {number}" if box == "text" else {"box": box, "things": things, "none": None}

    def burn(self) -> str:
        return "not a tool"


PUT = tool("put", "write", "Puts.", box=(one_of("text", "data"), "where"), number=(WHOLE, "how many"),
           things=(objects(name=TEXT), "what"))
TOOLS = {"put": PUT}


def test_a_tool_says_what_it_needs() -> None:
    assert (PUT.kind, PUT.parameters["required"]) == ("write", ["box", "number", "things"])
    assert PUT.parameters["properties"]["box"] == {"type": "string", "enum": ["text", "data"], "description": "where"}
    assert PUT.parameters["additionalProperties"] is False


def test_texts_are_answered_as_they_are_and_the_rest_as_json() -> None:
    good = {"box": "text", "number": 2, "things": [{"name": "a", "more": 1}]}
    assert answer(TOOLS, Shelf(), "put", good) == "text: 2"
    assert answer(TOOLS, Shelf(), "put", {**good, "box": "data", "things": []}) == (
        '{"box": "data", "things": [], "none": null}')


@pytest.mark.parametrize(("name", "arguments", "words"), [
    ("burn", {}, "Tool 'burn' not found."), ("__init__", {}, "not found"),
    ("put", {"box": "text", "number": 2}, "'things' is a required property"),
    ("put", {"box": "text", "number": "2", "things": []}, r"put\['number'\]: '2' is not of type 'integer'"),
    ("put", {"box": "text", "number": True, "things": []}, "not of type 'integer'"),
    ("put", {"box": "shelf", "number": 2, "things": []}, r"'shelf' is not one of"),
    ("put", {"box": "text", "number": 2, "things": [{}]}, r"put\['things'\]\[0\]: 'name' is a required property"),
    ("put", {"box": "text", "number": 2, "things": [], "more": 1}, "'more' was unexpected"),
])
def test_a_call_that_does_not_fit_is_refused_in_words(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=words):
        answer(TOOLS, Shelf(), name, arguments)
