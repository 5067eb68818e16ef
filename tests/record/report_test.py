"""The report: whole, self-contained, escaped, and there for every run, also one that broke off."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyturn.errors import BadInput
from polyturn.record.report import gather, write_report
from polyturn.record.write import RunRecorder, open_run
from tests.record.markup import Checked
from tests.record.sample_run import Plan, sample_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run(tmp_path_factory.mktemp("runs") / "run", Plan(stage1=2, stage2=6, tasks=1, rollouts=2))


def test_the_report_is_whole_and_asks_for_nothing(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    text = path.read_text("utf-8")
    found = Checked(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.seen)
    assert not {"src", "href", "onload", "onclick"} & {name for name, _ in found.attributes}
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "width=device-width" in text
    said = " ".join(found.text)
    for expected in ("quickstart", "finished", "stage2 − stage1", "+0.34", "+0.24 to +0.44", "guess the number",
                     "Exploitability", "Entropy of the policy", "more measurements", "You hold the queen 👑 & one chip",
                     "player_1", "last iteration, best", "advantage"):
        assert expected in said, expected
    assert "0.61" in said and "0.52 – 0.70" in said and len(text) < 400_000
    assert found.seen.count("svg") >= 6 * 4 + 4 + 6


def test_rows_stand_in_the_order_that_a_reader_expects(run: Path) -> None:
    """results.json may hold them in any order."""
    text = write_report(run).read_text("utf-8")
    places = [text.index(f"<td>{name}</td>") for name in ("null", "random", "base", "stage1", "stage2", "oracle")]
    assert places == sorted(places)


def test_it_is_written_again_over_itself(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_what_was_played_is_counted(run: Path) -> None:
    """8 iterations of 3 tasks of 2 rollouts; Kuhn poker has two seats."""
    facts = gather(run)
    assert (facts.episodes, len(facts.metrics)) == (8 * 3 * 2, 8)
    assert {play.at for play in facts.played} == set(range(8))
    assert all(set(p.scores) == ({"player_0", "player_1"} if p.family == "kuhn_poker" else {"agent"})
               for p in facts.played)


def test_a_killed_run_has_a_report_too(tmp_path: Path) -> None:
    recorder = open_run(tmp_path / "run", recipe="mine <b>", text="<script>alert(1)</script>", settings={"a": "<i>"})
    recorder.metrics(0, {"loss/odd": 0.5}, stage="stage1")
    recorder.close("failed", "NotFinite: <the loss> is nan")
    text = write_report(tmp_path / "run").read_text("utf-8")
    said = " ".join(Checked(text).text)
    assert "mine <b>" in said and "<script>alert(1)</script>" in said and "NotFinite: <the loss> is nan" in said
    assert "No results were saved" in said and "loss/odd" in said


def test_an_empty_run_has_a_report_too(tmp_path: Path) -> None:
    with RunRecorder(tmp_path / "run"):
        Checked(write_report(tmp_path / "run").read_text("utf-8"))


def test_unknown_numbers_in_results(run: Path, tmp_path: Path) -> None:
    with RunRecorder(tmp_path / "run"):
        pass
    results = json.loads((run / "results.json").read_text())
    row = results["table"]["base"]["mixture"]
    row.update(mean=None, low=None, high=None, illegal=None, seconds=None)
    results["table"]["stage1"]["mixture"].update(low=None, high=None)
    results["paired"]["stage2_minus_stage1"]["mixture"].update(low=None)
    del results["table"]["null"]["environments"]["kuhn_poker"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    Checked(write_report(tmp_path / "run").read_text("utf-8"))
    for bad, message in (("{", "is not JSON"), ("[]", "holds a list; expected an object")):
        (tmp_path / "run" / "results.json").write_text(bad)
        with pytest.raises(BadInput, match=message):
            write_report(tmp_path / "run")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no run folder: it is empty"):
        write_report(tmp_path)
