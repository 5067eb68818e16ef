"""A whole step of ours and of TRL: the same tokens shown, written and trained; what is compared is added up right."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.dialogue import linear
from benchmarks.learner import Case
from benchmarks.reference import Work
from benchmarks.report import Report
from benchmarks.step import add, command, made_parser, main, rounds
from benchmarks.step_trl import chosen, rows_of


def took(seconds: float, cpu: float, trained: float = 96.0) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": cpu, "peak": 2.0**30, "rollouts": seconds / 4, "written": 96.0,
            "trained": trained}  # fmt: skip


def test_ratios_by_hand() -> None:
    # two rounds of two updates: ours 1 + 1 and 2 + 2 s, TRL 6 + 6 and 9 + 9 s; medians 3 and 15
    report = Report("", "")
    found = {
        "ours": [[took(1, 2), took(1, 2)], [took(2, 2), took(2, 2)]],
        "trl": [[took(6, 10), took(6, 10)], [took(9, 10), took(9, 10)]],
    }
    add(report, "float32 full", found, {"ours": [2304, 64], "trl": ["generate", 64, 2]})
    assert report.ratios == {"trl float32 full": 5.0}
    details = report.details["float32 full trl"]
    assert details["worst_s"] == 18 and details["cpu_times"] == 5.0 and details["rollouts_share"] == 0.25
    assert details["setting"] == ["generate", 64, 2] and details["peak_gib"] == 1.0


def test_contenders_that_trained_other_tokens_are_not_compared() -> None:
    found = {"ours": [[took(1, 1)]], "trl": [[took(1, 1, trained=95.0)]]}
    with pytest.raises(AssertionError, match="not the same work"):
        add(Report("", ""), "float32 full", found, {"ours": [], "trl": []})


class Counted:
    """What a contender is to rounds."""

    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def go(self) -> dict[str, float]:
        self.order.append(self.name)
        return took(len(self.order), 0)


def test_rounds_take_turns_and_the_first_is_not_counted() -> None:
    order: list[str] = []
    running = {name: Counted(name, order) for name in ("ours", "trl")}
    found = rounds(running, 2, 1)  # type: ignore[arg-type]
    assert order == ["ours", "trl", "trl", "ours", "ours", "trl"]
    assert [one[0]["seconds"] for one in found["trl"]] == [3, 6]


def test_rows_and_scripts_of_a_batch() -> None:
    a, b = linear(0, ((5, 6), (7,)), (2, 1)), linear(1, ((9,), (7,)), (1, 1))
    assert chosen(["1", "0"], [a, b]) == [b, a]
    with pytest.raises(IndexError):
        chosen(["0", "0"], [a, b])
    row, other = rows_of([a, b], [[[1, 2], [3]], [[4], [5]]])
    assert row.ids.tolist() == [5, 6, 1, 2, 7, 3] and row.trained_T.tolist() == [0, 0, 1, 1, 0, 1]
    assert (row.prompt, other.prompt, other.rollout) == (2, 1, 1)


def test_a_contender_is_told_the_same_work(tmp_path: Path) -> None:
    given = made_parser().parse_args(["--no-sweep", "--threads", "1"])
    line = command("trl", Case("bfloat16", "lora", 3), Work(groups=2, turns=4), tmp_path, given)
    told: Namespace = made_parser().parse_args(line[3:])
    assert (told.dtype, told.train, told.layers) == (["bfloat16"], ["lora"], 3)
    assert (told.groups, told.turns, told.threads, told.no_sweep) == (2, 4, 1, True)
    assert (told.contender, told.folder) == ("trl", tmp_path)


@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_command_compares_the_same_updates(train: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--groups", "1", "--turns", "2", "--layers", "1", "--repeats", "1", "--no-sweep", "--dtype",
          "bfloat16" if train == "full" else "float32", "--train", train])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    (name,) = told["ratios"]
    assert name.startswith("trl ") and told["ratios"][name] > 0
    lengths = [each["tokens_written"] for each in told["details"].values()]
    assert len(lengths) == 2 and lengths[0] == lengths[1] >= 2 * 8 * 8
