"""Scores that others earned: which fall when their words are blanked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyturn.rollout.borrowed import blanked, borrowed
from polyturn.types import Episode, Group, Message, Score, Span, Task, Trajectory, Turn, assistant, user


@dataclass
class By:
    read: Callable[[Episode], float | None]
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Any:
        return {e.id: {"agent": Score(self.read(e))} for group in groups for e in group}


def played(number: int, found: str, said: str) -> Episode:
    """Asked, searched, found, answered; the environment has the last word."""
    messages = (user("Where is the key?"), assistant("search"), Message("tool", found, origin="tool"), assistant(said),  # type: ignore[arg-type]
                user("Thank you."))
    turns = (Turn(0, "agent", "main", (0,), 1, ()), Turn(1, "agent", "main", (0, 1, 2), 3, ()))
    return Episode(f"e{number}", Task("t", "f"), 0, trajectories=(
        Trajectory("agent", "main", messages=messages, turns=turns, spans=(Span(-1, None),)),), final={"said": said})  # type: ignore[arg-type]


async def scored(verifier: By, *episodes: Episode) -> list[Group]:
    found = await verifier([episodes])
    return [tuple(replace(e, scores={"score": found[e.id]}) for e in episodes)]


def text(episode: Episode, *roles: str) -> str:
    return " ".join(m.text for t in episode.trajectories for m in t.messages if m.role in roles)


EPISODES = (played(0, "the shelf holds it", "I do not know"), played(1, "nothing", "the shelf"),
            played(2, "the shelf", "the shelf"))


async def test_a_score_of_the_whole_transcript_is_borrowed() -> None:
    """Only the first is paid for the tool's words alone: the others said it themselves."""
    everything = By(lambda e: float("shelf" in text(e, "tool", "assistant", "user")))
    assert await borrowed(everything, await scored(everything, *EPISODES)) == 1


async def test_scores_of_what_the_policy_did_are_not() -> None:
    for read in (lambda e: float("shelf" in text(e, "assistant")), lambda e: float("shelf" in e.final["said"]),
                 lambda e: float("key" in text(e, "user")), lambda e: None):
        verifier = By(read)
        assert await borrowed(verifier, await scored(verifier, *EPISODES)) == 0


async def test_another_verifiers_episodes_are_left_alone() -> None:
    everything = By(lambda e: float("shelf" in text(e, "tool")))
    assert await borrowed(By(everything.read, "other"), await scored(everything, *EPISODES)) == 0
    assert await borrowed(everything, []) == 0


def test_blanking_keeps_the_task_the_replies_and_who_spoke() -> None:
    before, after = EPISODES[0].trajectories[0], blanked(EPISODES[0]).trajectories[0]
    assert [m.role for m in after.messages] == [m.role for m in before.messages]
    assert [m.text for m in after.messages] == ["Where is the key?", "search", "", "I do not know", ""]
    assert after.turns == before.turns
