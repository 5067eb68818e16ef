"""End-state verification: the hash of a database against the gold one, and what had to be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from polyturn.errors import BadInput
from polyturn.protocols import Scores
from polyturn.types import Episode, Group, Score, Seat


def hashable(value: Any) -> Any:
    """The value as nested tuples: a mapping as its (key, value) pairs by key, a list in its order, a set sorted.

    >>> hashable({"b": [1, 2], "a": {"x": None}})
    (('a', (('x', None),)), ('b', (1, 2)))
    """
    if isinstance(value, Mapping):
        return tuple((key, hashable(inner)) for key, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(hashable(inner) for inner in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(hashable(inner) for inner in value))
    return value


def sha256_of(state: Any) -> str:
    """sha256, in hexadecimal, of the text of :func:`hashable`; equal states have equal hashes in any order of keys.

    >>> sha256_of({"a": 1})[:8] == sha256_of({"a": 1})[:8], sha256_of({"a": 1}) == sha256_of({"a": 1.0})
    (True, False)
    """
    return sha256(str(hashable(state)).encode("utf-8", "surrogatepass")).hexdigest()


def was_said(output: str, said: Sequence[str]) -> bool:
    """Whether one message holds the text, in any case, commas of the message left out.

    >>> was_said("1250", ["That is 1,250 dollars."]), was_said("Packed", ["it is packed"]), was_said("12", ["1", "2"])
    (True, True, False)
    """
    wanted = output.lower()
    return any(wanted in text.lower().replace(",", "") for text in said)


@dataclass(frozen=True, slots=True)
class EndState:
    """A :class:`polyturn.protocols.Verifier`: 1 if the database ended as it should and every required text was said to
    the user, else 0; ``parts`` tell both.

    It reads ``db_sha256``, ``gold_sha256``, ``said`` (the agent's messages), ``outputs``, ``valid`` and ``stopped_by``
    from ``Episode.final``, as :class:`polyturn.envs.dialogue.Dialogue` leaves them. It abstains where the play is not
    ``valid`` or was stopped by ``user``'s spent budget: a user that failed is not the agent's fault, nor its success.
    ``talked`` asks besides that the agent said something, so that a task whose gold changes nothing is not won by
    doing nothing. ``stopped`` asks besides that somebody ended the dialogue as its rules provide (``stopped_by``); the
    part ``before_stop`` is then what the score would be without that.
    """

    seat: Seat = "agent"
    user: Seat = "user"
    talked: bool = False
    stopped: bool = False
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score. Raises: BadInput for a final state without these fields."""
        return {
            episode.id: {self.seat: self.score(episode)} for group in groups for episode in group
            if episode.stop.kind != "error"
        }

    def score(self, episode: Episode) -> Score:
        """The score of one episode."""
        final = episode.final
        if final is None:
            return Score(None)
        missing = {"db_sha256", "gold_sha256", "said", "outputs", "valid", "stopped_by"} - final.keys()
        if missing:
            raise BadInput(f"the final state of episode {episode.id} lacks {sorted(missing)}; end-state verification "
                           "reads what polyturn.envs.dialogue leaves")
        if not final["valid"] or (episode.stop.kind == "budget" and episode.stop.seat == self.user):
            return Score(None)
        state = final["db_sha256"] == final["gold_sha256"]
        told = all(was_said(output, final["said"]) for output in final["outputs"])
        spoke = not self.talked or any(final["said"])
        reached = state and told and spoke
        success = reached and (not self.stopped or bool(final["stopped_by"]))
        before = {"before_stop": float(reached)} if self.stopped else {}
        return Score(float(success), success=success, parts={"db": float(state), "said": float(told), **before})
