"""What a loss declares."""

from __future__ import annotations

from functools import partial

import pytest

from polyturn.errors import BadInput, UnknownName
from polyturn.losses.learned import Learned, Loss, unit_of


def declared(unit: object) -> Loss:
    def loss(learned: Learned, *, beta: float = 1.0, gamma: float = 1.0) -> object:
        return learned, beta, gamma

    loss.unit = unit  # type: ignore[attr-defined]
    return loss  # type: ignore[return-value]


@pytest.mark.parametrize("unit", ["token", "turn", "trajectory", "group"])
def test_the_unit_is_found_under_partials(unit: str) -> None:
    loss = declared(unit)
    assert unit_of(loss) == unit
    assert unit_of(partial(partial(loss, beta=0.1), gamma=2.0)) == unit


def test_a_partial_may_declare_its_own_unit() -> None:
    loss = partial(declared("token"), beta=0.1)
    loss.unit = "group"  # type: ignore[attr-defined]
    assert unit_of(loss) == "group"


def test_without_a_declaration_a_token_stands_alone() -> None:
    def loss(learned: Learned) -> object:
        return learned

    assert unit_of(loss) == "token"  # type: ignore[arg-type]


def test_an_object_that_is_called_declares_it_too() -> None:
    class Preference:
        unit = "group"

        def __call__(self, learned: Learned) -> object:
            return learned

    assert unit_of(Preference()) == "group"  # type: ignore[arg-type]


def test_unknown_units_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'trajectory'"):
        unit_of(declared("trajectories"))
    with pytest.raises(BadInput, match="declares its unit as 3"):
        unit_of(declared(3))
