"""OpenSpiel games ready to play: tic-tac-toe against a mixed opponent, and Kuhn poker with its exploitability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from polyturn.envs.openspiel_game import House, OpenSpiel, uniform_house
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Answer, Ask
from polyturn.seeds import generator
from polyturn.types import Message, Seat, Task, assistant, user

__all__ = [
    "InformationState", "OpenSpiel", "exploitability", "information_states", "kuhn_poker", "kuhn_poker_vs_random",
    "minimax", "mixed_house", "tic_tac_toe",
]

ENVS = (
    {"name": "tic_tac_toe", "package": "open-spiel", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 0.847, "random": 0.281, "null": 0.0},
    {"name": "kuhn_poker", "package": "open-spiel", "licence": "Apache-2.0", "seats": ("player_0", "player_1"),
     "oracle": 0.5, "random": 0.5, "null": None},
    {"name": "kuhn_poker_vs_random", "package": "open-spiel", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 0.615, "random": 0.5, "null": 0.0},
)

# ---------------------------------------------------------------- tic-tac-toe


def tic_tac_toe(*, opponent_random: float | None = 0.5, test_tasks: int = 64, rules: bool = True) -> OpenSpiel:
    """The suite of tic-tac-toe; score ``(1 + return) / 2``: a win 1, a draw 0.5, a loss or an illegal reply 0.

    The learner (seat ``agent``) moves first in every second task. The opponent plays inside the environment: at each
    of its moves uniformly at random with probability ``opponent_random``, else a perfect move (uniformly among those).
    With ``opponent_random=None`` there is no opponent: both players are seats, for self-play. A reply is the number of
    a free cell; see :func:`polyturn.envs.openspiel_game.read_move` for what else is understood. Without ``rules`` the
    first ask says only the learner's mark.

    At the default, over both places (exact; 2,000 tasks measured 0.845 and 0.272): oracle 0.847, random 0.281, null 0.
    The oracle is the best response to this opponent, by expectation over the whole game tree.
    """
    if opponent_random is not None and not 0 <= opponent_random <= 1:
        raise BadInput(f"opponent_random is {opponent_random}; expected a probability in 0..1, or None for self-play")
    house = None if opponent_random is None else mixed_house(opponent_random)
    figures = {"oracle": 0.847, "random": 0.281, "null": 0.0} if opponent_random == 0.5 else {}
    return OpenSpiel(
        "tic_tac_toe", name="tic_tac_toe", house=house, say=partial(_say_board, rules=rules), named=_cell,
        test_tasks=test_tasks, max_calls=5, figures=figures, oracle=lambda task: _best_cell(opponent_random),
    )


def mixed_house(random_share: float) -> House:
    """A player that moves at random with this probability at each move, else perfectly (:func:`minimax`)."""

    def house(state: Any, player: int, draws: np.random.Generator) -> int:
        if draws.random() < random_share:
            return uniform_house(state, player, draws)
        _, best = minimax(tuple(state.history()))
        return best[int(draws.integers(len(best)))]

    return house


@cache
def _board_value(board: str) -> tuple[float, tuple[int, ...]]:
    """The value for x of a board of nine characters, and the best cells for whoever moves."""
    for line in _LINES:
        if (mark := board[line[0]]) != "." and all(board[cell] == mark for cell in line):
            return (1.0 if mark == "x" else -1.0), ()
    free = _free(board)
    if not free:
        return 0.0, ()
    mark = "x" if len(free) % 2 else "o"
    values = {cell: _board_value(_placed(board, cell, mark))[0] for cell in free}
    best = max(values.values()) if mark == "x" else min(values.values())
    return best, tuple(cell for cell, value in values.items() if value == best)


_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def minimax(history: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
    """The exact value for the first player after these tic-tac-toe moves, and the best moves now.

    >>> minimax(())[0], minimax((0, 3, 1, 4))
    (0.0, (1.0, (2,)))
    """
    board = ["."] * 9
    for move, cell in enumerate(history):
        board[cell] = "xo"[move % 2]
    return _board_value("".join(board))


def _cell(state: Any, player: int, action: int) -> str:
    return str(action + 1)


def _say_board(state: Any, player: int, first: bool, *, rules: bool) -> str:
    history = state.history()
    cells = [str(cell + 1) for cell in range(9)]
    for move, cell in enumerate(history):
        cells[cell] = "XO"[move % 2]
    mine, other = ("X", "O") if player == 0 else ("O", "X")
    how = f"Tic-tac-toe. You are {mine}. Three in a row wins. Reply with the number of a free cell.\n"
    opening = how if rules else f"You are {mine}.\n"
    last = f"{other} takes {history[-1] + 1}.\n" if history else ""
    return (opening if first else "") + last + "\n".join(" ".join(cells[row:row + 3]) for row in (0, 3, 6))


def _best_cell(opponent_random: float | None) -> Callable[[Ask], Message]:
    """The player that moves best against this opponent (None: a perfect one), reading the board in the ask."""
    share = opponent_random or 0.0

    def play(ask: Ask) -> Message:
        rows = ask.messages[-1].text.splitlines()[-3:]
        board = "".join({"X": "x", "O": "o"}.get(mark, ".") for row in rows for mark in row.split())
        mine = "x" if board.count(".") % 2 else "o"
        worth = {cell: _worth(_placed(board, cell, mine), mine, share) for cell in _free(board)}
        return assistant(str(max(worth, key=worth.__getitem__) + 1))

    return play


@cache
def _worth(board: str, mine: str, share: float) -> float:
    """The expected return of ``mine``, playing best against an opponent that moves at random with this share."""
    value, best = _board_value(board)
    if not best:
        return value if mine == "x" else -value
    mark = "x" if len(_free(board)) % 2 else "o"
    after = {cell: _worth(_placed(board, cell, mark), mine, share) for cell in _free(board)}
    if mark == mine:
        return max(after.values())
    perfect = sum(after[cell] for cell in best) / len(best)
    return share * sum(after.values()) / len(after) + (1 - share) * perfect


def _free(board: str) -> list[int]:
    return [cell for cell in range(9) if board[cell] == "."]


def _placed(board: str, cell: int, mark: str) -> str:
    return board[:cell] + mark + board[cell + 1:]


# ---------------------------------------------------------------- Kuhn poker

KUHN_CARDS = "JQK"
KUHN_MOVES = ("pass", "bet")
EQUILIBRIUM: Mapping[str, float] = {
    "0": 0, "1": 0, "2": 0, "0pb": 0, "1pb": 1 / 3, "2pb": 1,
    "0p": 1 / 3, "1p": 0, "2p": 1, "0b": 0, "1b": 1 / 3, "2b": 1,
}
"""Probability of a bet in each information state: the equilibrium in which player 0 never bets first."""
BEST_AGAINST_RANDOM: Mapping[str, float] = {
    "0": 1, "1": 1, "2": 1, "0pb": 0, "1pb": 1, "2pb": 1,
    "0p": 1, "1p": 1, "2p": 1, "0b": 0, "1b": 1, "2b": 1,
}
"""Probability of a bet in each information state: a best response to the uniformly random player."""


def kuhn_poker(*, test_tasks: int = 64, rules: bool = True) -> OpenSpiel:
    """The suite of Kuhn poker for self-play: seats ``player_0`` (moves first) and ``player_1``.

    Score ``(2 + return) / 4``; the return is what the seat wins, -2..2. An illegal reply loses 2. The reply is
    ``pass`` or ``bet``. :meth:`oracle` plays the equilibrium in which player 0 never bets first. Without ``rules`` an
    ask is two words, as ``K bet``: a policy that starts from nothing cannot read more anyway.
    """
    return OpenSpiel(
        "kuhn_poker", name="kuhn_poker", say=partial(_say_kuhn, rules=rules), named=_kuhn_move, test_tasks=test_tasks,
        max_calls=3, figures={"oracle": 0.5, "random": 0.5}, oracle=_player(EQUILIBRIUM),
    )


def kuhn_poker_vs_random(*, test_tasks: int = 64, rules: bool = True) -> OpenSpiel:
    """The suite of Kuhn poker for evaluation: seat ``agent`` against a uniformly random player inside the environment.

    The agent moves first in every second task. Score ``(2 + return) / 4``. :meth:`oracle` is the best response to the
    random player.

    Over both places (exact; 2,000 tasks measured 0.606 and 0.496): oracle 0.615, random 0.500, null 0.
    """
    return OpenSpiel(
        "kuhn_poker", name="kuhn_poker_vs_random", house=uniform_house, say=partial(_say_kuhn, rules=rules),
        named=_kuhn_move, test_tasks=test_tasks, max_calls=3, figures={"oracle": 0.615, "random": 0.5, "null": 0.0},
        oracle=_player(BEST_AGAINST_RANDOM),
    )


@dataclass(frozen=True, slots=True)
class InformationState:
    """One of the 12 situations in which a Kuhn player decides: what the seat has read and said so far.

    ``InformationState("1pb", 0, asks=(first, second), replies=("pass",))``: it holds Q, passed, and met a bet.
    """

    name: str
    """OpenSpiel's information state string."""
    player: int
    asks: tuple[Ask, ...]
    """The asks of this seat, the last one still open."""
    replies: tuple[str, ...]
    """What it answered to all but the last."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The dialogue up to the open ask, as messages in turn."""
        said = [[*ask.messages, assistant(reply)] for ask, reply in zip(self.asks[:-1], self.replies, strict=True)]
        return (*(message for pair in said for message in pair), *self.asks[-1].messages)

    @property
    def legal(self) -> tuple[str, ...]:
        """The replies to choose from."""
        return self.asks[-1].legal or ()


