"""SPIRAL: one model plays both seats of zero-sum games against itself, each role judged against its own average.

Claim (arXiv 2506.24119): self-play on zero-sum games trains reasoning without human problems, if the advantage is
conditioned on game and role; without that the gradient is noisy and replies wither. For game g, role p and a game that
paid R:

    A = R - b[g, p],    then    b[g, p] <- alpha b[g, p] + (1 - alpha) R,    alpha = 0.95, b = 0 at first;
    every turn of p that has ``left`` turns of p after it gets gamma**left A;
    loss = - 1 / (rows longest) sum over rows, over reply tokens, of min(r A, clip(r, 1 - 0.2, 1 + 0.2) A),

where a row is one turn, rows of advantage exactly 0 are dropped, cut replies may weigh 0 but still count as rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from polyturn.advantages.group import RoleBaseline, live_BK
from polyturn.arrays import Advantage, Tokens, Turns
from polyturn.errors import BadInput, UnknownName
from polyturn.losses.weighting import constant, not_cut
from polyturn.paper import Paper
from polyturn.protocols import Scores
from polyturn.types import Episode, FloatArray, Group, Score, Seat

PAPER = Paper(
    title="SPIRAL: Self-Play on Zero-Sum Games Incentivizes Reasoning via Multi-Agent Multi-Turn "
          "Reinforcement Learning",
    arxiv="2506.24119", year=2025,
    claim="Self-play on zero-sum games trains reasoning without human problems, if each role of each game is judged "
          "against its own running average.",
    adds=("role_advantage: Advantage", "TurnSamples: Weighting", "GameReward: Verifier"),
    axes={
        "task": "games of two players", "method": "model: reinforcement learning; agent: self-play",
        "challenge": "credit in games where one side's win is the other's loss",
    },
    deviations=(
        "Rewards are returns divided by the game's highest, so Kuhn poker pays -1 to 1 as in the paper's games.",
        "A seat reads its whole dialogue, since OpenSpiel's asks are told piece by piece; the paper shows the present "
        "observation alone.",
        "All turns of a batch are used; the released code draws a fixed number of them.",
        "A seat that never spoke (its opponent's first reply was illegal) moves no baseline.",
        "The recipe plays single hands of Kuhn poker and tic-tac-toe of OpenSpiel, not TextArena's games.",
    ),
)

Arm: TypeAlias = Literal["spiral", "raw", "seat_blind"]
CHANNEL = "spiral"


def role_advantage(arm: Arm = "spiral", *, alpha: float = 0.95, gamma: float = 1.0) -> RoleBaseline:
    """The advantage of an arm: ``spiral`` has a baseline for each game and role, ``seat_blind`` one for each game,
    ``raw`` none.

    A game is compared with the baseline as it was before that game, and moves it afterwards; games stand in the order
    of the batch. Raises: UnknownName for another arm.
    """
    if arm not in ("spiral", "raw", "seat_blind"):
        raise UnknownName("arm", arm, ("spiral", "raw", "seat_blind"))
    return RoleBaseline(
        alpha=1.0 if arm == "raw" else alpha, channels=(CHANNEL,), order="rollout", gamma=gamma,
        key=("family",) if arm == "seat_blind" else ("family", "seat"),
    )


@dataclass(frozen=True, slots=True)
class TurnSamples:
    """A :data:`polyturn.arrays.Weighting`: ``1 / (rows * longest)`` for each trained token, so that no length is
    favoured; a row is one turn with an advantage other than exactly 0.

    With ``skip_cut`` the tokens of replies that hit their limit weigh 0; they still count as rows. ``advantage`` is the
    one that the batch is credited with. Raises: BadInput unless ``longest`` >= 1.
    """

    advantage: Advantage
    longest: int = 4096
    """The longest reply allowed, in tokens: a constant, not what was said."""
    skip_cut: bool = False

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise BadInput(f"longest is {self.longest}; expected at least 1")

    def __call__(self, turns: Turns, tokens: Tokens) -> FloatArray:
        rows_BK = live_BK(turns) & (self.advantage(turns) != 0)
        trained_BK = rows_BK & not_cut(turns) if self.skip_cut else rows_BK
        rows = max(int(rows_BK.sum()), 1)
        return constant(replace(turns, kept_BK=trained_BK), tokens, divisor=float(self.longest * rows))


@dataclass(slots=True)
class GameReward:
    """A :class:`polyturn.protocols.Verifier` of OpenSpiel games: what a game pays each seat in training.

    The seat's return divided by ``highest[family]``; a game that was cut pays nobody; after an illegal reply the seat
    that gave it gets ``offender`` and each other ``other`` (their sum is not 0: an illegal reply must be worse than any
    loss, and is hardly the other's merit). Where the final state could not be read every seat abstains.
    """

    highest: Mapping[str, float]
    offender: float = -1.5
    other: float = 0.5
    name: str = CHANNEL

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> reward. Raises: UnknownName for a family without its highest return."""
        return {episode.id: self._paid(episode) for group in groups for episode in group}

    def _paid(self, episode: Episode) -> Mapping[Seat, Score]:
        seats, final = tuple(episode.cast), episode.final
        if episode.task.family not in self.highest:
            raise UnknownName("family with a highest return", episode.task.family, self.highest)
        if final is None:
            return {seat: Score(None) for seat in seats}
        if final["forfeited_by"]:
            return {seat: Score(self.offender if seat in final["forfeited_by"] else self.other) for seat in seats}
        if final["returns"] is None:
            return {seat: Score(0.0) for seat in seats}
        return {seat: Score(final["returns"][seat] / self.highest[episode.task.family]) for seat in seats}
