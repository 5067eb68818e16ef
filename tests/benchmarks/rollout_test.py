"""All contenders are shown the same ids and write as many; ours is recorded whole."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.dialogue import Script, lengths, linear, read, scripts, write
from benchmarks.reference import Shape, Work
from benchmarks.rollout import Ours, main
from benchmarks.rollout_hf import Continuous, count, generate, model_of

WORK = Work(groups=2, rollouts=3, turns=3)


def test_lengths_are_of_the_work_and_differ_by_rollout() -> None:
    found = [lengths(WORK, g, k) for g in range(2) for k in range(3)]
    assert all(len(each) == 3 and all(8 <= n <= 16 for n in each) for each in found)
    assert len(set(found)) > 1 and found == [lengths(WORK, g, k) for g in range(2) for k in range(3)]


def test_scripts_survive_their_file(tmp_path: Path) -> None:
    made = [linear(0, ((5, 6), (7,)), (8, 9)), Script(1, ((5,), (6,)), (10, 11), (0, 1))]
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


def test_a_prompt_keeps_what_its_script_says() -> None:
    path = [1, 2, 3, 9, 9]
    Script(0, ((1, 2, 3), (7,)), (2, 1), (0, 2)).prompt(path, 1)
    assert path == [1, 2, 7]
    path = [1, 2, 3, 9, 9]
    linear(0, ((1, 2, 3), (7,)), (2, 1)).prompt(path, 1)
    assert path == [1, 2, 3, 9, 9, 7]


@pytest.mark.model
@pytest.mark.parametrize("shape", ["window", "summary"])
def test_windows_and_summaries_are_branches_and_shown_to_others_alike(shape: Shape) -> None:
    work = Work(groups=1, rollouts=2, turns=5, shape=shape, window=1, summary_every=2, summary_tokens=20)
    ours = Ours("float32", work, 1)
    ours.run(2)
    ours.policy.close()
    found = scripts(ours.groups)
    replies = [lengths(work, 0, k) for k in range(2)]
    if shape == "window":
        # prompts 0 and 1 are a path; from the third on only the first message of 200 ids, or what the template shares
        # with the next one, is kept, and the reply and message before are shown again
        assert [script.lengths for script in found] == replies
        for script, reply in zip(found, replies, strict=True):
            assert script.keep[1] == 200 + reply[0] and all(190 <= k <= 210 for k in script.keep[2:])
            assert all(30 + 30 + 8 - 10 <= len(ids) <= 30 + 30 + 16 + 10 for ids in script.shown[2:])
    else:
        # before replies 2 and 4 a summary of 20 ids is written; the prompt after it begins again at the first message
        assert [(*s.lengths[:2], *s.lengths[3:5], s.lengths[6]) for s in found] == replies
        assert all(s.lengths[2] == s.lengths[5] == 20 for s in found)
        assert all(190 <= s.keep[k] <= 210 for s in found for k in (3, 6))
    model = model_of("float32", 1)
    for written in (generate(model, found, 2), Continuous(model, 128, 64).run(found)):
        assert [tuple(map(len, own)) for own in written] == [script.lengths for script in found]


@pytest.mark.model
def test_samplers_of_transformers_write_as_many() -> None:
    shown = (tuple(range(100, 140)), tuple(range(200, 210)))
    work = [linear(0, shown, (3, 5)), linear(0, shown, (4, 2))]
    model = model_of("float32", 2)
    for written in (generate(model, work, 2), Continuous(model, 64, 64).run(work)):
        assert [[len(reply) for reply in own] for own in written] == [[3, 5], [4, 2]] and count(written) == 14


@pytest.mark.model
def test_the_command_prints_ratios_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--groups", "1", "--turns", "2", "--layers", "1", "--repeats", "1", "--dtype", "float32",
          "--against", "generate", "engine", "--only", "rollouts", "step"])  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ratios"].keys() == {"transformers generate float32", "ours by continuous float32"}
    assert told["limits"].keys() == {"decode step float32"} and told["limits"]["decode step float32"] > 0