def information_states(suite: OpenSpiel | None = None) -> tuple[InformationState, ...]:
    """The 12 information states of Kuhn poker, with exactly the asks that a seat of this suite sees on the way.

    >>> [state.name for state in information_states()]
    ['0', '0pb', '1', '1pb', '2', '2pb', '0b', '0p', '1b', '1p', '2b', '2p']
    """
    suite = suite or kuhn_poker()
    found: dict[str, InformationState] = {}
    _walk(suite, suite.game.new_initial_state(), {}, found)
    return tuple(sorted(found.values(), key=lambda state: (state.player, state.name)))


def exploitability(probabilities: Mapping[str, Mapping[str, float]]) -> float:
    """What a best responder wins from this Kuhn policy on average over both seats, computed by OpenSpiel; 0 = an
    equilibrium, 0.458 = uniform random.

    ``probabilities``: information state name -> reply -> probability (of :func:`information_states`).
    Raises: UnknownName for a state or reply that does not exist; BadInput for one that is missing, or probabilities
    that are negative or do not sum to 1.

    >>> round(exploitability({state.name: {"pass": 0.5, "bet": 0.5} for state in information_states()}), 6)
    0.458333
    """
    from open_spiel.python import policy as policies
    from open_spiel.python.algorithms import exploitability as measured

    game = kuhn_poker().game
    table = policies.TabularPolicy(game)
    known = {state.name: state.legal for state in information_states()}
    for name in probabilities:
        if name not in known:
            raise UnknownName("Kuhn information state", name, known)
    for name, legal in known.items():
        table.policy_for_key(name)[:] = _row(name, legal, probabilities.get(name))
    return float(measured.exploitability(game, table))


