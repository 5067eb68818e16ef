"""The report: whole, self-contained, escaped, and there for every run, also one that broke off."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from polyturn.errors import BadInput
from polyturn.record.curves import Played, mean_interval, pick
from polyturn.record.dialogues import as_dialogue
from polyturn.record.report import gather, write_report
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Call, Episode, Event, Part, Span, Stop, Task, Trajectory, Turn, assistant, user
from tests.record.sample_run import Plan, sample_run

VOID = {"meta", "br", "img", "input", "hr"}


class Checked(HTMLParser):
    """Every tag closed in order; the visible text and the attributes kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


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


HOSTILE = '</div><img src=x onerror="alert(1)">\x1b[2J\u202e\x00 𝔘 " & \'</style><script>'


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    """Every text field of an episode holds markup: none of it becomes a tag."""
    span = Span(-1, np.array([5, 6], np.int32), True, np.array([-0.5, -0.5]))
    call = Call(HOSTILE, HOSTILE, None, HOSTILE, HOSTILE)
    messages = (
        user((Part("text", HOSTILE * 20), Part("image", HOSTILE, HOSTILE)), name=HOSTILE),  # type: ignore[arg-type]
        assistant((Part("reasoning", HOSTILE), Part("text", HOSTILE)), calls=(call,)),  # type: ignore[arg-type]
    )
    turn = Turn(0, HOSTILE, HOSTILE, (0,), 1, (0,), "length", HOSTILE, HOSTILE, rewards={HOSTILE: 1.0}, dropped=HOSTILE)
    episode = Episode(
        HOSTILE, Task(HOSTILE, HOSTILE), 0, error=HOSTILE, stop=Stop("error", HOSTILE),
        trajectories=(Trajectory(HOSTILE, HOSTILE, None, messages, (turn,), (span,)),),
        events=(Event(1, "invalid", HOSTILE),),
    )
    row = {"span": 0, "weight": np.array([0.5, 0.0]), "advantage": np.array([-1.0, np.nan]), "old": np.array([-0.5, 0]),
           "entropy": None}
    text = as_dialogue(episode, {(HOSTILE, HOSTILE, 0): row}, title=HOSTILE, score=0.5)
    found = Checked(text)
    assert not {"img", "script", "style"} & set(found.seen)
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert "\x1b" not in text and "\x00" not in text and "␛[2J" in text and "𝔘" in text
    assert "--hue:var(--worse)" in text and 'class="idle"' in text and "−1" in text


def test_advantages_colour_replies() -> None:
    """The largest advantage of a dialogue has full depth; half of it has half."""
    span = Span(-1, np.array([5], np.int32), True, np.array([-0.5]))
    turns = tuple(Turn(i, "a", "main", (0,), 1, (i,)) for i in range(2))
    trajectory = Trajectory("a", "main", None, (user("x"), assistant("y")), turns, (span, replace(span, parent=0)))
    episode = Episode("e", Task("t", "f"), 0, trajectories=(trajectory,))
    credit = {("a", "main", i): {"span": i, "weight": np.array([1.0]), "advantage": np.array([value]),
                                 "old": np.array([-0.5]), "entropy": np.array([0.25])}
              for i, value in enumerate((2.0, -1.0))}
    text = as_dialogue(episode, credit, title="t", score=None)
    assert text.count("--depth:100%;--hue:var(--good)") == 2        # the reply and its one token
    assert text.count("--depth:50%;--hue:var(--worse)") == 2
    assert "token 5 · log-prob −0.5 · advantage 2 · weight 1 · entropy 0.25" in text


def test_dialogues_worth_a_look() -> None:
    """Best and worst of the last iteration, worst of the first; never one twice; no failed or unscored ones."""
    def play(number: int, at: int | None, score: float | None) -> Played:
        return Played((1, number), "guess", "g", at, {} if score is None else {"a": score}, 0, 1)

    plays = [play(0, 0, 0.5), play(1, 0, 0.25), play(2, 3, 0.0), play(3, 3, 1.0), play(4, None, 1.0), play(5, 3, None)]
    assert {title: p.key[1] for title, p in pick(plays).items()} == {
        "guess: last iteration, best": 3, "guess: last iteration, worst": 2, "guess: first iteration, worst": 1}
    assert len(pick([play(0, 0, 0.5)])) == 1 and pick([]) == {}


def test_intervals() -> None:
    """Two values 0 and 1: mean 0.5, standard deviation sqrt(0.5), half = 12.71 * sqrt(0.5) / sqrt(2) = 6.355."""
    assert mean_interval([0.0, 1.0]) == pytest.approx((0.5, -5.855, 6.855))
    assert mean_interval([0.25]) == (0.25, 0.25, 0.25)
    many = mean_interval([0.0, 1.0] * 50)                           # sd = sqrt(25/99); half = 1.96 * sd / 10
    assert many == pytest.approx((0.5, 0.5 - 0.0984938, 0.5 + 0.0984938), abs=1e-6)
