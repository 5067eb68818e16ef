"""KL, entropy and value terms: by hand, by slow twins, by gradient."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from polyturn.errors import BadInput, UnknownName
from polyturn.losses.learned import Loss, unit_of
from polyturn.losses.policy_gradient import policy_gradient, policy_gradient_by_turn
from polyturn.losses.regularize import entropy, kl, value_error, with_term
from polyturn.testing import check_loss
from tests.losses import slow
from tests.losses.build import close, columns, gradient, learned, parts_add_up, random_columns, same_metrics

LOG2 = math.log(2.0)


@pytest.mark.parametrize(("estimator", "value"), [("k1", -LOG2), ("k2", LOG2**2 / 2), ("k3", 1 - LOG2)])
def test_kl_by_hand(estimator: str, value: float) -> None:
    # d = reference - logprob = log 2: k1 = -log 2, k2 = (log 2)^2 / 2, k3 = 2 - 1 - log 2.
    c = columns([-2.0], reference=[-2.0 + LOG2], weight=[0.5])
    loss, metrics = kl(learned(c), estimator=estimator)  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(0.5 * value)
    assert metrics == pytest.approx({"kl/loss": 0.5 * value, "kl/value": 1 - LOG2, "kl/count": 1.0})


def test_kl_draws_the_policy_to_its_reference() -> None:
    # Less likely than under the reference: it must become likelier (negative gradient), and the reverse.
    c = columns([-2.0, -1.0], reference=[-1.0, -2.0])
    for estimator in ("k2", "k3"):
        low, high = gradient(partial(kl, estimator=estimator), learned(c))  # type: ignore[arg-type]
        assert low < 0 < high
    # k1 has the same gradient everywhere: as a loss it draws nowhere.
    assert gradient(partial(kl, estimator="k1"), learned(c)) == [1.0, 1.0]


def test_k2_has_the_gradient_of_the_divergence_in_expectation() -> None:
    # Two outcomes with p = softmax(a, 0), reference (0.5, 0.5). d KL(p, q) / da = p0 p1 (log(p0 / q0) - log(p1 / q1)).
    logit = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logprob_V = torch.log_softmax(torch.stack([logit, torch.zeros((), dtype=torch.float64)]), 0)
    p = logprob_V.detach().exp()
    expected = float(p[0] * p[1] * (torch.log(p[0] / 0.5) - torch.log(p[1] / 0.5)))
    slopes = {}
    for estimator in ("k1", "k2", "k3"):
        made = learned(columns([0.0, 0.0], reference=[-LOG2, -LOG2]), logprob_N=logprob_V, weight_N=p)
        loss = kl(made, estimator=estimator)[0]  # type: ignore[arg-type]
        slopes[estimator] = float(torch.autograd.grad(loss, logit, retain_graph=True)[0])
    assert slopes["k2"] == pytest.approx(expected)
    assert slopes["k1"] == pytest.approx(0.0, abs=1e-15)
    assert abs(slopes["k3"] - expected) > 1e-3


def test_entropy_by_hand() -> None:
    c = columns([-1.0, -1.0], entropy=[0.5, 2.0], weight=[1.0, 0.25])
    loss, metrics = entropy(learned(c))
    assert float(loss.detach()) == -1.0
    assert metrics == {"entropy/loss": -1.0, "entropy/value": 2.5, "entropy/count": 2.0}
    assert gradient(entropy, learned(c), lambda made: made.entropy_N) == [-1.0, -0.25]  # type: ignore[arg-type, return-value]


def test_value_error_by_hand() -> None:
    # (3 - 1)^2 / 2 = 2 and (0 - 1)^2 / 2 = 0.5, weights 1 and 2.
    c = columns([0.0, 0.0], value=[3.0, 0.0], target=[1.0, 1.0], weight=[1.0, 2.0], old_value=[3.5, -2.0])
    loss, metrics = value_error(learned(c))
    assert float(loss.detach()) == 3.0
    assert metrics == {"value/loss": 3.0, "value/square": 5.0, "value/clipped": 0.0, "value/count": 2.0}
    assert gradient(value_error, learned(c), lambda made: made.heads["value"]) == [2.0, -2.0]
    # Clip 1: the first stands 0.5 from the old 3.5. The second would have moved 2; held at -1 it is off by 2: 4 > 1.
    clipped, metrics = value_error(learned(c), clip=1.0)
    assert float(clipped.detach()) == 2.0 + 2 * 4 / 2
    assert metrics["value/clipped"] == 1.0
    assert gradient(partial(value_error, clip=1.0), learned(c), lambda made: made.heads["value"]) == [2.0, 0.0]


def test_what_is_missing_is_named() -> None:
    made = learned(columns([-1.0]))
    with pytest.raises(BadInput, match="needs reference_N, and the batch has none; give the learner a reference"):
        kl(replace(made, reference_N=None))
    with pytest.raises(BadInput, match="needs entropy_N"):
        entropy(replace(made, entropy_N=None))
    with pytest.raises(BadInput, match="needs target_N"):
        value_error(replace(made, target_N=None))
    with pytest.raises(BadInput, match="needs the head 'critic', and the batch has none; it has: value"):
        value_error(made, head="critic")
    with pytest.raises(BadInput, match="before the update"):
        value_error(replace(made, old_heads={}), clip=0.1)
    with pytest.raises(BadInput, match="clip is 0"):
        value_error(made, clip=0.0)
    with pytest.raises(UnknownName, match="no estimator of KL named 'k4'; did you mean"):
        kl(made, estimator="k4")  # type: ignore[arg-type]


def test_terms_equal_their_slow_twins_and_add_up_by_token() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        c = random_columns(seed)
        estimator, clip = draw.choice(("k1", "k2", "k3")), draw.choice((None, 0.2))
        for loss, twin in (
            (partial(kl, estimator=estimator), slow.kl(c, estimator)), (entropy, slow.entropy(c)),  # type: ignore[arg-type]
            (partial(value_error, clip=clip), slow.value_error(c, clip)),
        ):
            found, metrics = loss(learned(c))
            assert close(float(found.detach()), twin[0])
            assert same_metrics(metrics, twin[1])
            assert unit_of(loss) == "token"
    c = random_columns(0)
    assert all(parts_add_up(loss, c, range(len(c))) for loss in (kl, entropy, value_error))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_the_losses(seed: int) -> None:
    made = learned(random_columns(seed))
    for estimator in ("k1", "k2", "k3"):
        loss = partial(kl, estimator=estimator)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda v, loss=loss: loss(replace(made, logprob_N=v))[0], (made.logprob_N,))
    assert torch.autograd.gradcheck(lambda v: entropy(replace(made, entropy_N=v))[0], (made.entropy_N,))
    for clip in (None, 0.3):
        assert torch.autograd.gradcheck(
            lambda v, clip=clip: value_error(replace(made, heads={"value": v}), clip=clip)[0], (made.heads["value"],)
        )


@pytest.mark.parametrize("loss", [
    kl, partial(kl, estimator="k2"), entropy, value_error, partial(value_error, clip=0.1),
])
def test_conformance(loss: Loss) -> None:
    check_loss(loss)


def test_a_term_is_added_with_its_coefficient() -> None:
    # -0.5 * log 2 (k1, weight 0.5) plus 3 times itself: 4 times.
    c = columns([-2.0], reference=[-2.0 + LOG2], weight=[0.5])
    k1 = partial(kl, estimator="k1")
    loss, metrics = with_term(learned(c), main=k1, term=k1, coefficient=3.0)
    assert float(loss.detach()) == pytest.approx(-2 * LOG2) and metrics.keys() == k1(learned(c))[1].keys()
    both = partial(with_term, main=policy_gradient, term=entropy, coefficient=0.1)
    assert unit_of(both) == "token"
    check_loss(both)
    with pytest.raises(BadInput, match="of unit 'turn'"):
        with_term(learned(c), main=policy_gradient_by_turn, term=k1, coefficient=1.0)
