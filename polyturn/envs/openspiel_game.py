"""Any OpenSpiel game (Apache-2.0, package ``open-spiel``) as a suite: turns taken one by one or together, with chance.

Some players may be played inside the environment (the house): no seat, no policy call, moves from the seed. Without a
house every player is a seat, so the same game serves evaluation against a fixed opponent and self-play.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput, EnvironmentFailed, MissingPackage
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, user

House: TypeAlias = Callable[[Any, int, np.random.Generator], int]
"""(OpenSpiel state, player, generator) -> action: a player inside the environment."""
Say: TypeAlias = Callable[[Any, int, bool], str]
"""(OpenSpiel state, player, first ask?) -> what the seat reads now, beyond what it has read before."""
Name: TypeAlias = Callable[[Any, int, int], str]
"""(OpenSpiel state, player, action) -> the reply that means this action."""
Rule: TypeAlias = Literal["lose", "random"]
RULES = {
    "lose": "the game ends: the seat gets the game's lowest return, the others share the rest",
    "random": "a uniformly random legal move is played instead",
}


def uniform_house(state: Any, player: int, draws: np.random.Generator) -> int:
    """A uniformly random legal action."""
    legal = state.legal_actions(player)
    return int(legal[int(draws.integers(len(legal)))])


def plain_name(state: Any, player: int, action: int) -> str:
    """OpenSpiel's own name of the action."""
    return str(state.action_to_string(player, action))


def plain_say(state: Any, player: int, first: bool) -> str:
    """OpenSpiel's own observation text, with one opening line at the first ask, and the legal moves."""
    kind = state.get_game().get_type()
    seen = str(state.observation_string(player)) if kind.provides_observation_string else observed(state, player)
    opening = f"{kind.long_name}. You are player {player}. Reply with one of the moves listed.\n" if first else ""
    moves = ", ".join(plain_name(state, player, action) for action in state.legal_actions(player))
    return f"{opening}{seen.strip()}\nMoves: {moves}"


