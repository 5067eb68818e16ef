"""Stored episodes in batches: by hand, equal in tokens, each once a round, the same however they are asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from polyturn.errors import BadInput
from polyturn.learn.epochs import Epochs, tokens_of
from polyturn.types import Episode, Group, Task, Trajectory, Turn, Usage


def stored(*lengths: int) -> list[Group]:
    """Groups of one episode of two turns, which have these tokens together."""
    groups = []
    for n, length in enumerate(lengths):
        turns = tuple(Turn(k, "agent", "main", (), -1, (), usage=Usage(9, 0, tokens))
                      for k, tokens in enumerate((length - 1, 1)))
        groups.append((Episode(f"e{n}", Task("t", "f"), 0, trajectories=(Trajectory("agent", "main", turns=turns),)),))
    return groups


def names(groups: list[Group]) -> list[str]:
    return [episode.id for group in groups for episode in group]


def test_the_tokens_of_a_group_are_those_its_players_wrote() -> None:
    assert [tokens_of(group) for group in stored(3, 7)] == [3, 7]


def test_a_batch_ends_with_the_episode_that_fills_it() -> None:
    epochs = Epochs(stored(*[10] * 7), 25, seed=0)
    # three episodes of 10 are 30 >= 25; 7 episodes make two batches, and the seventh is left over in each round
    batches = [epochs.batch(i) for i in range(6)]
    assert [len(batch) for batch in batches] == [3] * 6
    for turn in range(3):
        seen = Counter(names(batches[2 * turn]) + names(batches[2 * turn + 1]))
        assert len(seen) == 6 and set(seen.values()) == {1}
    assert names(batches[0]) != names(batches[2])


def test_short_and_long_episodes_give_equally_many_tokens() -> None:
    for lengths in ([5] * 200, [40] * 50, [5, 40] * 40):
        epochs = Epochs(stored(*lengths), 100, seed=3)
        said = [sum(map(tokens_of, epochs.batch(i))) for i in range(30)]
        assert all(100 <= tokens < 140 for tokens in said)


def test_any_batch_can_be_asked_first_so_that_a_run_can_be_gone_on_with() -> None:
    groups = stored(*range(2, 30))
    one, other = Epochs(groups, 50, seed=1), Epochs(groups, 50, seed=1)
    asked = [names(one.batch(i)) for i in range(12)]
    assert names(other.batch(11)) == asked[11] and names(other.batch(0)) == asked[0]
    assert names(Epochs(groups, 50, seed=2).batch(0)) != asked[0]


def test_too_few_episodes_for_a_batch_are_refused() -> None:
    with pytest.raises(BadInput, match="2 episodes hold less than 100 tokens"):
        Epochs(stored(9, 9), 100, seed=0).batch(0)
