from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import RoleBaseline, group_standardised
from polyturn.agents.chat import AnswerAgent, ChatAgent
from polyturn.arrays import Tokens, Tree, Turns
from polyturn.audit.report import audit_run
from polyturn.errors import NotTrainable, VerifierFailed
from polyturn.learn.curriculum import Mixture, Share
from polyturn.learn.learner import Learner
from polyturn.learn.loop import Rule, Stage, imitation, passed, train, zero_groups
from polyturn.learn.run import Run
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.weighting import token_mean
from polyturn.policies.dictated import Dictated
from polyturn.policies.local import Local
from polyturn.programs import ProgramSuite, Table, as_env
from polyturn.progress import make_progress
from polyturn.protocols import Player, Spec
from polyturn.record.read import read_credit, read_episodes, read_metrics
from polyturn.record.write import open_run
from polyturn.rollout.pool import Pool, without_errors
from polyturn.types import FloatArray, Group, Sampling, Score, Task, assistant
from polyturn.waits import waits
from tests.policies.tiny import tiny_local, tiny_model
from tests.tiny import tokens_of


async def vowels(task: Task, seed: int, table: Table) -> Mapping[str, Any]:
    """Two asks; the share of the reply's bytes that are 'a'..'m'."""
    said = [(await table.ask("agent", f"say {number}")).text for number in range(2)]
    letters = "".join(said)
    return {"share": sum("a" <= letter <= "m" for letter in letters) / max(len(letters), 1)}


class ByShare:
    name = "score"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(e.final.get("share", 0.0))} for group in groups for e in group}


def suite() -> ProgramSuite:
    tasks = [Task(f"t{i}", "vowels") for i in range(6)]
    return ProgramSuite(Spec("vowels"), as_env(vowels), {"train": tasks}, verifier=ByShare())  # type: ignore[arg-type]


def stage(model: Local, *, iterations: int, rule: Rule | None = None, lr: float = 3e-3) -> Stage:
    cast = lambda task: {"agent": Player(lambda: ChatAgent(sampling=Sampling(max_tokens=6)), "main")}  # noqa: E731
    mixture = Mixture([Share(suite(), cast, frozenset({"agent"}), 2, 4)], seed=3)
    baseline = RoleBaseline()
    rule = rule or Rule(baseline, token_mean, policy_gradient)
    learner = Learner(model.model, lr=lr)
    memory = {"baseline": baseline} if rule.advantage is baseline else {}
    return Stage("play", mixture, {"main": model}, model, learner, rule, iterations, pool=Pool(4), memory=memory)


def a_run(folder: Path, *, resume: bool = False) -> Run:
    return Run(folder, open_run(folder, recipe="test", resume=resume), make_progress(StringIO()), deterministic=True)


def weights(model: Local) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def numbers(run: Run) -> list[dict[str, float]]:
    timed = ("seconds", "per_s")
    return [
        {name: value for name, value in row["values"].items() if not name.endswith(timed)}
        for row in read_metrics(run.folder)
    ]


