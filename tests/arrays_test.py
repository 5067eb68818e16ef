"""lay_out, take, pruned, as_turns: numbers worked by hand, and slow twins on random trees."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from polyturn.arrays import Measured, Tokens, Tree, Turns, as_turns, lay_out, pruned, take
from polyturn.errors import BadInput, NotFinite, NotTrainable
from polyturn.types import Episode, Score, Span, Stop, Trajectory
from tests.advantages.build import Said, batch, episode, random_batch, random_groups, scored, trajectory


def with_trajectory(made: Trajectory, stop: Stop = Stop("done")) -> Episode:
    return replace(episode({"agent": [Said()]}), trajectories=(made,), stop=stop)


# ---------------------------------------------------------------- the tree


def test_depth_and_path_of_two_replies_to_one_prompt() -> None:
    tree = Tree(np.array([5, 6, 7, 8]), np.array([-1, 0, 1, 1]))
    assert tree.depth_U().tolist() == [0, 1, 2, 2]
    assert tree.path(3).tolist() == [5, 6, 8]


def test_depth_of_an_empty_tree() -> None:
    assert Tree(np.zeros(0, np.int32), np.zeros(0, np.int32)).depth_U().tolist() == []


def test_depth_and_pruned_equal_slow_twins_on_random_trees() -> None:
    for seed in range(300):
        draw = random.Random(seed)
        size = draw.randint(1, 30)
        near = draw.random() < 0.5
        parents = [-1 if u == 0 or draw.random() < 0.1 else (u - 1 if near else draw.randrange(u)) for u in range(size)]
        tree = Tree(np.arange(100, 100 + size, dtype=np.int32), np.array(parents, np.int32))
        nodes = [draw.randrange(size) for _ in range(draw.randint(0, 4))]

        def path(node: int, parents: list[int] = parents) -> list[int]:
            return [*path(parents[node], parents), node] if node >= 0 else []

        assert tree.depth_U().tolist() == [len(path(u)) - 1 for u in range(size)]
        small, place_N = pruned(tree, np.array(nodes, np.int32))
        assert len(small.id_U) == len({u for node in nodes for u in path(node)})
        for node, place in zip(nodes, place_N.tolist(), strict=True):
            assert small.path(place).tolist() == [100 + u for u in path(node)]


def test_half_a_million_nodes_are_walked() -> None:
    runs, length = 5000, 100
    parents = np.arange(-1, runs * length - 1, dtype=np.int32)
    parents[length::length] = length - 1
    tree = Tree(np.zeros(runs * length, np.int32), parents)
    depth_U = tree.depth_U()
    small, _ = pruned(tree, np.array([runs * length - 1], np.int32))
    assert depth_U[-1] == 2 * length - 1
    assert len(small.id_U) == 2 * length


# ---------------------------------------------------------------- lay_out


def test_shared_prompts_merge_and_each_sampled_token_stands_once() -> None:
    # Both rollouts: prompt 1 2, reply 10 11 or 10 12. The prompts merge; the replies differ as whole spans, so the
    # tree holds 2 + 2 + 2 nodes.
    group = tuple(episode({"agent": [Said(ids)]}, trial=i) for i, ids in enumerate(((10, 11), (10, 12))))
    tokens = lay_out([group], "main")
    assert tokens.tree.id_U.tolist() == [1, 2, 10, 11, 10, 12]
    assert tokens.tree.parent_U.tolist() == [-1, 0, 1, 2, 1, 4]
    assert tokens.node_N.tolist() == [2, 3, 4, 5]
    assert tokens.id_N.tolist() == [10, 11, 10, 12]
    assert tokens.trajectory_N.tolist() == [0, 0, 1, 1]
    assert tokens.end_B.tolist() == [3, 5]
    assert len(tokens) == 4


def test_equal_replies_merge_in_the_tree_and_keep_two_owners() -> None:
    group = tuple(
        episode({"agent": [Said((10, 11), logprobs=(-0.5 - i, -1.0))]}, trial=i) for i in range(2)
    )
    tokens = lay_out([group], "main")
    assert tokens.tree.id_U.tolist() == [1, 2, 10, 11]
    assert tokens.node_N.tolist() == [2, 3, 2, 3]
    assert tokens.behavior_N.tolist() == [-0.5, -1.0, -1.5, -1.0]
    assert tokens.trajectory_N.tolist() == [0, 0, 1, 1]


def test_a_retry_with_equal_ids_in_one_trajectory_keeps_two_owners() -> None:
    first = trajectory("agent", "main", [Said((10, 11))])
    again = Span(0, np.array([10, 11], np.int32), True, np.array([-2.0, -3.0]))
    turns = (first.turns[0], replace(first.turns[0], at=1, spans=(2,)))
    tokens = lay_out([(with_trajectory(replace(first, spans=(*first.spans, again), turns=turns)),)], "main")
    assert tokens.tree.id_U.tolist() == [1, 2, 10, 11]
    assert tokens.node_N.tolist() == [2, 3, 2, 3]
    assert tokens.turn_N.tolist() == [0, 0, 1, 1]
    assert tokens.behavior_N.tolist() == [-1.0, -1.0, -2.0, -3.0]


def test_a_reply_spliced_into_a_later_prompt_is_owned_by_its_own_call_alone() -> None:
    tokens = lay_out([(episode({"agent": [Said((10, 11)), Said((12,), prompt=(3,))]}),)], "main")
    # One chain: 1 2 | 10 11 | 3 | 12.
    assert tokens.tree.id_U.tolist() == [1, 2, 10, 11, 3, 12]
    assert tokens.tree.parent_U.tolist() == [-1, 0, 1, 2, 3, 4]
    assert tokens.node_N.tolist() == [2, 3, 5]
    assert tokens.turn_N.tolist() == [0, 0, 1]


def test_a_copied_span_that_no_turn_owns_is_context_and_not_trained() -> None:
    spans = (
        Span(-1, np.array([1], np.int32)), Span(0, np.array([10], np.int32), True, np.array([-1.0])),
        Span(-1, np.array([2], np.int32)), Span(2, np.array([10], np.int32)),
        Span(3, np.array([11], np.int32), True, np.array([-1.0])),
    )
    turn = trajectory("agent", "main", [Said()]).turns[0]
    made = Trajectory("agent", "main", None, (), (turn, replace(turn, at=1, spans=(4,))), spans)
    tokens = lay_out([(with_trajectory(made),)], "main")
    assert tokens.id_N.tolist() == [10, 11]
    assert [tokens.tree.path(node).tolist() for node in tokens.node_N.tolist()] == [[1, 10], [2, 10, 11]]


def test_an_empty_reply_owns_nothing_and_its_turn_stays() -> None:
    turns = batch([(episode({"agent": [Said(()), Said((10,))]}),)])
    assert turns.tokens_BK.tolist() == [[0, 1]]
    assert turns.kept_BK.tolist() == [[True, True]]
    assert turns.tokens.end_B.tolist() == [4]  # 1 2 | | 1 2 | 10: five nodes


def test_only_seats_that_train_and_only_this_policy() -> None:
    made = episode(
        {"a": [Said((10,))], "b": [Said((11,))], "c": [Said((12,), policy="frozen")], "a/worker.0": [Said((13,))]},
        train=frozenset({"a", "c"}),
    )
    assert lay_out([(made,)], "main").id_N.tolist() == [10, 13]
    assert lay_out([(made,)], "frozen").id_N.tolist() == [12]
    assert len(lay_out([(made,)], "nobody")) == 0


def test_turns_of_forks_are_left_out() -> None:
    tokens = lay_out([(episode({"agent": [Said((10,), branch="f0"), Said((11,))]}),)], "main")
    assert tokens.id_N.tolist() == [11]
    assert tokens.turn_N.tolist() == [0]


def test_turns_that_ended_out_of_order_stand_in_the_order_of_their_calls() -> None:
    turns = batch([(episode({"agent": [Said((10,), {"score": 1.0}, at=5), Said((11,), {"score": 2.0}, at=3)]}),)])
    assert turns.tokens.id_N.tolist() == [11, 10]
    assert turns.reward_CBK.tolist() == [[[2.0, 1.0]]]


def test_support_temperature_version_and_demonstrations_are_carried() -> None:
    said = [
        Said((10, 11), support=((10, 20), ()), temperature=0.5, version=3), Said((12,), sampled=False, temperature=0.5),
        Said((13,), temperature=0.0, support=((13,),)),
    ]
    tokens = lay_out([(episode({"agent": said}),)], "main")
    assert {n: ids.tolist() for n, ids in tokens.support.items()} == {0: [10, 20], 3: [13]}
    # A demonstration and a greedy token are meant at temperature 1.
    assert tokens.temperature_N.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert tokens.version_N.tolist() == [3, 3, 0, 0]
    assert tokens.sampled_N.tolist() == [True, True, False, True]
    assert np.isnan(tokens.behavior_N).tolist() == [False, False, True, False]


def test_an_episode_that_ended_in_an_error_is_refused() -> None:
    with pytest.raises(NotTrainable, match=r"e\.0 ended in an error \(server down\); drop it first"):
        lay_out([(episode({"agent": [Said()]}, stop=Stop("error", "server down")),)], "main")


def test_a_turn_without_tokens_is_refused() -> None:
    made = trajectory("agent", "main", [Said()])
    with pytest.raises(NotTrainable, match="turn at 0: its tokens are unknown"):
        lay_out([(with_trajectory(replace(made, turns=(replace(made.turns[0], spans=()),))),)], "main")


def test_no_groups_give_empty_arrays() -> None:
    turns = as_turns(lay_out([], "main"))
    assert len(turns.tokens) == 0
    assert turns.kept_BK.shape == (0, 0)
    assert turns.channels == ()


def test_every_sampled_token_has_one_row_whose_path_is_its_context() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        tokens = turns.tokens
        expected = [
            (ids[:end].tolist(), g)
            for g, group in enumerate(groups) for made in group for t in made.trajectories for turn in t.turns
            for ids in [np.concatenate([t.spans[i].ids for i in t.path(turn.spans[0])])]
            for end in range(len(ids) - len(t.spans[turn.spans[0]].ids) + 1, len(ids) + 1)
        ]
        paths = [tokens.tree.path(node).tolist() for node in tokens.node_N.tolist()]
        assert list(zip(paths, tokens.group_N.tolist(), strict=True)) == expected
        assert len(tokens) == sum(len(s.ids) for g in groups for e in g for t in e.trajectories for s in t.spans[1::2])


# ---------------------------------------------------------------- take


def test_take_keeps_rows_paths_and_support() -> None:
    group = tuple(
        episode({"agent": [Said((10 + i, 20), support=((10 + i,), ()))]}, trial=i) for i in range(3)
    )
    tokens = lay_out([group], "main")
    some = take(tokens, np.array([2, 5], np.int32))
    assert some.id_N.tolist() == [11, 20]
    assert some.tree.path(int(some.node_N[1])).tolist() == [1, 2, 12, 20]
    assert some.trajectory_N.tolist() == [1, 2]
    assert some.trajectories == tokens.trajectories
    assert {n: ids.tolist() for n, ids in some.support.items()} == {0: [11]}
    assert len(some.tree.id_U) == 5  # 1 2 | 11 | 12 20: the first reply and the end of the second are gone


def test_take_of_every_column_equals_indexing() -> None:
    tokens = lay_out(random_groups(random.Random(3)), "main")
    index_N = np.array([4, 0, 2], np.int32)
    some = take(tokens, index_N)
    for name in ("sampled_N", "behavior_N", "temperature_N", "version_N", "turn_N", "trajectory_N", "group_N", "id_N"):
        np.testing.assert_array_equal(getattr(some, name), getattr(tokens, name)[index_N])
    assert some.end_B.tolist() == [-1] * len(tokens.trajectories)


# ---------------------------------------------------------------- as_turns


def test_channels_scores_padding_and_groups() -> None:
    score = Score(0.5, turns={0: {"fact": 0.25}})
    first = episode(
        {"agent": [Said(2, {"win": 1.0}), Said(1, finish="length", purpose="plan")]}, scores={"exact": {"agent": score}}
    )
    second = episode({"agent": [Said(3, dropped="window")]}, trial=1, family="other", stop=Stop("truncated"))
    turns = batch([(first,), (second,)])
    assert turns.channels == ("exact", "exact/fact", "win")
    np.testing.assert_array_equal(
        turns.reward_CBK,
        [[[np.nan, 0.5], [np.nan, np.nan]], [[0.25, np.nan], [np.nan, np.nan]], [[1.0, np.nan], [np.nan, np.nan]]],
    )
    assert turns.reward_BK(("win", "exact")).tolist() == [[1.0, 0.5], [0.0, 0.0]]
    assert turns.tokens_BK.tolist() == [[2, 1], [3, 0]]
    assert turns.kept_BK.tolist() == [[True, True], [False, False]]
    assert turns.step_BK.tolist() == [[0, 1], [0, 0]]
    assert turns.purpose_BK.tolist() == [["act", "plan"], ["act", ""]]
    assert turns.finish_BK.tolist() == [["stop", "length"], ["stop", ""]]
    assert turns.family_B.tolist() == ["game", "other"]
    assert turns.group_B.tolist() == [0, 1]
    assert turns.episode_B.tolist() == [0, 1]
    assert turns.stop_B.tolist() == ["done", "truncated"]
    with pytest.raises(BadInput, match=r"no reward channel \['wni'\]; this batch has"):
        turns.reward_BK(("wni",))


def test_a_trajectory_without_tokens_keeps_its_own_group() -> None:
    # Seen as a fault: the group was read from the tokens, so that an empty row fell into group 0.
    turns = batch([scored(1.0), (episode({"agent": [Said(())]}),)])
    assert turns.group_B.tolist() == [0, 1]


def test_anchors_are_read_per_turn() -> None:
    tokens = lay_out([(episode({"agent": [Said(), Said()]}), episode({"agent": [Said()]}, trial=1))], "main")
    turns = as_turns(tokens, anchor=lambda made, turn: f"{made.seat}@{turn.at}")
    assert turns.anchor_BK is not None
    assert turns.anchor_BK.tolist() == [["agent@0", "agent@1"], ["agent@0", ""]]
    assert as_turns(tokens).anchor_BK is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused_with_its_place(value: float) -> None:
    with pytest.raises(NotFinite, match=r"episode e\.0, turn at 0: reward 'win' is (nan|inf)"):
        batch([(episode({"agent": [Said(1, {"win": value})]}),)])
    with pytest.raises(NotFinite, match="reward 'score' is"):
        batch([scored(value)])


def test_an_abstained_score_makes_the_row_and_its_sub_seats_invalid() -> None:
    made = episode(
        {"agent": [Said()], "agent/worker.0": [Said()], "other": [Said()]},
        scores={"v": {"agent": Score(None), "other": Score(1.0)}},
    )
    assert batch([(made,)]).valid_B.tolist() == [False, False, True]


def test_a_bootstrap_is_read_only_where_the_trajectory_was_cut() -> None:
    group = tuple(
        episode({"agent": [Said()]}, trial=i, stop=Stop(kind))  # type: ignore[arg-type]
        for i, kind in enumerate(("done", "truncated", "budget"))
    )

    def measure(n: int, b: int) -> Measured:
        return Measured(np.zeros(n), end={"value": np.arange(1.0, b + 1)})

    assert batch([group], measure).bootstrap_B.tolist() == [0.0, 2.0, 0.0]
    assert batch([group]).bootstrap_B.tolist() == [0.0, 0.0, 0.0]


def test_roots_of_nested_sub_seats_in_several_episodes() -> None:
    seats = {"lead": [Said()], "lead/helper": [Said()], "lead/helper/hand": [Said()], "lone": [Said()]}
    turns = batch([(episode(seats), episode(seats, trial=1))])
    assert turns.root_B.tolist() == [0, 0, 0, 3, 4, 4, 4, 7]
    assert turns.episode_B.tolist() == [0] * 4 + [1] * 4


def test_a_sub_seat_stands_in_for_a_root_that_another_policy_played() -> None:
    # The boss is a frozen policy and earned 1.0 by turn and 0.5 by score; its first worker carries both, once.
    made = episode(
        {"boss": [Said(1, {"score": 1.0}, policy="frozen")], "boss/w.0": [Said()], "boss/w.1": [Said()]},
        scores={"score": {"boss": Score(0.5)}},
    )
    turns = batch([(made,)])
    assert turns.root_B.tolist() == [0, 0]
    assert turns.reward_BK().tolist() == [[1.5], [0.0]]


def test_what_a_seat_was_paid_at_the_turn_of_another_policy_is_not_lost() -> None:
    said = [
        Said(1, {"score": 1.0}, policy="judge", at=0), Said(1, at=1), Said(1, {"score": 2.0}, policy="judge", at=2),
        Said(1, {"score": 4.0}, at=3), Said(1, {"score": 8.0}, policy="judge", at=4, branch="fork"),
    ]
    # The judge's first turn came before main's first, so its 1.0 counts there; 2.0 follows main's first turn.
    assert batch([(episode({"agent": said}),)]).reward_BK().tolist() == [[3.0, 4.0]]


def test_reward_totals_equal_a_slow_twin_on_random_groups() -> None:
    for seed in range(200):
        groups, turns = random_batch(seed)
        total_B = turns.reward_BK().sum(axis=1).tolist()
        b = 0
        for g, group in enumerate(groups):
            for made in group:
                for t in made.trajectories:
                    expected = sum(turn.rewards.get("score", 0.0) for turn in t.turns)
                    score = made.scores["score"].get(t.seat)
                    expected += score.value if score and score.value is not None else 0.0
                    assert abs(total_B[b] - expected) < 1e-12
                    assert turns.group_B[b] == g
                    assert turns.tokens_BK[b].sum() == sum(len(t.spans[i].ids) for u in t.turns for i in u.spans)
                    b += 1
        assert b == len(turns.tokens.trajectories)


def test_types_of_the_arrays() -> None:
    turns = batch(random_groups(random.Random(0)))
    tokens: Tokens = turns.tokens
    assert isinstance(turns, Turns)
    assert {a.dtype.name for a in (tokens.node_N, tokens.turn_N, tokens.tree.id_U, turns.root_B)} == {"int32"}
    assert tokens.behavior_N.dtype == np.float64
    assert (tokens.sampled_N.dtype, turns.kept_BK.dtype) == (np.bool_, np.bool_)