def _row(name: str, legal: tuple[str, ...], given: Mapping[str, float] | None) -> list[float]:
    if given is None:
        raise BadInput(f"no probabilities for the Kuhn information state {name!r}; give {list(legal)} for all 12")
    for reply in given:
        if reply not in legal:
            raise UnknownName(f"reply in Kuhn state {name}", reply, legal)
    row = [float(given.get(reply, 0.0)) for reply in legal]
    if min(row) < 0 or abs(sum(row) - 1) > 1e-4:
        raise BadInput(f"probabilities in Kuhn state {name!r} are {dict(given)}; expected none below 0 and the sum 1")
    return [value / sum(row) for value in row]


def _walk(suite: OpenSpiel, state: Any, asks: dict[int, tuple[Ask, ...]], found: dict[str, InformationState]) -> None:
    if state.is_terminal():
        return
    if state.is_chance_node():
        for action in state.legal_actions():
            _walk(suite, state.child(action), asks, found)
        return
    player = state.current_player()
    so_far = asks.get(player, ())
    legal = tuple(suite.named(state, player, action) for action in state.legal_actions())
    seat: Seat = "agent" if suite.house else f"player_{player}"
    ask = Ask(seat, (user(suite.say(state, player, not so_far)),), legal=legal)
    name = state.information_state_string(player)
    replies = tuple(KUHN_MOVES[action] for action in state.history()[2 + player::2])
    found[name] = InformationState(name, player, (*so_far, ask), replies)
    for action in state.legal_actions():
        _walk(suite, state.child(action), {**asks, player: (*so_far, ask)}, found)


def _player(bet: Mapping[str, float]) -> Callable[[Task], Answer]:
    return lambda task: KuhnPlayer(bet, generator("kuhn", task.id))


def _kuhn_move(state: Any, player: int, action: int) -> str:
    return KUHN_MOVES[action]


def _say_kuhn(state: Any, player: int, first: bool, *, rules: bool) -> str:
    card, moves = KUHN_CARDS[state.history()[player]], state.history()[2:]
    if not rules:
        return (f"{card} " if first else "") + (KUHN_MOVES[moves[-1]] if moves else "first")
    before = f"The other player says {KUHN_MOVES[moves[-1]]}." if moves else "You move first."
    if not first:
        return f"{before} Reply with pass or bet."
    return ("Kuhn poker with three cards: J is low, Q is middle, K is high. Each player pays 1 and gets one card. "
            "A bet costs 1 more. Two passes or two bets show the cards, and the higher one wins; "
            "pass after a bet gives up. "
            f"You hold {card}. {before} Reply with pass or bet.")


class KuhnPlayer:
    """A scripted player that bets with probability ``bet[information state]``, reading the asks alone."""

    def __init__(self, bet: Mapping[str, float], draws: np.random.Generator) -> None:
        self.bet = bet
        self.draws = draws
        self.card = ""

    def __call__(self, ask: Ask) -> Message:
        """``pass`` or ``bet``."""
        return assistant(KUHN_MOVES[int(self.draws.random() < self.bet[self._state(ask.messages[-1].text)])])

    def _state(self, text: str) -> str:
        """OpenSpiel's name of the information state that this ask puts the seat in."""
        if text[0] in KUHN_CARDS and text[1] == " ":
            self.card = str(KUHN_CARDS.index(text[0]))
            return self.card + {"first": "", "bet": "b", "pass": "p"}[text[2:]]
        if "You hold " not in text:
            return self.card + "pb"
        self.card = str(KUHN_CARDS.index(text.split("You hold ")[1][0]))
        return self.card + ("" if "You move first" in text else "b" if "says bet" in text else "p")
