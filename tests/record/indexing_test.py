"""Lines as rows of the index; whole tables are tried in ``index_test.py``."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from polyturn.errors import BadInput
from polyturn.record.index import Index
from polyturn.record.indexing import label_of
from polyturn.record.table import as_line
from tests.dashboard.made import made_run


def test_labels() -> None:
    assert label_of("a.b.7.2") == ("a.b", 7)
    assert label_of("rate.3") == ("rate", None)
    assert [label_of(f"a.{number}.2")[1] for number in ("\u00b2", "9" * 31, "9" * 5000)] == [None] * 3


def test_a_number_that_no_index_holds_is_refused(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    path = tmp_path / "run" / "turns.jsonl"
    first = next(line for line in path.read_bytes().splitlines() if b'"attempt":1,' in line)
    row = re.sub(rb',"crc":.*', b"}", first).replace(b'"attempt":1,', b'"attempt":%d,' % 2**63)
    with path.open("ab") as file:
        file.write(as_line(orjson.loads(row)))
    with pytest.raises(BadInput, match=r"turns.jsonl, lines 10 to 10: hold a number that no index holds"):
        Index(tmp_path / "run").update()


def test_a_row_without_its_play_is_refused(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    with (tmp_path / "run" / "turns.jsonl").open("ab") as file:
        file.write(as_line({"turn": 3}))
    with pytest.raises(BadInput, match=r"turns.jsonl, line 10: no attempt and play in the row"):
        Index(tmp_path / "run").update()


def test_a_rewind_to_nothing_is_refused(tmp_path: Path) -> None:
    made_run(tmp_path / "run", iterations=1)
    with (tmp_path / "run" / "scores.jsonl").open("ab") as file:
        file.write(as_line({"rewind": "never", "attempt": 1, "time": 0.0}))
    with pytest.raises(BadInput, match="which was not marked"):
        Index(tmp_path / "run").update()
