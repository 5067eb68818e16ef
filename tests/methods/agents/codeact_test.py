"""CodeAct: replies by hand and against a slow twin, parity of the spaces, the crossover, repair, limits, tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from polyturn.arrays import as_turns, lay_out
from polyturn.envs.best_price import BestPrice, best_price, market, read_question
from polyturn.errors import BadInput, UnknownName
from polyturn.methods.agents.codeact import (
    BOTH,
    NEITHER,
    OBSERVATION,
    ONLY_FIRST,
    SPACES,
    Plan,
    Rules,
    Space,
    action,
    action_counts,
    answer,
    codeact,
    corrected_first,
    parsed,
    parsed_tags,
    prompt,
    read_action,
    rendered,
    self_corrected,
    truncated,
)
from polyturn.policies.dictated import Dictated
from polyturn.protocols import Match, Player
from polyturn.recipes.codeact import solver
from polyturn.rollout.episode import Place, play_episode
from polyturn.rollout.score import score_groups
from polyturn.tools.functions import ToolFailed
from polyturn.tools.sandbox.interpreter import Sandbox
from polyturn.tools.sandbox.isolation import Bounds
from polyturn.types import Episode, Group, Limits, Message, Sampling, Task, Tool
from tests.methods.agents.codeact_slow import slow_kind, slow_stop, slow_stop_by_tool_use, slow_truncated
from tests.policies.tiny import tiny_local

PRICE = Tool("price", "A price.", {"properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
                                   "required": ["city"]})
ONE = Task("one", "best_price", {"cities": 1, "vendors": 1})
FOUR = Task("four", "best_price", {"cities": 2, "vendors": 2})

# ---------------------------------------------------------------- replies by hand


def test_simulated_turns_are_cut_where_the_released_code_cuts_them() -> None:
    assert truncated("  Action: f, 1 End Action") == "Action: f, 1 End Action"
    assert truncated("Action: f End Action Result: 3 Answer: 3") == "Action: f End Action"
    assert truncated("Action: f Action: g End Action") == "Action: f"
    assert truncated("Answer: 3 Thought: sure Answer: 4") == "Answer: 3"
    assert truncated("Thought: a Action: f Thought: b Action: g") == "Thought: a Action: f"


def test_what_a_reply_says() -> None:
    assert parsed("Thought: x. Action: f, 1 End Action then more").content == "f, 1"
    assert parsed("Answer:  7 \n").content == "7"
    assert parsed("Action: f Answer: 1").content == BOTH and parsed("hm").content == NEITHER
    two = parsed("Action: f End Action Action: g End Action")
    assert (two.content, two.reminder) == ("f", ONLY_FIRST)
    code = parsed("Action:\nfor x in [1]:\n    print(x)\nEnd Action")
    assert code.content == "for x in [1]:\n    print(x)"


def test_a_solution_is_never_executed_and_all_code_is_joined() -> None:
    assert parsed_tags("<execute>a</execute><solution>b</solution>").kind == "propose_solution"
    assert parsed_tags("<execute>a = 1</execute>..<execute>a").content == "a = 1\n\na"
    assert parsed_tags("nothing").kind == "invalid_action"


def test_actions_of_text_and_json_are_read_by_the_schema() -> None:
    assert read_action("text", "price, Oslo, 2", [PRICE]) == ("price", {"city": "Oslo", "nights": 2})
    assert read_action("text", "price, 7", [PRICE]) == ("price", {"city": "7"})
    assert read_action("json", '{"tool": "price", "args": ["Oslo", 2]}', [PRICE])[1] == {"city": "Oslo", "nights": 2}
    fenced = '```json\n{"tool": "price", "args": {"city": "Oslo"}}\n```'
    assert read_action("json", fenced, [PRICE])[1] == {"city": "Oslo"}
    assert read_action("json", '{"tool": "price", "args": "Oslo"}', [PRICE])[1] == {"city": "Oslo"}
    for space, content, said in (
        ("text", "prise, Oslo", "did you mean 'price'"), ("text", "price, Oslo, two", "expected int"),
        ("text", "price", "city is missing"), ("json", "price(1)", "expected an object"),
        ("json", "[1]", "expected an object"), ("json", '{"tool": ["x"], "args": []}', "no tool named"),
        ("json", '{"tool": "price", "args": [NaN]}', "expected an object"),
    ):
        with pytest.raises(ToolFailed, match=said):
            read_action(space, content, [PRICE])  # type: ignore[arg-type]


def test_rendered_calls_are_read_back() -> None:
    arguments = {"city": "Oslo", "nights": 2}
    for space in ("text", "json"):
        assert read_action(space, parsed(rendered(space, "price", arguments)).content, [PRICE]) == ("price", arguments)
    assert rendered("code", "price", arguments) == "Action:\nprint(price('Oslo', 2))\nEnd Action"


def test_every_prompt_names_the_same_tools() -> None:
    for space in SPACES:
        shown = prompt(space, [PRICE], "Find it.")
        assert "[1] price(city: str, nights: int = None): A price." in shown and shown.endswith("\n\nFind it.")
    assert "<execute>" in prompt("code", [PRICE], "", tags=True)


# ---------------------------------------------------------------- against the slow twin


def test_a_thousand_random_replies_are_read_as_by_the_slow_twin() -> None:
    draw = random.Random(0)
    words = ["Action:", "Answer:", "End Action", "Thought:", " ", "\n", "f, 1", "x", "End", "Action", ":", "\u2003"]
    cut = 0
    for _ in range(1000):
        text = "".join(draw.choice(words) for _ in range(draw.randint(0, 12)))
        assert truncated(text) == slow_truncated(text), repr(text)
        assert parsed(truncated(text)).kind == slow_kind(slow_truncated(text)), repr(text)
        cut += truncated(text) != text.lstrip()
    assert cut > 200


# ---------------------------------------------------------------- playing


async def played(
    space: Space, plan: Plan, task: Task = FOUR, *, suite: BestPrice | None = None, trial: int = 0,
    policy: Any = None, bounds: Bounds = Bounds(), after: Any = "keep", **rules: Any,
) -> Episode:
    def sandbox(tools: Any) -> Sandbox:
        return Sandbox(tools=tools, bounds=bounds, after_timeout=after)

    maker = codeact(Rules(space, **rules), plan=plan, sandbox=sandbox)
    suite = suite or best_price()
    match = Match(suite, task, {"agent": Player(maker, "main")}, train=frozenset({"agent"}))
    episode = await play_episode(match, {"main": policy or Dictated(name="main")}, Place(f"e{trial}", "g", trial))
    assert episode.stop.kind != "error", episode.error
    return (await score_groups([(episode,)], suite))[0][0]


def saying(*replies: str) -> Plan:
    def plan(messages: Sequence[Message]) -> str:
        said = sum(message.role == "assistant" for message in messages)
        return replies[min(said, len(replies) - 1)]

    return plan


def heard(episode: Episode) -> list[str]:
    log = episode.trajectories[0].messages
    return [message.text.removeprefix(OBSERVATION) for message in log if message.role == "user"]


def won(episode: Episode) -> bool:
    return bool(episode.scores["score"]["agent"].success)


async def test_one_plan_in_three_renderings_takes_the_same_steps() -> None:
    """A task of one call: the same answer, and the same environment steps to the last field."""
    def plan(space: Space) -> Plan:
        def say(messages: Sequence[Message]) -> str:
            question = read_question(messages[0].text)
            if len(messages) == 1:
                return rendered(space, question.tool, question.calls()[0])
            return answer(question.answer([int(messages[-1].text.removeprefix(OBSERVATION))]))

        return say

    episodes = {space: await played(space, plan(space), ONE) for space in SPACES}
    assert all(won(episode) for episode in episodes.values())
    steps = {space: [e.content for e in episode.events if e.kind == "tool"] for space, episode in episodes.items()}
    assert steps["text"] == steps["json"] == steps["code"] and len(steps["code"]) == 1
    assert len({episode.final_sha256 for episode in episodes.values()}) == 1
    assert len({heard(episode)[0] for episode in episodes.values()}) == 3


@pytest.mark.parametrize(("cities", "vendors"), [(1, 2), (2, 4), (3, 3), (2, 5), (1, 8), (8, 8)])
async def test_the_crossover(cities: int, vendors: int) -> None:
    """Ten turns: text and JSON need one for each offer and one for the answer, so they succeed up to nine offers."""
    task = Task(f"{cities}x{vendors}", "best_price", {"cities": cities, "vendors": vendors})
    offers = cities * vendors
    code = await played("code", solver("code"), task)
    assert won(code) and len(code.trajectories[0].turns) == 2
    assert code.final is not None and code.final["calls"] == offers
    for space in ("text", "json"):
        episode = await played(space, solver(space), task)  # type: ignore[arg-type]
        assert won(episode) == (offers <= 9)
        assert len(episode.trajectories[0].turns) == min(10, offers + 1)
        assert offers <= 9 or (episode.stop.kind, episode.stop.reason) == ("budget", "turns: 10 spent")


async def test_tool_calls_inside_code_are_environment_steps_under_the_same_limits() -> None:
    episode = await played("code", solver("code"))
    question = market(FOUR, 0).question
    called = [(e.content["name"], e.content["arguments"]) for e in episode.events if e.kind == "tool"]
    assert called == [(question.tool, arguments) for arguments in question.calls()] and len(called) == 4
    suite = best_price()
    match = Match(suite, FOUR, {"agent": Player(codeact(Rules("code"), plan=solver("code")), "main")},
                  limits=Limits(env_steps=3))
    cut = await play_episode(match, {"main": Dictated(name="main")}, Place("cut"))
    assert cut.stop.kind == "truncated" and cut.final is not None and cut.final["calls"] == 3


async def test_a_failing_tool_raises_in_the_code() -> None:
    code = "try:\n    price('Atlantis', 'Ada')\nexcept ToolError as error:\n    print('caught:', error)"
    episode = await played("code", saying(action(code), answer("1")), turns=2)
    assert heard(episode)[1] == "caught: 'Ada' has no offer in 'Atlantis'"
    plan = saying(action("price('Oslo')"), action("pric('Oslo')"), action("price(1, 2, 3)"))
    wrong = await played("code", plan, turns=3)
    said = "ToolError: price(city: str, vendor: str) was called with {'city': 'Oslo'}: vendor is missing"
    assert said in heard(wrong)[1]
    assert "NameError: name 'pric' is not defined" in heard(wrong)[2]
    assert action_counts(wrong) == {"use_tool": 3, "propose_solution": 0, "invalid_action": 0, "executable": 0}


async def test_variables_stay_between_turns() -> None:
    episode = await played("code", saying(action("x = [1]"), action("x.append(2)\nx"), answer("0")), turns=3)
    assert heard(episode)[1:] == ["The code ran and printed nothing.", "[1, 2]"]


@pytest.mark.parametrize(("after", "then"), [("keep", "5"), ("restart", "NameError")])
async def test_after_a_timeout_the_variables_are_there_or_said_to_be_lost(after: str, then: str) -> None:
    plan = saying(action("x = 5"), action("while True: pass"), action("x"))
    episode = await played("code", plan, turns=4, bounds=Bounds(run_s=0.3), after=after)
    stopped = heard(episode)[2]
    assert "longer than 0.3 s" in stopped and ("variables are lost" in stopped) == (after == "restart")
    assert then in heard(episode)[3]


async def test_observations_are_cut_and_the_end_of_a_traceback_stays() -> None:
    long = "print('a' * 1_000_000)"
    episode = await played("code", saying(action(long), action(f"{long}\n1 / 0")), turns=3, observation_chars=300)
    assert heard(episode)[1].startswith("aaa") and len(heard(episode)[1]) < 350
    assert heard(episode)[1].endswith("more characters were cut]")
    assert heard(episode)[2].endswith("ZeroDivisionError: division by zero") and len(heard(episode)[2]) < 350


async def test_a_wrong_answer_may_be_tried_again_until_proposals_are_spent() -> None:
    right = market(FOUR, 0).expected()
    assert won(await played("text", saying(answer("wrong"), answer("x"), answer(right)), turns=3))
    spent = await played("text", saying(answer("wrong"), answer("x"), answer(right)), proposals=2)
    assert not won(spent) and (spent.stop.kind, spent.stop.reason) == ("budget", "proposals: 2 spent")
    assert action_counts(spent)["propose_solution"] == 2


async def test_an_action_that_shows_the_answer_ends_a_task_of_one_call() -> None:
    question = market(ONE, 0).question
    call = rendered("text", question.tool, question.calls()[0])
    checked = await played("text", saying(call), ONE, check_actions=True, turns=3)
    right = market(ONE, 0).expected() != "none"
    assert won(checked) == right and len(checked.trajectories[0].turns) == (1 if right else 3)
    assert not won(await played("text", saying(call), ONE, turns=3))


async def test_the_countdown_says_what_is_left() -> None:
    episode = await played("text", saying("hm", answer("wrong"), answer("no")), turns=3, proposals=2, countdown=True)
    assert [text.splitlines()[-1] for text in heard(episode)] == [
        "Left: 3 turns, 2 answers.", "Left: 2 turns, 2 answers.", "Left: 1 turns, 1 answers. Answer now.",
    ]


async def test_a_thousand_random_episodes_count_as_the_slow_twin_and_not_as_a_twin_by_tool_use() -> None:
    draw = random.Random(1)
    right = market(FOUR, 0).expected()
    said = {"use_tool": "Action: nothing End Action", "propose_solution": answer("wrong"), "invalid_action": "hm"}
    differs = 0
    for trial in range(1000):
        kinds = [draw.choice(list(said)) for _ in range(8)]
        good = [kind == "propose_solution" and draw.random() < 0.2 for kind in kinds]
        turns, proposals = draw.randint(1, 8), draw.choice([None, 1, 2, 3])
        plan = saying(*(answer(right) if g else said[kind] for kind, g in zip(kinds, good, strict=True)))
        episode = await played("text", plan, trial=trial, turns=turns, proposals=proposals)
        taken, why = slow_stop(kinds, good, turns, proposals)
        assert len(episode.trajectories[0].turns) == taken, (kinds, good, turns, proposals)
        assert why in episode.stop.reason
        assert sum(list(action_counts(episode).values())[:3]) == taken
        differs += slow_stop_by_tool_use(kinds, good, turns, proposals)[0] != taken
    assert differs > 200


async def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'code'"):
        Rules("cod")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="turns is 0"):
        Rules(turns=0)
    with pytest.raises(BadInput, match="tags hold code"):
        Rules("json", tags=True)


async def test_tags_work_as_markers_do() -> None:
    def plan(messages: Sequence[Message]) -> str:
        question = read_question(messages[0].text)
        if len(messages) == 1:
            return f"<execute>{question.code()}</execute>"
        return f"<solution>{messages[-1].text.removeprefix(OBSERVATION)}</solution>"

    assert won(await played("code", plan, tags=True))


# ---------------------------------------------------------------- what is learned from


def repaired(right: bool = True) -> Plan:
    """Writes a wrong name, reads the error, repairs it."""
    def plan(messages: Sequence[Message]) -> str:
        code = read_question(messages[0].text).code()
        if len(messages) == 1:
            return action(code.replace("print(best if", "print(bets if"))
        if "NameError: name 'bets' is not defined" in messages[-1].text:
            return action(code)
        return answer(messages[-1].text.removeprefix(OBSERVATION) if right else "wrong")

    return plan


async def test_self_debugging_is_marked_and_preferred() -> None:
    clean, again = await played("code", solver("code"), trial=0), await played("code", solver("code"), trial=1)
    fixed = await played("code", repaired(), trial=2)
    failed = await played("code", repaired(right=False), trial=3, turns=3)
    assert [self_corrected(e) for e in (clean, fixed, failed)] == [False, True, True]
    assert won(fixed) and not won(failed)
    group: Group = (clean, again, failed, fixed)
    assert [e.id for e in corrected_first([group])[0]] == ["e2"]
    assert [e.id for e in corrected_first([group], keep=5)[0]] == ["e2", "e0"]
    assert corrected_first([(failed,)]) == []
    with pytest.raises(BadInput, match="keep is 0"):
        corrected_first([group], keep=0)


async def test_only_the_agents_own_words_are_trained_and_each_once() -> None:
    """The episodes as arrays: token counts made again from the texts; observations weigh nothing."""
    model = tiny_local()
    policy = Dictated(name="main", chat=model.chat)
    spaces: tuple[Space, ...] = ("code", "text")
    episodes = [await played(space, solver(space), policy=policy, trial=b) for b, space in enumerate(spaces)]
    tokens = lay_out([tuple(episodes)], "main")
    turns = as_turns(tokens)
    for b, episode in enumerate(episodes):
        said = [m.text for m in episode.trajectories[0].messages if m.role == "assistant"]
        lengths = [len(model.chat.spell(Message("assistant", text))) for text in said]  # type: ignore[arg-type]
        assert turns.tokens_BK[b][: len(said)].tolist() == lengths and turns.tokens_BK[b].sum() == sum(lengths)
        mine = tokens.id_N[tokens.trajectory_N == b]
        assert model.chat.parse(mine[: lengths[0]]).text == said[0]
    score = turns.reward_CBK[turns.channels.index("score")]
    ends = [[len(e.trajectories[0].turns) - 1 for e in episodes]]
    assert score[[0, 1], ends[0]].tolist() == [1.0, 1.0] and np.isnan(score[0, 0])
    model.close()


async def test_a_sampled_reply_stops_at_its_action_and_a_cut_one_leaves_the_path() -> None:
    episode = await played("text", saying("Action: x End Action Result: 1 Action: y End Action", answer("1")), turns=2)
    log = episode.trajectories[0].messages
    assert log[1].text.endswith("Action: y End Action") and log[2].text == "Action: x End Action" and log[2].spans == ()
    turn = episode.trajectories[0].turns[0]
    assert turn.sampling.stop == ("End Action",) and isinstance(turn.sampling, Sampling)
