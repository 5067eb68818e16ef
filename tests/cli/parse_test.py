"""Arguments and the JSON line."""

from __future__ import annotations

import json

import pytest

from polyturn.cli.parse import Parser, check_flags, finite, positive, print_json, table_text
from polyturn.errors import BadInput, UnknownName


def parser() -> Parser:
    made = Parser("eval", "Evaluate.", ["polyturn eval guess"])
    made.add_argument("subject")
    made.add_argument("-n", type=positive, default=1)
    made.add_argument("--json", action="store_true")
    return made


def test_known_arguments() -> None:
    found = parser().all_known(["guess", "-n", "3", "--json"])
    assert (found.subject, found.n, found.json) == ("guess", 3, True)


@pytest.mark.parametrize(("arguments", "kind", "said"), [
    (["guess", "--jsn"], UnknownName, "did you mean '--json'"),
    (["guess", "--js"], UnknownName, "did you mean '--json'"),  # no abbreviations: a prefix is not the flag
    ([], BadInput, "subject"),
    (["guess", "more"], BadInput, "unexpected 'more'"),
    (["guess", "-n", "0"], BadInput, "no whole number from 1 on"),
    (["guess", "-n", "two"], BadInput, "'two'"),
])
def test_wrong_arguments(arguments: list[str], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        parser().all_known(arguments)


def test_values_are_not_taken_for_flags() -> None:
    check_flags(["--lr", "-3e-5", "--", "--name=x"], ["--lr", "--name"])


def test_json_is_one_line_of_finite_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": [float("nan"), 1.5, {"c": float("-inf")}], "a": "ä\nb", 3: (True, None)})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"b": [None, 1.5, {"c": None}], "a": "ä\nb", "3": [True, None]}


def test_finite_keeps_what_is_finite() -> None:
    assert finite({"x": [1, 2.5, "nan", None, True]}) == {"x": [1, 2.5, "nan", None, True]}


def test_table_columns_are_aligned() -> None:
    assert table_text([["a", "long"], ["longer", "b"]]) == "a       long\nlonger  b"