async def test_a_policy_learns_and_every_trained_token_is_proved(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, run = tiny_local(), a_run(tmp_path / "run")
    await train(run, stage(model, iterations=24, rule=Rule(group_standardised, token_mean, policy_gradient)))
    scores = [row["score/vowels"] for row in numbers(run)]
    assert np.mean(scores[-6:]) > np.mean(scores[:6]) + 0.15, scores
    run.recorder.close()
    report = audit_run(run.folder)
    assert report.faults == () or list(report.faults) == []
    assert report.tokens > 0
    spans = [span for e in read_episodes(run.folder) for t in e.trajectories for span in t.spans]
    versions = {span.version for span in spans if span.sampled}
    assert versions == set(range(24))
    assert (run.model_folder("play") / "model.safetensors").exists()
    model.close()


async def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole, whole_run = tiny_local(deterministic=True), a_run(tmp_path / "whole")
    await train(whole_run, stage(whole, iterations=5), save_every=2)
    whole_run.recorder.close()

    first, broken = tiny_local(deterministic=True), a_run(tmp_path / "broken")

    def boom(i: int, metrics: Mapping[str, float]) -> None:
        if i == 2:
            raise KeyboardInterrupt

    object.__setattr__(broken.progress, "iteration", boom)
    with pytest.raises(KeyboardInterrupt):
        await train(broken, stage(first, iterations=5), save_every=2)
    broken.recorder.close("stopped")

    second, resumed = tiny_local(tiny_model(seed=9), deterministic=True), a_run(tmp_path / "broken", resume=True)
    assert resumed.at == ("play", 2)
    await train(resumed, stage(second, iterations=5), save_every=2)
    resumed.recorder.close()
    assert numbers(resumed) == numbers(whole_run) and len(numbers(resumed)) == 5
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name
    one, other = (list(read_episodes(run.folder)) for run in (whole_run, resumed))
    assert [e.id for e in one] == [e.id for e in other]
    assert [e.final_sha256 for e in one] == [e.final_sha256 for e in other]
    trained = [(row["episode"], row["span"]) for row in read_credit(resumed.folder)]
    assert len(trained) == len(set(trained))
    for model in (whole, first, second):
        model.close()


async def test_without_its_memory_a_resumed_run_would_differ(tmp_path: Path) -> None:
    order = stage(tiny_local(), iterations=1)
    assert set(order.parts) == {"learner", "baseline"}
    order.model.close()


async def test_scripted_tokens_need_the_waiver(tmp_path: Path) -> None:
    model = tiny_local()
    told = Dictated(name="main", chat=model.chat)
    cast = lambda task: {"agent": Player(lambda: AnswerAgent(lambda ask: assistant("abc")), "main")}  # noqa: E731
    mixture = Mixture([Share(suite(), cast, frozenset({"agent"}), 2, 1)])
    rule = replace(imitation(), demonstrations=False)
    learner = Learner(model.model, lr=3e-3)
    order = Stage("warm", mixture, {"main": told}, model, learner, rule, 6)
    refused = a_run(tmp_path / "refused")
    with pytest.raises(NotTrainable, match="demonstrations=True"):
        await train(refused, order)
    refused.recorder.close()
    run = a_run(tmp_path / "waived")
    await train(run, replace(order, rule=imitation()))
    losses = [row["learner/loss"] for row in numbers(run)]
    assert losses[-1] < losses[0] - 0.5
    run.recorder.close()
    assert all(row["waiver"] == "demonstrations" for row in read_credit(run.folder))
    assert list(audit_run(run.folder).faults) == []
    model.close()


async def test_the_best_model_so_far_is_kept(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    given = iter([0.2, 0.9, 0.4])

    async def judge(done: int) -> float:
        return next(given)

    order = stage(model, iterations=3)
    kept: list[int] = []
    save = model.save
    model.save = lambda folder: (kept.append(model.version), save(folder))  # type: ignore[assignment, method-assign]
    await train(run, order, evaluate=judge, evaluate_every=1)
    assert kept == [1, 2, 3]  # the first, the better second, and the end
    assert [row["evaluate/score"] for row in numbers(run)] == [0.2, 0.9, 0.4]
    assert (run.model_folder("play-best") / "model.safetensors").exists()
    run.recorder.close()
    model.close()


async def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    kept: list[tuple[str, int]] = []

    async def part(iterations: int, given: list[float], *, resume: bool) -> None:
        model, run = tiny_local(), a_run(tmp_path / "run", resume=resume)
        scores, save = iter(given), model.save
        model.save = lambda folder: (kept.append((folder.name, model.version)), save(folder))  # type: ignore[assignment, method-assign]

        async def judge(done: int) -> float:
            return next(scores)

        await train(run, stage(model, iterations=iterations), evaluate=judge, evaluate_every=1)
        run.recorder.close()
        model.close()

    await part(2, [0.9, 0.3], resume=False)
    await part(4, [0.5, 0.95], resume=True)
    assert [version for name, version in kept if name == "play-best"] == [1, 4]  # 0.5 is no new best


def test_stages_passed_are_known_by_their_order(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    order = ("one", "two", "three")
    assert not passed(run, "one", order)
    run.save("two", 3, {})
    assert [passed(run, name, order) for name in order] == [True, False, False]
    run.recorder.close()


class Twice:
    name = "twice"

    async def __call__(self, groups: Any) -> Any:
        return {e.id: {"agent": Score(2 * e.scores["score"]["agent"].value)} for group in groups for e in group}


async def test_a_stages_own_verifier_is_a_channel_and_is_recorded(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    seen: list[tuple[str, ...]] = []

    def credit(turns: Turns) -> FloatArray:
        seen.append(turns.channels)
        assert turns.reward_BK(("twice",)).sum() == pytest.approx(2 * turns.reward_BK(("score",)).sum())
        return group_standardised(turns, channels=("twice",))

    rule = Rule(credit, token_mean, policy_gradient)
    await train(run, replace(stage(model, iterations=1, rule=rule), verifiers=(Twice(),)))
    run.recorder.close()
    assert seen == [("score", "twice")]
    assert all(e.scores["twice"]["agent"].value == 2 * (e.scores["score"]["agent"].value or 0.0)
               for e in read_episodes(run.folder))
    model.close()


@dataclass
class Falls:
    """Scores as :class:`ByShare`, and raises for what it is told to; keeps the deadline it was given."""

    of: str
    name: str = "score"
    seen: list[float | None] = field(default_factory=list)

    async def __call__(self, groups: Any) -> Any:
        self.seen += [wait.deadline_s for wait in waits() if wait.whom == f"verifier {self.name}"]
        if any(e.id.endswith(self.of) for group in groups for e in group):
            raise ValueError("no such key")
        return await ByShare()(groups)


async def test_what_cannot_be_scored_is_not_learned_from_and_is_counted_and_named(tmp_path: Path) -> None:
    model, said = tiny_local(), StringIO()
    run = Run(tmp_path / "run", open_run(tmp_path / "run", recipe="test"), make_progress(said))
    order = replace(stage(model, iterations=2), verifiers=(Falls(".0.1.2", "again"),))
    await train(run, order)
    run.recorder.close()
    rows = numbers(run)
    assert [(row["rollout/unscored"], row["rollout/errors"]) for row in rows] == [(1.0, 0.0), (0.0, 0.0)]
    words = " ".join(said.getvalue().split())
    assert "stage play, iteration 0: 1 of 8 episodes could not be scored, and nothing is learned from them" in words
    assert "play.0.1.2, task t" in words and "verifier again: ValueError: no such key" in words
    learned = {row["episode"] for row in read_credit(run.folder)}
    assert "play.0.1.2" not in learned and len(learned) == 15
    assert [e.id for e in read_episodes(run.folder) if e.stop.kind == "error"] == ["play.0.1.2"]
    assert list(audit_run(run.folder).faults) == []
    model.close()


async def test_a_stages_own_verifiers_have_the_deadline_that_the_user_sets(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    of_suite, own = Falls("none", "one"), Falls("none", "two")
    order = stage(model, iterations=1)
    share = order.curriculum.shares[0]  # type: ignore[attr-defined]
    hasty = replace(share.suite, spec=replace(share.suite.spec, score_timeout_s=7.0))
    mixture = Mixture([replace(share, suite=hasty)], seed=3)
    await train(run, replace(order, curriculum=mixture, verifiers=(of_suite,), name="a"))
    await train(run, replace(order, curriculum=mixture, verifiers=(own,), name="b", score_timeout_s=9.0))
    run.recorder.close()
    assert set(of_suite.seen) == {7.0} and set(own.seen) == {9.0}
    model.close()


async def test_a_verifier_that_scores_nothing_ends_the_run(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    with pytest.raises(VerifierFailed, match=r"none of 8 episodes could be scored; of play.0.0.0, task t\d: ver"):
        await train(run, replace(stage(model, iterations=2), verifiers=(Falls("", "again"),)))
    run.recorder.close()
    assert [e.stop.kind for e in read_episodes(run.folder)] == ["error"] * 8
    model.close()


async def test_an_iteration_without_anything_to_learn_changes_nothing_and_ten_in_a_row_end_the_run(
    tmp_path: Path
) -> None:
    model, said = tiny_local(), StringIO()
    run = Run(tmp_path / "run", open_run(tmp_path / "run", recipe="test"), make_progress(said))

    def only(i: int) -> Rule:
        def second(groups: Sequence[Group]) -> Sequence[Group]:
            return groups if i == 1 else []

        return Rule(group_standardised, token_mean, policy_gradient, (without_errors, second))

    before, order = weights(model), stage(model, iterations=20)
    await train(run, replace(order, rule=only, iterations=1))
    assert all(torch.equal(tensor, weights(model)[name]) for name, tensor in before.items())
    assert numbers(run)[0]["learner/steps"] == 0 and "score/vowels" in numbers(run)[0]
    assert ("iteration 0: of 8 episodes in 2 groups, 0 of them broken, the filters (without_errors, second) left none, "
            "so there is nothing to learn; the weights stay as they are") in said.getvalue()
    with pytest.raises(NotTrainable, match=r"iteration 11: .* it was so in each of the last 10 iterations"):
        await train(run, replace(order, rule=only, name="long"))
    run.recorder.close()
    assert {row["iteration"] for row in read_credit(run.folder)} == {1}
    assert list(audit_run(run.folder).faults) == []
    model.close()


async def test_weights_are_made_before_the_advantage_learns(tmp_path: Path) -> None:
    model, run = tiny_local(), a_run(tmp_path / "run")
    baseline, known = RoleBaseline(), []

    def weighting(turns: Turns, tokens: Tokens) -> FloatArray:
        known.append(dict(baseline.baseline))
        return token_mean(turns, tokens)

    await train(run, stage(model, iterations=1, rule=Rule(baseline, weighting, policy_gradient)))
    run.recorder.close()
    assert known == [{}] and baseline.baseline
    model.close()


def test_the_share_of_groups_without_any_credit() -> None:
    tokens = tokens_of(tiny_tree(), [1, 2, 3, 4], group_N=[0, 0, 1, 2], trajectory_N=[0, 0, 1, 2])
    # Group 0 has one token with credit, groups 1 and 2 none: 2 of 3.
    assert zero_groups(tokens, np.array([0.0, -0.5, 0.0, 0.0])) == pytest.approx(2 / 3)
    assert zero_groups(tokens, np.ones(4)) == 0.0


def tiny_tree() -> Tree:
    return Tree(np.arange(5, dtype=np.int32), np.arange(-1, 4, dtype=np.int32))
