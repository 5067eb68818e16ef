"""Best price: the world, the question and its program by hand, the tools as the single source, the contract."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from polyturn.envs.best_price import (
    AGAIN,
    COUPONS,
    DISCOUNT,
    PRICE,
    Market,
    Question,
    best_price,
    market,
    read_question,
)
from polyturn.errors import BadInput
from polyturn.protocols import Suite
from polyturn.testing import check_suite
from polyturn.tools.functions import ToolFailed
from polyturn.types import Call, Task, assistant
from tests.envs.drive import drive, episode, saying, score

TASK = Task("t", "best_price", {"cities": 2, "vendors": 2})
HAND = Market(Question(("Oslo", "Rome"), ("Ada", "Bob"), "TEN", 40),
              {("Oslo", "Ada"): 55, ("Oslo", "Bob"): 41, ("Rome", "Ada"): 70, ("Rome", "Bob"): 99})


async def test_it_keeps_the_contract_of_suites() -> None:
    suite = best_price()
    assert isinstance(suite, Suite)
    assert await check_suite(suite, tasks=2, scored=16) == {"oracle": 1.0, "null": 0.0}


def test_prices_and_answers_by_hand() -> None:
    functions = HAND.functions()
    assert functions.call("price", {"city": "Oslo", "vendor": "Bob"}) == 41
    # 41 - 10 % = 36.9, whole prices: 36; 36 <= 40, so it is the answer
    assert functions.call("discount", {"city": "Oslo", "vendor": "Bob", "coupon": "TEN"}) == 36
    assert HAND.expected() == "36"
    assert Market(Question(("Oslo", "Rome"), ("Ada", "Bob"), "TEN", 35), HAND.prices).expected() == "none"
    assert Market(Question(("Oslo", "Rome"), ("Ada", "Bob"), "none", 40), HAND.prices).expected() == "none"
    with pytest.raises(ToolFailed, match="'Cleo' has no offer in 'Oslo'"):
        HAND.price("Oslo", "Cleo")
    with pytest.raises(ToolFailed, match="no coupon is called 'ten'"):
        HAND.discount("Oslo", "Ada", "ten")


def test_the_question_is_text_and_is_read_back() -> None:
    text = HAND.question.text
    assert text == ("Cities: Oslo Rome. Vendors: Ada Bob. Coupon: TEN. Budget: 40. What is the lowest price? "
                    "Answer none if it is over the budget.")
    assert read_question(f"Hello.\n{text}") == HAND.question
    with pytest.raises(BadInput, match="no question"):
        read_question("Cities: Oslo.")


def test_the_program_prints_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """The program of this family, run by Python itself with the same functions under the same names."""
    suite = best_price()
    for task in islice(suite.tasks("test"), 30):
        world = market(task, 3)
        names: dict[str, Any] = {tool.name: function for tool, function in world.functions().entries}
        exec(world.question.code(), names)
        assert capsys.readouterr().out.strip() == world.expected()


def test_worlds_are_drawn_from_task_and_seed() -> None:
    assert market(TASK, 1) == market(TASK, 1) != market(TASK, 2)
    worlds = [market(TASK, seed) for seed in range(400)]
    assert all(len(world.prices) == 4 and set(world.prices.values()) <= set(range(10, 100)) for world in worlds)
    coupons = [world.question.coupon for world in worlds]
    assert {"none", *COUPONS} == set(coupons) and 160 < coupons.count("none") < 240
    assert 50 < [world.expected() for world in worlds].count("none") < 110


def test_sizes_are_in_the_range_asked_for() -> None:
    tasks = list(islice(best_price(least=4, most=9).tasks("train"), 200))
    offers = [task.payload["cities"] * task.payload["vendors"] for task in tasks]
    assert {4, 5, 6, 7, 8, 9} == set(offers)
    assert max(t.payload["cities"] * t.payload["vendors"] for t in islice(best_price().tasks("train"), 300)) == 64
    with pytest.raises(BadInput, match="least is 70"):
        best_price(least=70)


async def test_an_episode_by_hand() -> None:
    suite = best_price(tries=3)
    world = market(TASK, 0)
    ask = {"city": world.question.cities[0], "vendor": world.question.vendors[0]}
    call = json.dumps({"name": "price", "arguments": ask})
    said = (call, '{"name": "pric"}', '{"name": "price"}', "1", world.expected())
    driven = await drive(suite, TASK, 0, {"agent": saying(*said)})
    heard = driven.heard("agent")
    assert heard[1] == str(world.price(**ask))
    assert heard[2] == "Error: no tool named 'pric'; did you mean 'price'? known: discount, price"
    assert "city is missing, vendor is missing" in heard[3]
    assert heard[4] == AGAIN and len(heard) == 5
    assert driven.kinds() == ["tool", "tool", "tool"]
    assert driven.final["answers"] == ["1", world.expected()] and driven.final["calls"] == 3
    assert await score(suite, [episode(TASK, driven)]) == {"t": 1.0}
    lost = await drive(suite, TASK, 0, {"agent": saying("1", "2", "3")})
    assert lost.stop.reason == "3 wrong answers" and await score(suite, [episode(TASK, lost)]) == {"t": 0.0}


async def test_native_calls_are_answered_in_order() -> None:
    env = await best_price().make(TASK, 0)
    question = env.world.question
    step = await env.start()
    assert step.asks[0].tools == (PRICE, DISCOUNT)
    calls = tuple(Call(f"c{i}", "price", {"city": question.cities[0], "vendor": vendor})
                  for i, vendor in enumerate((*question.vendors, "Nobody")))
    bad = Call("c9", "price", None, "{", "no JSON")
    answered = (await env.step({"agent": assistant("", calls=(*calls, bad))})).asks[0]
    assert [(m.role, m.call_id, m.status) for m in answered.messages] == [
        ("tool", "c0", "ok"), ("tool", "c1", "ok"), ("tool", "c2", "error"), ("tool", "c9", "error")]
    assert answered.messages[3].text == "Error: no JSON"
    await env.close()
