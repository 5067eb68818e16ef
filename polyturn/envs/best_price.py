"""The lowest price among cities and vendors: as many tool calls as there are offers, so a task that rewards composing.

Every offer is one call of ``price`` (or of ``discount``, where the task has a coupon). Who makes one call a turn needs
as many turns as offers, and one for the answer; who writes a loop needs two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from polyturn.calls import read_json
from polyturn.envs.answers import check_seats, null_answer, same_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.tools.functions import Functions, ToolFailed
from polyturn.types import Call, Event, Limits, Message, Score, Seat, Stop, Task, Tool, assistant, user

ENVS = (
    {"name": "best_price", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": None, "null": 0.0},
)
CITIES: Final = ("Bern", "Bonn", "Cork", "Graz", "Kyiv", "Lima", "Linz", "Lyon", "Nice", "Oslo", "Pisa", "Riga", "Rome",
                 "Split", "Turin", "Zug")
VENDORS: Final = ("Ada", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jan", "Kim", "Leo", "Mia", "Ned",
                  "Ole", "Pia")
COUPONS: Final[Mapping[str, int]] = {"FIVE": 5, "TEN": 10, "HALF": 50}
"""Coupon -> per cent off, rounded down to whole prices."""
NOTHING: Final = "none"
"""The right answer where the lowest price is over the budget."""
MOST_SIDE: Final = 8
TRIES: Final = 10
"""Wrong answers that end an episode."""
QUESTION: Final = re.compile(
    r"Cities: (?P<cities>[\w ]+)\. Vendors: (?P<vendors>[\w ]+)\. "
    r"Coupon: (?P<coupon>\w+)\. Budget: (?P<budget>\d+)\."
)
AGAIN: Final = "Your answer is wrong. Try again, and reply with nothing but the answer."


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: ``Question(("Oslo",), ("Ada", "Bob"), "TEN", 40)``; the coupon is ``none`` without one."""

    cities: tuple[str, ...]
    vendors: tuple[str, ...]
    coupon: str
    budget: int

    @property
    def text(self) -> str:
        """The question in words."""
        return (
            f"Cities: {' '.join(self.cities)}. Vendors: {' '.join(self.vendors)}. Coupon: {self.coupon}. "
            f"Budget: {self.budget}. What is the lowest price? Answer {NOTHING} if it is over the budget."
        )

    @property
    def tool(self) -> str:
        """The tool that tells what has to be paid for an offer."""
        return "price" if self.coupon == NOTHING else "discount"

    def calls(self) -> list[dict[str, Any]]:
        """The arguments of one call for each offer, city by city."""
        more = {} if self.coupon == NOTHING else {"coupon": self.coupon}
        return [{"city": city, "vendor": vendor, **more} for city, vendor in product(self.cities, self.vendors)]

    def answer(self, prices: Sequence[int]) -> str:
        """The answer that the offers' prices give."""
        best = min(prices)
        return str(best) if best <= self.budget else NOTHING

    def code(self) -> str:
        """A program that calls the tool for every offer and prints the answer."""
        more = "" if self.coupon == NOTHING else f', "{self.coupon}"'
        return (
            f"best = min({self.tool}(c, v{more}) for c in {_split(self.cities)} for v in {_split(self.vendors)})\n"
            f'print(best if best <= {self.budget} else "{NOTHING}")'
        )


def _split(names: Sequence[str]) -> str:
    """The names as the question writes them, split: every name is the same token in both."""
    return f'" {" ".join(names)}".split()'


def read_question(text: str) -> Question:
    """The question in a text. Raises: BadInput where there is none."""
    found = QUESTION.search(text)
    if found is None:
        raise BadInput(f"{text[:200]!r} holds no question of best_price")
    cities, vendors = (tuple(found[name].split()) for name in ("cities", "vendors"))
    return Question(cities, vendors, found["coupon"], int(found["budget"]))


