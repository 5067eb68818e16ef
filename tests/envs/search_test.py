"""Search questions: the corpus, the commands, tools, what counts as read, and the suite's contract."""

from __future__ import annotations

from itertools import islice

import pytest

from polyturn.envs.search import RELATIONS, TOOLS, chains, command_of, make_world, search
from polyturn.errors import BadInput
from polyturn.protocols import Ask
from polyturn.testing import check_suite
from polyturn.types import Call, Message, Task, assistant
from tests.envs.drive import drive, episode, mean_score, saying


def first(suite: object) -> Task:
    return next(iter(suite.tasks("test")))  # type: ignore[attr-defined, no-any-return]


async def test_the_suite_keeps_its_contract() -> None:
    measured = await check_suite(search(people=16, test_tasks=12), figures={"oracle": 1.0, "null": 0.0})
    assert measured == {"oracle": 1.0, "null": 0.0}


@pytest.mark.parametrize(("hops", "more"), [(1, {"fresh": True}), (3, {"shown": 0, "results": 1})])
async def test_variants_keep_the_contract_too(hops: int, more: dict[str, bool]) -> None:
    suite = search(hops=hops, people=12, test_tasks=6, listed=True, **more)  # type: ignore[arg-type]
    assert (await check_suite(suite, figures={"oracle": 1.0, "null": 0.0}))["oracle"] == 1.0


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_question_needs_exactly_its_documents(hops: int) -> None:
    for task in islice(search(hops=hops, fresh=True, people=8).tasks("train"), 30):
        world = make_world(8, 0, str(task.payload["world"]))
        path = world.follow(str(task.payload["start"]), list(task.payload["chain"]))
        assert path == [*task.payload["support"], *task.payload["answers"]] and len(path) == hops + 1
        for place, title in enumerate(path[:-1]):
            rule = RELATIONS[task.payload["chain"][place]]
            assert rule.sentence.format(s=title, o=path[place + 1]) in world.sentences(title)
        question = str(task.payload["question"])
        assert path[0] in question and not any(name in question for name in path[1:])


def test_questions_by_hand() -> None:
    said = {tuple(task.payload["chain"]): str(task.payload["question"]).replace(str(task.payload["start"]), "X")
            for task in search(people=16).tasks("test")}
    assert said == {
        ("born", "river"): "Name the river on which the town where X was born lies.",
        ("born", "province"): "Name the province in which the town where X was born is.",
        ("works", "seat"): "Name the town where the company that X works for has its seat.",
    }
    assert len(chains(1)) == 2 and len(chains(3)) == 3


def test_splits_share_no_question_and_names_are_distinct() -> None:
    suite = search(people=16, test_tasks=20)
    asked = {split: {str(t.payload["question"]) for t in islice(suite.tasks(split), 60)} for split in ("train", "test")}
    assert len(asked["test"]) == 20 and len(asked["train"]) == 28 and not asked["train"] & asked["test"]
    world = make_world(16, 0, "")
    assert len(world.kinds) == 16 + 6 + 8 + 6 + 5 + 5
    with pytest.raises(BadInput, match="ask for more people"):
        next(iter(search(people=8, test_tasks=32).tasks("test")))
    with pytest.raises(BadInput, match="no split 'tests'"):
        suite.tasks("tests")


def test_fresh_tasks_have_the_same_names_and_other_facts() -> None:
    one, two = (make_world(8, 0, str(task.payload["world"])) for task in islice(search(fresh=True).tasks("train"), 2))
    assert one.kinds == two.kinds and one.facts != two.facts


async def test_one_play_by_hand() -> None:
    suite = search(people=16, shown=1)
    task = first(suite)
    world, start, town = make_world(16, 0, ""), *task.payload["support"]
    answer = task.payload["answers"][0]
    driven = await drive(suite, task, 0, {"agent": saying(
        f"search: {start}", "I do not know", f"open: {start.lower()}.", "open: Nowhere", f"open: {town}",
        f"First I thought so.\nANSWER: {answer.upper()}!")})
    heard = driven.heard("agent")
    assert heard[0].startswith(f"{task.payload['question']} Reply with one line")
    assert heard[1] == f"{start}: {world.sentences(start)[0]}"
    assert heard[2].startswith("Reply with one line") and driven.kinds() == ["invalid"]
    assert heard[3] == " ".join([f"{start}:", *world.sentences(start)])
    assert heard[4] == "There is no document 'Nowhere'."
    assert driven.final["read"] == [start, town] and driven.final["commands"][0] == ["search", start]
    scores = await suite.verifier([(episode(task, driven),)])
    score = scores[task.id]["agent"]
    assert (score.value, score.success, score.parts) == (1.0, True, {"support": 1.0})


