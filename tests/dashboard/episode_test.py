"""One episode for the page."""

from __future__ import annotations

from pathlib import Path

from polyturn.dashboard.episode import episode_view
from polyturn.record.index import Index
from polyturn.record.read import read_plain
from tests.dashboard.made import made_run


def test_the_view_is_the_record_and_what_stands_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_run(folder, iterations=2)
    index = Index(folder)
    index.update()
    view = episode_view(folder, index, "learn.1.0.1")
    assert view["episode"] == dict(read_plain(folder))[1, 4]
    assert [[len(s) for s in t if s] for t in view["spelled"]] == [[4, 4, 2, 4, 3, 4], []]
    assert [(m["key"], m["score"]) for m in view["members"]] == [("1.3", 1.0), ("1.4", 0.0)]
    assert view["row"]["stage"] == "learn" and view["row"]["iteration"] == 1
    assert {row["span"] for row in view["credit"]} == {1, 3, 5}


def test_an_unknown_tokenizer_leaves_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made_run(folder, iterations=1)
    (folder / "tokenizers" / "words.json").unlink()
    index = Index(folder)
    index.update()
    assert episode_view(folder, index, "1.1")["spelled"] == [[None] * 6, []]
