"""The journal of a decoupled stage: places, rewinds, other stages, and damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyturn.errors import BadInput
from polyturn.learn.decoupled.journal import FILE, Journal


def test_what_stands_behind_a_place(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "learn")
    for number in range(3):
        journal.write({"judged": number})
    place = journal.lines
    other = Journal(tmp_path, "warm")
    other.write({"judged": 99})
    other.close()
    journal.close()
    again = Journal(tmp_path, "learn")
    assert (place, again.lines) == (3, 4) and again.behind(place) == [] and len(again.behind(0)) == 3
    again.write({"took": [1, 2], "update": 0})
    again.write({"judged": 3})
    assert again.behind(place) == [{"took": [1, 2], "update": 0}, {"judged": 3}]
    again.begin_again(place, [{"took": [1, 2], "update": 0}])
    again.write({"judged": 4})
    assert again.behind(place) == [{"took": [1, 2], "update": 0}, {"judged": 4}]
    assert [row.get("judged") for row in again.behind(0)] == [0, 1, 2, None, 4]
    again.close()


def test_a_torn_last_line_is_no_line_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "learn")
    journal.write({"judged": 1})
    journal.write({"judged": 2})
    journal.close()
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert Journal(tmp_path, "learn").behind(0) == [{"judged": 1}]
    path.write_bytes(path.read_bytes().replace(b'"judged":1', b'"judged":7'))
    with pytest.raises(BadInput, match="line 1"):
        Journal(tmp_path, "learn").behind(0)
