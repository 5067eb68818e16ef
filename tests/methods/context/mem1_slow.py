"""MEM1 in plain Python: masks pair by pair, rewards word by word, the loss over rollouts and turns."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

Place = tuple[str, int]
"""(kind, turn) of a token; kinds are question, state, action, result."""


def intended(places: Sequence[Place]) -> list[list[bool]]:
    """Row sees column: the memory of the turn that wrote the row (for a result: of the turn that first reads it)."""
    found = []
    for i, (kind, turn) in enumerate(places):
        row = []
        for j, (other, then) in enumerate(places):
            sees = j <= i and (
                other == "question" or (kind != "question" and then == turn)
                or (kind in ("state", "action") and other != "question" and then == turn - 1)
            )
            row.append(sees)
        found.append(row)
    return found


def official(places: Sequence[Place]) -> list[list[bool]]:
    """As the release computes it."""
    found = []
    for i, (kind, turn) in enumerate(places):
        row = []
        for j, (other, then) in enumerate(places):
            sees = kind == other and (turn == then or kind == "question")
            if kind in ("state", "action"):
                sees = sees or other == "question" or (then == turn - 1 and other in ("action", "result"))
            if kind == "action":
                sees = sees or (other == "state" and then == turn)
            row.append(sees and j <= i)
        found.append(row)
    return found


def plain(text: str) -> str:
    words = "".join(" " if c.isspace() else c for c in text.lower() if c not in string.punctuation).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def reward(reply: str, answers: Sequence[Sequence[str]]) -> float:
    """One point for each position that is right."""
    at = reply.find("<answer>")
    search = reply.find("<search>")
    end = reply.find("</answer>", at)
    if at < 0 or end < 0 or (0 <= search < at and reply.find("</search>", search) >= 0):
        return 0.0
    points = 0.0
    said = reply[at + 8 : end].split(";")
    for place, accepted in enumerate(answers):
        given = said[place] if place < len(said) else ""
        if plain(given) and plain(given) in [plain(answer) for answer in accepted]:
            points += 1.0
    return points


def reward_by_set(reply: str, answers: Sequence[Sequence[str]]) -> float:
    """The wrong unit: an answer counts wherever it stands."""
    inside = reply.partition("<answer>")[2].partition("</answer>")[0]
    given = {plain(part) for part in inside.split(";")}
    return float(sum(any(plain(answer) in given for answer in accepted) for accepted in answers))


Spoken = Sequence[Sequence[tuple[float, float]]]
"""Of a rollout, turn by turn, (log-probability, the same before the update) of what it wrote."""


def loss(rewards: Sequence[float], rollouts: Sequence[Spoken], *, by_turn: bool = False) -> float:
    """One group: the mean over words of the clipped term. ``by_turn``: the wrong unit, every turn counts the same."""
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in rewards) / len(rewards))
    count, total = 0.0, 0.0
    for one, rollout in zip(rewards, rollouts, strict=True):
        advantage = 0.0 if max(rewards) == min(rewards) else (one - mean) / (deviation + 1e-6)
        for turn in rollout:
            share = 1 / len(turn) if by_turn else 1.0
            for logprob, old in turn:
                ratio = math.exp(logprob - old)
                count += share
                total += share * min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    return -total / count
