"""MUA-RL in plain floats and loops: the end-state score, the group advantage, the state machine."""

from __future__ import annotations

from hashlib import sha256
from math import sqrt
from typing import Any


def spelled(value: Any) -> str:
    """What Python prints for the value as nested tuples with sorted keys, put together letter by letter."""
    if isinstance(value, dict):
        items = [f"({key!r}, {spelled(value[key])})" for key in sorted(value)]
    elif isinstance(value, list):
        items = [spelled(inner) for inner in value]
    else:
        return repr(value)
    return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"


def hash_of(state: Any) -> str:
    return sha256(spelled(state).encode()).hexdigest()


def reward(final: Any, gold: Any, said: list[str], outputs: list[str]) -> float:
    if hash_of(final) != hash_of(gold):
        return 0.0
    for output in outputs:
        found = False
        for message in said:
            kept = ""
            for letter in message.lower():
                if letter != ",":
                    kept += letter
            found = found or output.lower() in kept
        if not found:
            return 0.0
    return 1.0


def advantages(
    rewards: list[float | None], *, sample: bool = True, turns: list[int] | None = None
) -> list[float]:
    """(R - mean) / (std + 1e-6) over the valid rollouts of one group; None is an invalid one and gets 0.

    ``sample=False`` is the wrong deviation, that of a population; ``turns`` (of each rollout) the wrong unit: every
    turn votes.
    """
    valid = [value for place, value in enumerate(rewards) if value is not None
             for _ in range(turns[place] if turns else 1)]
    if len(valid) < 2:
        return [0.0] * len(rewards)
    mean = sum(valid) / len(valid)
    square = sum((value - mean) ** 2 for value in valid)
    spread = sqrt(square / (len(valid) - 1 if sample else len(valid)))
    return [0.0 if value is None or spread == 0 else (value - mean) / (spread + 1e-6) for value in rewards]


def ending(moves: list[tuple[str, str]], *, cap: int = 30, terminal: str = "leave", stop: str = "###STOP###") -> str:
    """Why a dialogue ends: ``moves`` are (who, what) with who "user" or "agent" and what a text, or for the agent
    ``call:NAME``, ``bad`` (a call that cannot be read) or ``cut`` (its length limit). The first is the user's
    opening."""
    count = 0
    for place, (who, what) in enumerate(moves):
        if who == "user":
            if what == "":
                return "invalid"
            if stop in what:
                return "user"
            count += place > 0
        elif what == "bad":
            return "bad"
        elif what == "cut":
            return "cut"
        elif what.startswith("call:"):
            if what == f"call:{terminal}":
                return "terminal"
            count += 1
        if count >= cap:
            return "cap"
    return "open"
