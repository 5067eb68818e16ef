"""EPO: penalties, history and phases by hand and against a slow twin; the band holds where a plain bonus leaves it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from polyturn.advantages.group import group_standardised
from polyturn.arrays import as_turns, lay_out
from polyturn.errors import BadInput, UnknownName
from polyturn.learn import checkpoint
from polyturn.losses.learned import Learned, Loss, unit_of
from polyturn.losses.policy_gradient import policy_gradient
from polyturn.losses.regularize import entropy
from polyturn.losses.terms import Sum
from polyturn.methods.learning.epo import EntropyHistory, SmoothedEntropy, entropy_by_turn, epo_rule, phase_weight
from polyturn.testing import check_loss, made_groups, made_turns
from tests.methods.learning import epo_slow as slow
from tests.methods.learning.epo_slow import Band, Word


def made(words: list[Word]) -> Learned:
    """The batch of these tokens; log-probabilities and advantages as an entropy does not look at them."""
    def column(name: str) -> torch.Tensor:
        return torch.tensor([float(getattr(word, name)) for word in words], dtype=torch.float64)

    zeros, whole = torch.zeros(len(words), dtype=torch.float64), torch.zeros(len(words), dtype=torch.int64)
    row_N, turn_N = column("row").long(), column("turn").long()
    return Learned(
        zeros.clone().requires_grad_(), zeros, zeros, zeros, column("weight"), turn_N, row_N, whole, whole,
        column("entropy").requires_grad_(),
    )


def remembered(*batches: list[float]) -> EntropyHistory:
    found = EntropyHistory()
    for batch in batches:
        found.add(np.array(batch))
    return found


def value_and_gradient(loss: Loss, words: list[Word]) -> tuple[float, list[float]]:
    learned = made(words)
    value, _ = loss(learned)
    assert learned.entropy_N is not None
    value.backward()
    grad = learned.entropy_N.grad
    return float(value.detach()), [0.0] * len(words) if grad is None else grad.tolist()


WORDS = [Word(0, 0, 0.2, 0.25), Word(0, 0, 1.0, 0.25), Word(0, 1, 1.9, 0.25), Word(1, 0, 2.2, 0.25)]
"""Turn 0 of two rows and turn 1 of one; history 1.0 at turn 0 and 1.2 at turn 1."""
HISTORY = remembered([0.9, 1.2], [1.1])


# ---------------------------------------------------------------- by hand


def test_a_history_by_hand() -> None:
    # turn 0: (0.9 + 1.1) / 2; turn 1: only the first batch reached it; turn 2: nobody
    assert HISTORY.mean_K().tolist() == pytest.approx([1.0, 1.2])
    found = remembered([0.9, 1.2], [1.1], [float("nan"), 0.6, 3.0])
    assert found.mean_K().tolist() == pytest.approx([1.0, 0.9, 3.0])


def test_zeros_padded_on_the_left_would_shift_the_turns() -> None:
    # released: [0.9, 1.2] and [0, 1.1] -> [0.45, 1.15]: turn 0 half of what was seen, turn 1 mixed with a turn 0
    assert slow.left_padded_history([[0.9, 1.2], [1.1]], 2) == pytest.approx([0.45, 1.15])
    assert HISTORY.mean_K().tolist() == pytest.approx([1.0, 1.2])
    # with a band of 0..2 the token of entropy 1.0 at turn 0 is inside, and by the released history outside
    inside = SmoothedEntropy(HISTORY, form="official")(made(WORDS[1:2]))[1]
    shifted = SmoothedEntropy(remembered([0.45, 1.15]), form="official")(made(WORDS[1:2]))[1]
    assert (inside["epo/penalty"], shifted["epo/penalty"]) == (0.0, 2.0)


@pytest.mark.parametrize(("low", "high", "scope", "penalties"), [
    # bands at turn 0: 0.5..1.5, at turn 1: 0.6..1.8; entropies 0.2 1.0 | 1.9 | 2.2
    (0.5, 1.5, "token", [0.1, 0.0, 0.1, 0.1]),
    # the first turn's mean is (0.2 + 1.0) / 2 = 0.6: inside, and so are both its tokens
    (0.5, 1.5, "turn", [0.0, 0.0, 0.1, 0.1]),
    # 0..2 and 0..2.4: 2.2 at turn 0 alone
    (0.0, 2.0, "token", [0.0, 0.0, 0.0, 0.1]),
    # 0.8..1.2 and 0.96..1.44 by turn: 0.6 is below, 1.9 and 2.2 above
    (0.8, 1.2, "turn", [0.1, 0.1, 0.1, 0.1]),
])
def test_the_official_penalty_by_hand(low: float, high: float, scope: Any, penalties: list[float]) -> None:
    loss = SmoothedEntropy(HISTORY, low, high, alpha=0.1, beta=1.0, form="official", scope=scope)
    value, grad = value_and_gradient(loss, WORDS)
    # mean h = (0.2 + 1.0 + 1.9 + 2.2) / 4 = 1.325; the loss is mean P - mean h
    assert value == pytest.approx(sum(penalties) / 4 - 1.325)
    assert grad == [-0.25] * 4  # of the bonus alone: the penalty is constant


def test_the_hinge_by_hand() -> None:
    # band 0.5..1.5 at turn 0 and 0.6..1.8 at turn 1, alpha 2: 0.2 is 0.3 below, 1.9 is 0.1 above, 2.2 is 0.7 above
    loss = SmoothedEntropy(HISTORY, 0.5, 1.5, alpha=2.0, beta=0.5)
    value, grad = value_and_gradient(loss, WORDS)
    assert value == pytest.approx(0.5 * 2 * (0.3 + 0.0 + 0.1 + 0.7) / 4 - 1.325)
    # 0.25 (beta alpha sign - 1): below -0.25 * 2, inside -0.25, above 0.25 * (1 - 1) = 0
    assert grad == pytest.approx([-0.5, -0.25, 0.0, 0.0])
    by_turn = SmoothedEntropy(HISTORY, 0.5, 1.5, alpha=4.0, scope="turn")
    value, grad = value_and_gradient(by_turn, WORDS)
    assert value == pytest.approx(4 * (0.1 + 0.7) / 4 - 1.325)
    assert grad == pytest.approx([-0.25, -0.25, 0.75, 0.75])


def test_the_whole_loss_by_hand() -> None:
    rule = epo_rule("hinge", group_standardised, HISTORY, whole=10, coefficient=0.01, low=0.5, high=1.5)(0)
    learned = replace(made(WORDS), advantage_N=torch.tensor([1.0, 1.0, 1.0, -2.0], dtype=torch.float64))
    value, metrics = rule.loss(learned)
    # policy gradient at ratio 1: -(1 + 1 + 1 - 2) / 4 = -0.25; entropy term 2 * 1.1 / 4 - 1.325 = -0.775
    assert float(value.detach()) == pytest.approx(-0.25 + 0.01 * -0.775)
    assert metrics["epo/penalty"] == pytest.approx(2.2) and metrics["epo/count"] == 4
    assert (metrics["epo/below"], metrics["epo/above"]) == (1, 2)


def test_phase_weights_at_nine_epochs() -> None:
    # first half 1 - 0.2 (1 - exp(-2 e / 75)): e = 1: 1 - 0.2 (1 - 0.973686) = 0.994737, e = 75: 1 - 0.2 (1 - 0.135335)
    # second half 0.8 exp(-3 (e - 75) / 75): e = 76: 0.8 exp(-0.04) = 0.768632, e = 150: 0.8 exp(-3) = 0.039830
    expected = {0: 1.0, 1: 0.994737, 25: 0.902683, 50: 0.852719, 75: 0.827067, 76: 0.768632, 100: 0.294304,
                125: 0.108268, 150: 0.039830}
    for epoch, weight in expected.items():
        assert phase_weight(epoch, 150) == pytest.approx(weight, abs=1e-6)
        assert phase_weight(epoch, 150) == pytest.approx(slow.released_weight(epoch), abs=1e-12)
        assert phase_weight(150 - epoch, 150, rising=True) == phase_weight(epoch, 150)
    assert phase_weight(20, 40) == pytest.approx(phase_weight(75, 150))
    with pytest.raises(BadInput, match="are done"):
        phase_weight(151, 150)


# ---------------------------------------------------------------- against the slow twin


def drawn_words(draw: random.Random) -> list[Word]:
    return [
        Word(row, turn, draw.uniform(0, 3), draw.choice((0.0, draw.random())))
        for row in range(draw.randint(1, 4)) for turn in range(draw.randint(1, 4)) for _ in range(draw.randint(1, 3))
    ]


def test_loss_gradient_and_history_on_a_thousand_random_batches() -> None:
    draw = random.Random(0)
    other = 0
    for _ in range(1000):
        batches = [drawn_words(draw) for _ in range(draw.randint(0, 3))]
        means = slow.history(batches)
        found = EntropyHistory()
        for batch in batches:
            found.add(np.array([value if value is not None else np.nan for value in slow.history([batch])]))
        assert found.mean_K().tolist() == pytest.approx(means)
        low = draw.choice((0.0, 0.5, 0.8))
        band = Band(low, low + draw.uniform(0.2, 1.5), draw.uniform(0.05, 3), draw.random(), draw.random() < 0.3,
                    draw.random() < 0.5)
        loss = SmoothedEntropy(found, band.low, band.high, band.alpha, band.beta,
                               "official" if band.official else "hinge", "turn" if band.by_turn else "token")
        words = drawn_words(draw)
        value, grad = value_and_gradient(loss, words)
        assert value == pytest.approx(slow.loss(words, means, band), abs=1e-9)
        assert grad == pytest.approx(slow.gradient(words, means, band), abs=1e-9)
        wrong = replace(band, by_turn=not band.by_turn)
        other += slow.loss(words, means, wrong) != pytest.approx(value, abs=1e-9)
    assert other > 300  # turns for tokens is another loss, so the comparison could fail


def test_the_mean_of_each_turn_is_that_of_its_tokens_in_kept_turns() -> None:
    for seed in range(20):
        turns = made_turns(made_groups(seed))
        assert turns.measured is not None and turns.measured.entropy_N is not None
        tokens, seen = turns.tokens, turns.measured.entropy_N.tolist()
        sums: dict[int, list[float]] = {}
        for n, (row, turn) in enumerate(zip(tokens.trajectory_N.tolist(), tokens.turn_N.tolist(), strict=True)):
            if turns.kept_BK[row, turn]:
                sums.setdefault(turn, []).append(seen[n])
        expected = [sum(sums[k]) / len(sums[k]) if k in sums else None for k in range(turns.kept_BK.shape[1])]
        found = [None if np.isnan(v) else v for v in entropy_by_turn(turns).tolist()]
        assert found == pytest.approx(expected)
        # a finished row adds nothing: its padding has no tokens; nor does what was not computed
        half = np.where(np.arange(len(tokens)) % 2 == 0, turns.measured.entropy_N, np.nan)
        part = replace(turns, measured=replace(turns.measured, entropy_N=half))
        assert np.nanmax(entropy_by_turn(part)) <= np.nanmax(half)
    with pytest.raises(BadInput, match="entropy_N"):
        entropy_by_turn(as_turns(lay_out(made_groups(0), "main")))


# ---------------------------------------------------------------- faults of released code, and the claim


def test_the_official_penalty_has_no_gradient_and_the_hinge_has_one() -> None:
    bonus, _ = value_and_gradient(entropy, WORDS)
    plain = value_and_gradient(entropy, WORDS)[1]
    official = SmoothedEntropy(HISTORY, 0.5, 1.5, alpha=0.1, form="official")
    value, grad = value_and_gradient(official, WORDS)
    assert value != bonus and grad == plain
    assert value_and_gradient(SmoothedEntropy(HISTORY, 0.5, 1.5), WORDS)[1] != plain


class Bandit:
    """Softmax choices, a row of logits for each turn, trained by an entropy loss alone."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.logits = (2.5 * torch.randn(3, 24, generator=draw, dtype=torch.float64)).requires_grad_()

    def entropy_K(self) -> torch.Tensor:
        log_KV = torch.log_softmax(self.logits, -1)
        return -(log_KV.exp() * log_KV).sum(-1)

    def train(self, loss: Loss, history: EntropyHistory, updates: int) -> list[float]:
        """Mean entropy after each update."""
        optimizer, found = torch.optim.Adam([self.logits], lr=0.03), []
        for _ in range(updates):
            entropy_K = self.entropy_K()
            batch = replace(made([Word(0, k, 0.0, 1 / 3) for k in range(3)]), entropy_N=entropy_K)
            optimizer.zero_grad()
            loss(batch)[0].backward()
            history.add(entropy_K.detach().numpy())
            optimizer.step()
            found.append(float(self.entropy_K().mean().detach()))
        return found