async def test_a_wrong_answer_and_none_score_zero_with_what_was_read() -> None:
    suite = search(people=16)
    task = first(suite)
    start = task.payload["support"][0]
    wrong = await drive(suite, task, 0, {"agent": saying(f"open: {start}", "answer: Nowhere")})
    [score] = (await suite.verifier([(episode(task, wrong),)]))[task.id].values()
    assert (score.value, score.parts) == (0.0, {"support": 0.5})
    assert await mean_score(suite, "oracle", 8) == 1.0


async def test_the_solver_says_its_answer_again_where_another_reply_was_played() -> None:
    suite = search(people=16, steps=6)
    task = first(suite)
    best = suite.oracle(task)
    said: list[str] = []

    def play(ask: Ask) -> Message:
        said.append(best(ask).text)
        last = len(said) == 5
        return assistant(said[-1] if last or not said[-1].startswith("answer") else f"search: {task.payload['start']}")

    driven = await drive(suite, task, 0, {"agent": play})
    answer = f"answer: {task.payload['answers'][0]}"
    assert said.index(answer) < 4 and set(said[said.index(answer):]) == {answer}
    assert driven.final["answer"] == task.payload["answers"][0]


async def test_tools_are_offered_and_calls_are_answered_as_tools() -> None:
    suite = search(people=16, tools=True)
    task = first(suite)
    start = task.payload["support"][0]
    env = await suite.make(task, 0)
    asked = (await env.start()).asks[0]
    assert asked.tools == TOOLS
    calls = (Call("c1", "open", {"title": start}), Call("c2", "close", {"title": start}), Call("c3", "search", None))
    heard = (await env.step({"agent": Message("assistant", (), calls=calls)})).asks[0].messages
    assert [(m.role, m.call_id) for m in heard] == [("tool", "c1"), ("tool", "c2"), ("tool", "c3")]
    assert heard[0].text.startswith(f"{start}:") and heard[1].text == heard[2].text
    over = await env.step({"agent": Message("assistant", (), calls=(Call("c4", "answer", {"text": "x"}),))})
    assert over.stop is not None and (await env.final())["answer"] == "x"
    await env.close()


async def test_listed_replies_name_only_what_was_read() -> None:
    suite = search(people=16, listed=True)
    task = first(suite)
    start, town = task.payload["support"]
    env = await suite.make(task, 0)
    legal = (await env.start()).asks[0].legal
    assert legal == (f"search: {start}", f"open: {start}", f"answer: {start}")
    legal = (await env.step({"agent": assistant(f"open: {start}")})).asks[0].legal
    assert legal is not None and f"open: {town}" in legal and f"answer: {task.payload['answers'][0]}" not in legal
    await env.close()


def test_commands() -> None:
    assert command_of(" Search : a b ") == ("search", "a b")
    assert command_of("search") is None and command_of("find: x") is None and command_of("") is None
    assert command_of("answer:\nopen: y") == ("answer", "")
    with pytest.raises(BadInput, match="hops is 4"):
        search(hops=4)


async def test_questions_of_one_kind() -> None:
    suite = search(chain=("born", "river"), people=8, fresh=True, test_tasks=5, results=1)
    assert {tuple(task.payload["chain"]) for task in suite.tasks("test")} == {("born", "river")}
    assert await mean_score(suite, "oracle", 5) == 1.0
    with pytest.raises(BadInput, match="there is no chain"):
        search(chain=("river", "born"))


async def test_a_listed_document_is_read_in_part_and_a_title_alone_is_not() -> None:
    for shown, share in ((1, 0.5), (0, 0.0)):
        suite = search(people=16, shown=shown, results=1)
        task = first(suite)
        driven = await drive(suite, task, 0, {"agent": saying(f"search: {task.payload['start']}", "answer: x")})
        [score] = (await suite.verifier([(episode(task, driven),)]))[task.id].values()
        assert score.parts == {"support": share}
