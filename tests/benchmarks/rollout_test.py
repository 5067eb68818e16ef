"""All contenders are shown the same ids and write as many; ours is recorded whole."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.dialogue import Script, lengths, read, scripts, write
from benchmarks.reference import Work
from benchmarks.rollout import Ours, main
from benchmarks.rollout_hf import Continuous, count, generate, model_of

WORK = Work(groups=2, rollouts=3, turns=3)


def test_lengths_are_of_the_work_and_differ_by_rollout() -> None:
    found = [lengths(WORK, g, k) for g in range(2) for k in range(3)]
    assert all(len(each) == 3 and all(8 <= n <= 16 for n in each) for each in found)
    assert len(set(found)) > 1 and found == [lengths(WORK, g, k) for g in range(2) for k in range(3)]


def test_scripts_survive_their_file(tmp_path: Path) -> None:
    made = [Script(0, ((5, 6), (7,)), (8, 9)), Script(1, ((5,), (6,)), (10, 11))]
    write(tmp_path / "scripts.json", made)
    assert read(tmp_path / "scripts.json") == made


@pytest.mark.model
def test_ours_plays_the_reference_work_to_the_id() -> None:
    ours = Ours("float32", WORK, 2)
    written = ours.run(8)
    ours.policy.close()
    found = scripts(ours.groups)
    assert [script.lengths for script in found] == [lengths(WORK, g, k) for g in range(2) for k in range(3)]
    assert written == sum(sum(script.lengths) for script in found)
    assert all([len(ids) for ids in script.shown] == [200, 30, 30] for script in found)
    firsts = Counter((script.group, script.shown[0]) for script in found)
    assert sorted(firsts.values()) == [3, 3], "a group shares its first prompt"
    for one, other in pairwise(scripts(ours.groups)):
        assert one.shown[1] == other.shown[1] or one.group != other.group
    # a prompt is computed once a group, a later observation once a rollout, with the last id of the reply before it
    assert ours.policy.stats.prefilled <= 2 * 200 + 6 * 2 * (30 + 1) + 6


@pytest.mark.model
def test_samplers_of_transformers_write_as_many() -> None:
    shown = (tuple(range(100, 140)), tuple(range(200, 210)))
    work = [Script(0, shown, (3, 5)), Script(0, shown, (4, 2))]
    model = model_of("float32", 2)
    for written in (generate(model, work, 2), Continuous(model, 64, 64).run(work)):
        assert [[len(reply) for reply in own] for own in written] == [[3, 5], [4, 2]] and count(written) == 14


@pytest.mark.model
def test_the_command_prints_ratios_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--groups", "1", "--turns", "2", "--layers", "1", "--repeats", "1", "--dtype", "float32",
          "--against", "generate", "--only", "rollouts", "step"])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ratios"].keys() == {"transformers generate float32"}
    assert told["limits"].keys() == {"decode step float32"} and told["limits"]["decode step float32"] > 0