def test_the_band_holds_the_entropy_that_a_plain_bonus_lets_go() -> None:
    """300 updates of an entropy term alone, after 300 earlier batches at the entropy that it begins with."""
    def trained(loss: Any) -> tuple[np.ndarray, list[float]]:
        """Each turn's entropy at the end as a share of its own history, and the mean after each update."""
        bandit, history = Bandit(), EntropyHistory()
        for _ in range(300):
            history.add(bandit.entropy_K().detach().numpy())
        means = bandit.train(loss(history), history, 300)
        return bandit.entropy_K().detach().numpy() / history.mean_K(), means

    share_K, held = trained(lambda history: SmoothedEntropy(history, 0.8, 1.2))
    assert 0.8 < share_K.mean() < 1.2 and all(share_K > 0.8) and all(share_K < 1.205)  # it quivers at the edge
    free_K, free = trained(lambda history: entropy)
    assert all(free_K > 1.4)  # the plain bonus left the same band, in every turn
    assert np.std(held) < 0.25 * np.std(free)
    # as released, the band changes nothing at all
    assert trained(lambda history: SmoothedEntropy(history, 0.8, 1.2, form="official"))[1] == free


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("form", ["hinge", "official"])
@pytest.mark.parametrize("scope", ["token", "turn"])
def test_conformance(form: Any, scope: Any) -> None:
    loss = SmoothedEntropy(HISTORY, 0.8, 1.2, form=form, scope=scope)
    assert unit_of(loss) == scope
    check_loss(loss)
    check_loss(Sum((1.0, policy_gradient), (0.01, loss)))


