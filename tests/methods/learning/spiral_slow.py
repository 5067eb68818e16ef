"""The slow twin of SPIRAL's credit: games as plain lists, floats and loops."""

from __future__ import annotations

from dataclasses import dataclass

Turn = tuple[int, bool]
"""(tokens, cut at the limit)."""
Baselines = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Game:
    """What one game paid each seat, and the turns that each seat took."""

    family: str
    rewards: dict[str, float]
    turns: dict[str, list[Turn]]


def credit(
    games: list[Game], known: Baselines, alpha: float, gamma: float, by_seat: bool = True
) -> dict[tuple[int, str], list[float]]:
    """(game, seat) -> one advantage per turn; moves ``known`` as it goes."""
    found = {}
    for number, game in enumerate(games):
        for seat, turns in game.turns.items():
            role = (game.family, seat) if by_seat else (game.family,)
            before = known.get(role, 0.0)
            known[role] = alpha * before + (1 - alpha) * game.rewards[seat]
            row = []
            for k in range(len(turns)):
                discount = 1.0
                for _ in range(len(turns) - 1 - k):
                    discount *= gamma
                row.append(discount * (game.rewards[seat] - before))
            found[number, seat] = row
    return found


def credit_by_turn(games: list[Game], alpha: float) -> dict[tuple[int, str], list[float]]:
    """The wrong unit: every turn, and not every game, moves the baseline."""
    known: Baselines = {}
    found = {}
    for number, game in enumerate(games):
        for seat, turns in game.turns.items():
            role = (game.family, seat)
            before = known.get(role, 0.0)
            for _ in turns:
                known[role] = alpha * known.get(role, 0.0) + (1 - alpha) * game.rewards[seat]
            found[number, seat] = [game.rewards[seat] - before] * len(turns)
    return found


def weights(
    games: list[Game], advantages: dict[tuple[int, str], list[float]], longest: int, skip_cut: bool
) -> dict[tuple[int, str], list[list[float]]]:
    """(game, seat) -> per turn, per token: its weight."""
    rows = 0
    for row in advantages.values():
        for advantage in row:
            if advantage != 0:
                rows += 1
    found = {}
    for (number, seat), row in advantages.items():
        lists = []
        for (tokens, cut), advantage in zip(games[number].turns[seat], row, strict=True):
            trained = advantage != 0 and not (cut and skip_cut)
            lists.append([1 / (longest * rows) if trained else 0.0] * tokens)
        found[number, seat] = lists
    return found