@dataclass(frozen=True, slots=True)
class Market:
    """A world: the question, and every offer's list price."""

    question: Question
    prices: Mapping[tuple[str, str], int]

    def price(self, city: str, vendor: str) -> int:
        """The list price of an offer. Raises: ToolFailed where there is no such offer."""
        if (city, vendor) not in self.prices:
            raise ToolFailed(f"{vendor!r} has no offer in {city!r}")
        return self.prices[city, vendor]

    def discount(self, city: str, vendor: str, coupon: str) -> int:
        """The price of an offer with a coupon. Raises: ToolFailed for an unknown coupon or offer."""
        if coupon not in COUPONS:
            raise ToolFailed(f"no coupon is called {coupon!r}")
        return self.price(city, vendor) * (100 - COUPONS[coupon]) // 100

    def functions(self) -> Functions:
        """The tools of this world: the one place where names, arguments and functions stand."""
        return Functions(((PRICE, self.price), (DISCOUNT, self.discount)))

    def expected(self) -> str:
        """The right answer."""
        functions, question = self.functions(), self.question
        return question.answer([functions.call(question.tool, arguments) for arguments in question.calls()])


def _tool(name: str, description: str, *arguments: str) -> Tool:
    return Tool(name, description, {
        "type": "object", "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }, "read")


PRICE: Final = _tool("price", "The list price of a vendor's offer in a city, an int.", "city", "vendor")
DISCOUNT: Final = _tool("discount", "The price of an offer with a coupon, an int.", "city", "vendor", "coupon")


def market(task: Task, seed: int) -> Market:
    """The world of a task: names, prices 10 to 99, a coupon in half of the worlds, and a budget that four in five can
    keep."""
    draws = generator("best_price", task.id, seed)
    cities, vendors = (
        tuple(names[i] for i in sorted(draws.permutation(len(names))[: int(task.payload[side])]))
        for names, side in ((CITIES, "cities"), (VENDORS, "vendors"))
    )
    coupon = str(draws.choice(list(COUPONS))) if draws.random() < 0.5 else NOTHING
    prices = {offer: int(draws.integers(10, 100)) for offer in product(cities, vendors)}
    best = min(price * (100 - COUPONS.get(coupon, 0)) // 100 for price in prices.values())
    over = draws.random() < 0.2
    budget = max(1, best - int(draws.integers(1, 6))) if over else best + int(draws.integers(0, 30))
    return Market(Question(cities, vendors, coupon, budget), prices)


# ---------------------------------------------------------------- the suite


def best_price(*, least: int = 2, most: int = 64, test_tasks: int = 64, tries: int = TRIES) -> BestPrice:
    """The suite: ``least`` to ``most`` offers (1 to 8 cities times 1 to 8 vendors), drawn with the task.

    A reply with a tool call (or the JSON object ``{"name": ..., "arguments": {...}}`` as text) is answered with its
    result, any other reply is an answer. The right one ends the episode with score 1; ``tries`` wrong ones end it with
    0. ``Score.parts``: ``calls`` and ``answers``.
    """
    sides = [(n, m) for n, m in product(range(1, MOST_SIDE + 1), repeat=2) if least <= n * m <= most]
    if not sides or test_tasks < 1 or tries < 1:
        raise BadInput(f"least is {least}, most {most}, test_tasks {test_tasks}, tries {tries}; expected "
                       f"1 <= least <= most <= {MOST_SIDE**2}, and at least 1 of the others")
    return BestPrice(tuple(sides), test_tasks, tries)


class BestPrice:
    """A :class:`polyturn.protocols.Suite`; made by :func:`best_price`. Task and seed draw the world."""

    def __init__(self, sides: tuple[tuple[int, int], ...], test_tasks: int, tries: int) -> None:
        self.sides, self.test_tasks, self.tries = sides, test_tasks, tries
        self.spec = Spec(
            "best_price", limits=Limits(env_steps=200), licence="Apache-2.0", package="polyturn",
            invalid="none: a call that cannot be run has an error as its result, and any other reply is an answer",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks; the payload holds ``cities`` and ``vendors``.

        All numbers of offers are drawn alike, then one of the shapes that make it.
        """
        offers: dict[int, list[tuple[int, int]]] = {}
        for side in self.sides:
            offers.setdefault(side[0] * side[1], []).append(side)

        def payload(index: int) -> Mapping[str, Any]:
            draws = generator("best_price", split, index)
            shapes = offers[sorted(offers)[int(draws.integers(len(offers)))]]
            cities, vendors = shapes[int(draws.integers(len(shapes)))]
            return {"cities": cities, "vendors": vendors}

        return numbered("best_price", split, test=self.test_tasks, limits=self.spec.limits, payload=payload)

    async def make(self, task: Task, seed: int) -> BestPriceEnv:
        """One episode."""
        return BestPriceEnv(market(task, seed), self.tries)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """Calls for every offer, then answers."""
        left: list[dict[str, Any]] = []
        prices: list[int] = []
        asked: list[Question] = []

        def play(ask: Ask) -> Message:
            heard = ask.messages[-1].text
            if not asked:
                asked.append(read_question(heard))
                left.extend(asked[0].calls())
            else:
                prices.append(int(heard))
            if left:
                return assistant(json.dumps({"name": asked[0].tool, "arguments": left.pop(0)}))
            return assistant(asked[0].answer(prices))

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


class BestPriceEnv:
    """One episode: calls are answered, answers are checked."""

    def __init__(self, world: Market, tries: int) -> None:
        self.world = world
        self._functions = world.functions()
        self._tries = tries
        self._asked: tuple[Seat, ...] = ()
        self._answers: list[str] = []
        self._calls = 0
        self._right = False

    async def start(self, state: bytes | None = None) -> Step:
        """The question. Raises: BadInput for a saved state, as there are none."""
        if state is not None:
            raise BadInput("best_price has no saved states; replay its replies")
        self._asked = ("agent",)
        return self._ask(user(self.world.question.text))

    def _ask(self, *messages: Message, events: tuple[Event, ...] = ()) -> Step:
        return Step((Ask("agent", messages, tools=self._functions.tools),), events=events)

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The results of the calls, or the verdict on an answer. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        reply = replies["agent"]
        calls = reply.calls or _written_call(reply.text)
        if calls:
            results = [self._result(call, bool(reply.calls)) for call in calls]
            return self._ask(*(message for message, _ in results), events=tuple(event for _, event in results))
        self._answers.append(reply.text.strip()[:200])
        self._right = same_answer(reply.text, self.world.expected())
        if self._right or len(self._answers) >= self._tries:
            self._asked = ()
            return Step(stop=Stop("done", "right" if self._right else f"{self._tries} wrong answers"))
        return self._ask(user(AGAIN))

    def _result(self, call: Call, native: bool) -> tuple[Message, Event]:
        """What a call is answered with, and its event."""
        self._calls += 1
        told: dict[str, Any] = {"name": call.name, "arguments": dict(call.arguments or {})}
        try:
            if call.error is not None:
                raise ToolFailed(call.error)
            told["result"] = self._functions.call(call.name, call.arguments)
            text, status = json.dumps(told["result"]), "ok"
        except ToolFailed as error:
            told["error"] = str(error)
            text, status = f"Error: {error}", "error"
        event = Event(0, "tool", "agent", told)
        if native:
            return Message("tool", text, call_id=call.id, name=call.name, origin="tool", status=status), event  # type: ignore[arg-type]
        return user(text, origin="tool", status=status), event

    async def final(self) -> Mapping[str, Any]:
        """``right``, ``expected``, ``answers``, ``calls``, ``offers``."""
        return {
            "right": self._right, "expected": self.world.expected(), "answers": list(self._answers),
            "calls": self._calls, "offers": len(self.world.prices), "over": not self._asked,
        }

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()


def _written_call(text: str) -> tuple[Call, ...]:
    """The call that a text consists of, if it is the JSON object of one."""
    try:
        found = read_json(text)
    except ValueError:
        return ()
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return ()
    arguments = found.get("arguments", {})
    return (Call("", found["name"], arguments, text),) if isinstance(arguments, dict) else ()


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if not final["over"]:
        return {}
    right = bool(final["right"])
    parts = {"calls": float(final["calls"]), "answers": float(len(final["answers"]))}
    return {"agent": Score(float(right), success=right, parts=parts)}