def test_no_history_no_penalty_and_a_checkpoint_keeps_it(tmp_path: Any) -> None:
    empty = SmoothedEntropy(EntropyHistory(), 0.8, 1.2)
    assert value_and_gradient(empty, WORDS) == value_and_gradient(entropy, WORDS)
    late = [Word(0, 7, 9.0, 1.0)]  # a turn that the history has not reached
    assert value_and_gradient(SmoothedEntropy(HISTORY, 0.8, 1.2), late)[0] == -9.0
    checkpoint.save(tmp_path / "state", {"history": HISTORY.state()})
    again = EntropyHistory()
    again.restore(checkpoint.load(tmp_path / "state")["history"])
    assert again == HISTORY


def test_rules_are_a_function_of_the_iteration_alone() -> None:
    rule = epo_rule("hinge_phase", group_standardised, EntropyHistory(), whole=150)
    betas = [rule(i).loss.terms[1][1].beta for i in (0, 74, 75, 149)]  # type: ignore[attr-defined]
    assert betas == [phase_weight(i, 150, rising=True) for i in (0, 74, 75, 149)] == sorted(betas)
    falling = epo_rule("official", group_standardised, EntropyHistory(), whole=150)
    assert falling(100).loss.terms[1][1].beta == pytest.approx(0.294304, abs=1e-6)  # type: ignore[attr-defined]
    assert epo_rule("none", group_standardised, EntropyHistory(), whole=2)(0).proportional
    assert not epo_rule("bonus", group_standardised, EntropyHistory(), whole=2)(0).proportional


def test_what_is_refused() -> None:
    with pytest.raises(BadInput, match="band"):
        SmoothedEntropy(EntropyHistory(), 1.0, 1.0)
    with pytest.raises(BadInput, match="alpha"):
        SmoothedEntropy(EntropyHistory(), alpha=0.0)
    with pytest.raises(UnknownName, match="hinge"):
        SmoothedEntropy(EntropyHistory(), form="hing")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="hinge_phase"):
        epo_rule("phase", group_standardised, EntropyHistory(), whole=1)  # type: ignore[arg-type]
