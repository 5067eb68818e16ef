"""``--judge``: verdicts of one's own beside the score, and how far the two agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from polyturn.cli.recipe import module_of
from polyturn.cli.subject import MAIN
from polyturn.errors import BadInput, VerifierFailed

if TYPE_CHECKING:
    from polyturn.evaluate.benchmark import Result
    from polyturn.evaluate.judging import Judge
    from polyturn.protocols import Match, Recorder
    from polyturn.types import Episode

Verdicts: TypeAlias = Mapping[str, Any]
"""``pairs``, ``alpha``, ``failed`` (judge -> on how many episodes and why) and ``against``: judge -> what it is worth
by the suite's verdicts; empty without judges."""


def judges_in(files: Sequence[str], matches: Sequence[Match], concurrency: int) -> list[Judge]:
    """The judges that the files hold, named after them. Raises: BadInput for a file without one, and for a name that
    another judge or a suite's verifier has."""
    from polyturn.evaluate.judging import Judge
    from polyturn.evaluate.trials import seats_of

    taken = _verifiers(matches)
    found: list[Judge] = []
    for file in files:
        function = getattr(module_of(file), "judge", None)
        if not callable(function):
            raise BadInput(f"{file} has no function judge(episode); a judge's file needs one that gives True, False, a "
                           "number in 0..1, or None for no verdict")
        name = Path(file).stem
        if name in taken:
            raise BadInput(f"two judges are named {name!r}: a judge has the name of its file; rename {file}")
        taken.append(name)
        found.append(Judge(name, function, seats_of(MAIN), concurrency))
    return found


def _verifiers(matches: Sequence[Match]) -> list[str]:
    found = (getattr(match.suite, "verifier", None) for match in matches)
    return sorted({verifier.name for verifier in found if verifier is not None})


async def judged(
    outcome: Result, judges: Sequence[Judge], matches: Sequence[Match], recorder: Recorder
) -> tuple[Result, Verdicts]:
    """The result with the judges' verdicts on its episodes, whose rows do not change, and how all agree.

    Raises: VerifierFailed for a judge that failed on every episode.
    """
    from dataclasses import replace

    from polyturn.evaluate.recorded import judges_of
    from polyturn.rollout.score import score_with

    groups: Sequence[Any] = outcome.groups
    for judge in judges:
        groups = await score_with(judge, groups, recorder, timeout_s=judge.deadline_s(groups))
    if not judges:
        return outcome, {}
    episodes = [episode for group in groups for episode in group]
    failed = {judge.name: _failed(judge.name, [e for e in episodes if judge.name in e.scores]) for judge in judges}
    found: dict[str, Any] = {**judges_of(episodes, MAIN, None, None), "against": {},
                             "failed": {name: told for name, told in failed.items() if told}}
    own = _verifiers(matches)
    for judge in judges if len(own) == 1 else ():
        try:
            found["against"][judge.name] = judges_of(episodes, MAIN, judge.name, own[0])["corrected"]
        except BadInput as error:
            found["against"][judge.name] = {"unknown": str(error)}
    return replace(outcome, groups=tuple(groups)), found


def _failed(judge: str, episodes: Sequence[Episode]) -> str:
    """How many episodes a judge failed on, and the first with its reason; empty for none."""
    from polyturn.evaluate.judging import failures

    found = failures(judge, episodes)
    if not found:
        return ""
    first = f"episode {found[0].target['episode']}: {found[0].reason}"
    if len(found) == len(episodes):
        raise VerifierFailed(f"judge {judge} failed on each of {len(episodes)} episodes; {first}")
    return f"failed on {len(found)} of {len(episodes)} episodes, which count as abstained; {first}"


def judge_lines(subject: str, verdicts: Verdicts) -> Iterator[str]:
    """The table of agreement, and a line for each judge."""
    from polyturn.cli.compare import judges_text

    if not verdicts:
        return
    yield judges_text(subject, verdicts)
    for name, told in verdicts["failed"].items():
        yield f"{name} {told}"
    for name, one in verdicts["against"].items():
        if "unknown" in one:
            yield f"{name}: {one['unknown']}"
        else:
            yield (f"{name}, against the score: sensitivity {one['sensitivity']:.2f}, specificity "
                   f"{one['specificity']:.2f}; says {one['observed']:.2f}, which means {one['rate']:.2f} "
                   f"[{one['low']:.2f}, {one['high']:.2f}]")