def read_move(text: str, legal: Sequence[str]) -> int | None:
    """The index of the move that a reply means, or None.

    A reply means a move when, spaces around it and case aside, it is that move's name; or else when exactly one legal
    move's name stands in it as a whole word. Anything else is illegal.

    >>> moves = ("1", "5", "9")
    >>> read_move("5", moves), read_move("I take 5.", moves), read_move("5 or 9", moves), read_move("15", moves)
    (1, 1, None, None)
    """
    said = text.strip().lower()
    names = [name.lower() for name in legal]
    if said in names:
        return names.index(said)
    named = [index for index, name in enumerate(names) if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    return named[0] if len(named) == 1 else None


class OpenSpiel:
    """A :class:`polyturn.protocols.Suite` of one OpenSpiel game.

    Score of a seat: ``(return - lowest) / (highest - lowest)`` with the game's own bounds; success: a return above 0
    in a zero-sum game. With a ``house`` there is one seat, ``agent``, which sits at player ``index % players`` of the
    task; all other players are the house's.

    >>> OpenSpiel("leduc_poker").spec.seats
    ('player_0', 'player_1')

    Raises: BadInput for a game that OpenSpiel does not have, or cannot be seeded; for rule ``lose`` where returns have
    no fixed sum.
    """

    def __init__(
        self, game: str, *, name: str | None = None, house: House | None = None, say: Say = plain_say,
        named: Name = plain_name, illegal: Rule = "lose", test_tasks: int = 64, max_calls: int | None = None,
        figures: Mapping[str, float] | None = None, oracle: Callable[[Task], Answer] | None = None,
    ) -> None:
        self.game = loaded(game, illegal)
        self.house = house
        self.say = say
        self.named = named
        self.illegal: Rule = illegal
        self.test_tasks = test_tasks
        self.figures: Mapping[str, float] = figures or {}
        players = range(self.game.num_players())
        seats = ("agent",) if house else tuple(f"player_{player}" for player in players)
        self.spec = Spec(
            name or game, seats, Limits(env_steps=max_calls or self.game.max_game_length()), RULES[illegal],
            licence="Apache-2.0", package="open-spiel",
        )
        self.verifier = FinalScore(seats, self._scores)
        self._oracle = oracle

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks; ``payload["player"]`` is the learner's place."""
        players = self.game.num_players()
        return numbered(
            self.spec.name, split, test=self.test_tasks, limits=self.spec.limits,
            payload=lambda index: {"player": index % players} if self.house else {},
        )

    async def make(self, task: Task, seed: int) -> OpenSpielEnv:
        """One play; chance, house and replacement moves are drawn from the task's id and the seed."""
        return OpenSpielEnv(self, task, seed)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """A fresh scripted player. Raises: BadInput for a game without one."""
        if self._oracle is None:
            raise BadInput(f"{self.spec.name} has no scripted player; pass oracle= to OpenSpiel")
        return self._oracle(task)

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the legal replies."""
        return random_answer(task, seed, seat)

    def _scores(self, final: Mapping[str, Any]) -> Mapping[Seat, Score]:
        returns: Mapping[Seat, float] = final["returns"] or {}
        return {seat: self.score(value) for seat, value in returns.items()}

    def score(self, value: float) -> Score:
        """The score of one return."""
        zero_sum = self.game.utility_sum() == 0
        low, high = self.game.min_utility(), self.game.max_utility()
        return Score(scaled(value, low, high), success=value > 0 if zero_sum else None, parts={"return": value})


def loaded(game: str, illegal: Rule) -> Any:
    """The OpenSpiel game. Raises: BadInput as :class:`OpenSpiel` says."""
    try:
        import pyspiel
    except ImportError as error:
        raise MissingPackage("open-spiel", "games") from error
    try:
        made = pyspiel.load_game(game)
    except pyspiel.SpielError as error:
        raise BadInput(f"OpenSpiel cannot load {game!r}: {error}") from error
    kind = made.get_type()
    if kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC:
        raise BadInput(f"OpenSpiel's {game!r} draws its own chance, which no seed of ours reaches; "
                       "choose a game with explicit chance")
    if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        raise BadInput(f"OpenSpiel's {game!r} is a mean-field game; expected one with moves, in turn or together")
    if illegal not in RULES:
        raise BadInput(f"illegal is {illegal!r}; expected one of {sorted(RULES)}")
    if illegal == "lose" and made.utility_sum() is None:
        raise BadInput(f"returns of {game!r} have no fixed sum, so a lost game has no fair price for the others; "
                       "pass illegal='random'")
    return made


class OpenSpielEnv:
    """One play. Its whole state is OpenSpiel's history, so ``save`` is exact."""

    def __init__(self, suite: OpenSpiel, task: Task, seed: int) -> None:
        self._suite = suite
        self._key = ("openspiel", suite.spec.name, task.id, seed)
        players = suite.game.num_players()
        learner = int(task.payload.get("player", 0)) % players
        self._open = str(suite.game.get_type().information).endswith(".PERFECT_INFORMATION")
        self._seats: dict[int, Seat] = {learner: "agent"} if suite.house else dict(enumerate(suite.spec.seats))
        self._state: Any = None
        self._asked: dict[Seat, int] = {}
        self._spoken: set[int] = set()
        self._first: set[int] = set()
        self._events: list[Event] = []
        self._paid: dict[int, float] = {}
        self._moves: list[str] = []
        self._forfeited: list[Seat] = []
        self._stop: Stop | None = None

    async def start(self, state: bytes | None = None) -> Step:
        """The first asks; or, from a saved state, the asks that were pending when it was saved."""
        if state is None:
            self._state = self._suite.game.new_initial_state()
            self._paid = dict.fromkeys(self._seats, 0.0)
            return self._advance()
        saved = json.loads(state)
        self._state = self._suite.game.deserialize_state(saved["state"])
        self._paid = {int(player): value for player, value in saved["paid"].items()}
        self._spoken = set(saved["spoken"])
        self._moves = list(saved["moves"])
        return Step(self._asks())

    async def save(self) -> bytes:
        """The state as JSON. Raises: BadInput before the start and after the end."""
        if self._state is None or self._stop is not None:
            raise BadInput("only a play that has started and is not over can be saved")
        heard = sorted(self._spoken - self._first)
        kept = {"state": self._state.serialize(), "paid": self._paid, "spoken": heard, "moves": self._moves}
        return json.dumps(kept).encode()

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """Plays the replies. Raises: BadInput for wrong seats."""
        check_seats(self._asked, replies)
        moves = {player: self._read(seat, player, replies[seat].text) for seat, player in self._asked.items()}
        lost = sorted(player for player, action in moves.items() if action is None)
        if lost:
            return self._forfeit(lost)
        self._play({player: action for player, action in moves.items() if action is not None})
        return self._advance()

    async def final(self) -> Mapping[str, Any]:
        """``returns`` by seat (None while unfinished), the moves by name, and who forfeited."""
        over = self._stop is not None
        return {
            "game": str(self._suite.game), "moves": list(self._moves), "over": over,
            "players": {seat: player for player, seat in self._seats.items()},
            "returns": {seat: self._paid[player] for player, seat in self._seats.items()} if over else None,
            "forfeited_by": list(self._forfeited),
        }

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = {}

    def _draws(self, purpose: str) -> np.random.Generator:
        return generator(*self._key, purpose, len(self._state.history()))

    def _advance(self) -> Step:
        """Chance and house act until a seat must, or the game is over."""
        while not self._state.is_terminal():
            if self._state.is_chance_node():
                self._chance()
                continue
            acting = self._acting()
            if any(player in self._seats for player in acting):
                return Step(self._asks(), self._pay(self._state.returns()), self._told())
            self._play({})
        self._stop = Stop("done", "the game is over")
        self._asked = {}
        return Step((), self._pay(self._state.returns()), self._told(), self._stop)

    def _acting(self) -> list[int]:
        if not self._state.is_simultaneous_node():
            return [self._state.current_player()]
        return [player for player in range(self._suite.game.num_players()) if self._state.legal_actions(player)]

    def _chance(self) -> None:
        outcomes, chances = zip(*self._state.chance_outcomes(), strict=True)
        action = int(outcomes[int(self._draws("chance").choice(len(outcomes), p=np.array(chances) / sum(chances)))])
        shown = tuple(seat for player, seat in self._seats.items() if self._sees(player, outcomes, action))
        name = str(self._state.action_to_string(self._state.current_player(), action))
        to = None if self._open or len(shown) == self._suite.game.num_players() else shown
        self._events.append(Event(0, "chance", None, {"outcome": name}, to))
        self._moves.append(name)
        self._state.apply_action(action)

    def _sees(self, player: int, outcomes: Sequence[int], action: int) -> bool:
        """Whether a player can tell the outcome from every other one."""
        seen = {outcome: observed(self._state.child(outcome), player) for outcome in outcomes}
        return all(seen[outcome] != seen[action] for outcome in outcomes if outcome != action)

    def _asks(self) -> tuple[Ask, ...]:
        acting = [player for player in self._acting() if player in self._seats]
        self._first = {player for player in acting if player not in self._spoken}
        self._spoken |= set(acting)
        self._asked = {self._seats[player]: player for player in acting}
        return tuple(
            Ask(self._seats[player], (user(self._suite.say(self._state, player, player in self._first)),),
                legal=self._names(player))
            for player in acting
        )

    def _names(self, player: int) -> tuple[str, ...]:
        return tuple(self._suite.named(self._state, player, action) for action in self._state.legal_actions(player))

    def _read(self, seat: Seat, player: int, text: str) -> int | None:
        """The action of a reply; None = the seat loses by it."""
        legal = self._state.legal_actions(player)
        index = read_move(text, self._names(player))
        if index is not None:
            return int(legal[index])
        content: dict[str, Any] = {"reply": text, "rule": self._suite.illegal}
        action = None
        if self._suite.illegal == "random":
            action = uniform_house(self._state, player, self._draws(f"illegal {player}"))
            content["played"] = self._suite.named(self._state, player, action)
        self._events.append(Event(0, "invalid", seat, content))
        return action

    def _play(self, moves: Mapping[int, int]) -> None:
        """Applies the seats' moves, and the house's beside them."""
        acting = self._acting()
        joint = {player: moves[player] if player in moves else self._house_move(player) for player in acting}
        names = [self._suite.named(self._state, player, action) for player, action in joint.items()]
        self._moves += names
        for player, name in zip(joint, names, strict=True):
            if player not in self._seats:
                self._events.append(Event(0, "move", None, {"player": player, "move": name}))
        if self._state.is_simultaneous_node():
            everyone = range(self._suite.game.num_players())
            self._state.apply_actions([joint.get(player, 0) for player in everyone])
        else:
            self._state.apply_action(joint[acting[0]])

    def _house_move(self, player: int) -> int:
        if self._suite.house is None:
            raise EnvironmentFailed(f"player {player} of {self._suite.spec.name} has no seat and no house plays it")
        return self._suite.house(self._state, player, self._draws(f"house {player}"))

    def _forfeit(self, lost: Sequence[int]) -> Step:
        """The end by illegal replies: the lowest return for these players, the rest of the sum for the others."""
        game = self._suite.game
        others = game.num_players() - len(lost)
        rest = (game.utility_sum() - len(lost) * game.min_utility()) / others if others else 0.0
        returns = [game.min_utility() if player in lost else min(rest, game.max_utility())
                   for player in range(game.num_players())]
        self._forfeited = [self._seats[player] for player in lost]
        self._stop = Stop("done", "illegal reply", self._forfeited[0])
        self._asked = {}
        return Step((), self._pay(returns), self._told(), self._stop)

    def _pay(self, returns: Sequence[float]) -> dict[Seat, dict[str, float]]:
        """What each seat has earned since it was last paid; nothing is said of zero before the end."""
        gained = {player: float(returns[player]) - self._paid[player] for player in self._seats}
        self._paid = {player: float(returns[player]) for player in self._seats}
        return {self._seats[player]: {"return": gain} for player, gain in gained.items() if gain or self._stop}

    def _told(self) -> tuple[Event, ...]:
        told, self._events = tuple(self._events), []
        return told


def observed(state: Any, player: int) -> str:
    """What tells a player one state from another: its information state, or its observation."""
    kind = state.get_game().get_type()
    if kind.provides_information_state_string:
        return str(state.information_state_string(player))
    return str(state.observation_string(player)) if kind.provides_observation_string else str(state)
