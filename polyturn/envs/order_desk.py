"""A small order desk: ten tools over a database of its own, tasks by number, and a user who holds one fact back.

Made for learning to ask: the user's first message leaves out one fact that the wish cannot be granted without; the
user tells it when asked. ``live=False`` plays the first message alone, as on a fixed set of prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from polyturn.desk import Desk
from polyturn.envs.answers import null_answer
from polyturn.envs.dialogue import AGENT, SEATS, STOP_WORD, USER, Dialogue, Refused, Rules, Script
from polyturn.envs.end_state import EndState, sha256_of
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Answer, Ask, Player, Spec
from polyturn.seeds import generator
from polyturn.types import Call, Limits, Message, Seat, Task, Tool, assistant

ENVS = (
    {"name": "order_desk", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent", "user"),
     "oracle": 1.0, "random": None, "null": 0.0},
)
FAMILY: Final = "order_desk"
NAMES: Final = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "order": ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8"), "colour": ("red", "green", "blue", "black"),
    "size": ("small", "medium", "large", "huge"), "city": ("Lyon", "Oslo", "Rome", "Bonn"),
    "reason": ("late", "wrong", "broken", "double"), "refund": ("card", "cash", "voucher", "credit"),
}
"""Fact -> the values that it takes."""
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "set_colour": ("order", "colour"), "set_size": ("order", "size"), "set_city": ("order", "city"),
    "cancel_order": ("order", "reason"), "return_order": ("order", "refund"), "get_order": ("order",),
}
"""What a user may wish for: the tool that grants it -> the facts that the tool needs."""
WISHES: Final = {
    "set_colour": "change the colour of {order} to {colour}", "set_size": "change the size of {order} to {size}",
    "set_city": "send {order} to the city {city}", "cancel_order": "cancel {order}, the reason is: {reason}",
    "return_order": "take {order} back, with the refund as {refund}", "get_order": "tell me the status of {order}",
}
SHORT: Final = {
    "set_colour": "change the colour of {order}", "set_size": "change the size of {order}",
    "set_city": "send {order} to another city", "cancel_order": "cancel {order}", "return_order": "take {order} back",
}
"""The wishes without their second fact."""
GUIDE: Final = (
    "You work at the order desk. Use one tool at a time. Never guess: if the customer left out a fact that a tool "
    "needs, ask for it. When the wish is granted, say so."
)
PART: Final = (
    "You are {name}, a customer of an order desk. Your wish: {wish}. Begin by saying only: {opening} Do not tell the "
    "{hidden} before you are asked for it. Speak in short sentences, as the customer alone. When your wish is granted, "
    f"say {STOP_WORD}"
)
STATES: Final = ("packed", "waiting", "sorted", "booked")

# ---------------------------------------------------------------- the database


def _schema(**facts: str) -> dict[str, Any]:
    return {"type": "object", "required": list(facts),
            "properties": {name: {"type": "string", "description": text} for name, text in facts.items()}}


_ORDER = "the number of the order, such as A3"
TOOLS: Final = (
    Tool("get_customer", "A customer's city and orders.", _schema(name="the customer's first name"), "read"),
    Tool("list_orders", "The numbers of a customer's orders.", _schema(name="the customer's first name"), "read"),
    Tool("get_order", "All that is known of an order.", _schema(order=_ORDER), "read"),
    Tool("get_product", "The price of a product.", _schema(product="the product's name"), "read"),
    Tool("set_colour", "Changes an order's colour.", _schema(order=_ORDER, colour="red, green, blue, black"), "write"),
    Tool("set_size", "Changes an order's size.", _schema(order=_ORDER, size="small, medium, large or huge"), "write"),
    Tool("set_city", "Changes where an order goes.", _schema(order=_ORDER, city="Lyon, Oslo, Rome or Bonn"), "write"),
    Tool("cancel_order", "Cancels an order.", _schema(order=_ORDER, reason="late, wrong, broken or double"), "write"),
    Tool("return_order", "Takes an order back.", _schema(order=_ORDER, refund="card, cash, voucher, credit"), "write"),
    Tool("hand_over", "Hands the customer over to a person and ends the dialogue.", _schema(note="why"), "general"),
)
PRODUCTS: Final = {"lamp": "1,250", "chair": "80", "rug": "2,400", "clock": "35"}


def shop(task_id: str, orders: int = len(VALUES["order"])) -> dict[str, Any]:
    """The database of a task, fresh each time: the first ``orders`` orders, each of a customer drawn for it."""
    draws = generator(FAMILY, "shop", task_id)
    owners = [_drawn(draws, NAMES) for _ in range(orders)]
    rows = {
        order: {"customer": owner, "product": _drawn(draws, tuple(PRODUCTS)), "colour": _drawn(draws, VALUES["colour"]),
                "size": _drawn(draws, VALUES["size"]), "city": _drawn(draws, VALUES["city"]),
                "status": _drawn(draws, STATES), "reason": "", "refund": ""}
        for order, owner in zip(VALUES["order"][:orders], owners, strict=True)
    }
    return {"orders": rows, "products": {name: {"price": price} for name, price in PRODUCTS.items()}, "notes": []}


def _drawn(draws: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(draws.integers(len(values)))]


class Shop:
    """A :class:`polyturn.envs.dialogue.Database` over one dictionary that nobody else holds."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = deepcopy(dict(data))

    def state(self) -> Mapping[str, Any]:
        """A copy of everything."""
        return deepcopy(self._data)

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What the tool answers, as JSON. Raises: Refused for an unknown tool, fact or value, and for what the desk
        does not do twice."""
        tool = next((tool for tool in TOOLS if tool.name == name), None)
        if tool is None:
            raise Refused(f"there is no tool {name!r}")
        wanted = tool.parameters["required"]
        if set(arguments) != set(wanted) or not all(isinstance(value, str) for value in arguments.values()):
            raise Refused(f"{name} needs exactly {', '.join(wanted)}, as texts")
        for fact, value in arguments.items():
            known = self._data["orders"] if fact == "order" else VALUES.get(fact, (value,))
            if value not in known:
                raise Refused(f"there is no {fact} {value}")
        answer = getattr(self, f"_{name}", None) or partial(self._write, name)
        return json.dumps(answer(**arguments))

    def _get_customer(self, name: str) -> Any:
        return {"name": name, "orders": self._list_orders(name)}

    def _list_orders(self, name: str) -> list[str]:
        if name not in NAMES:
            raise Refused(f"there is no customer {name}")
        return [order for order, row in self._data["orders"].items() if row["customer"] == name]

    def _get_order(self, order: str) -> Any:
        return {fact: value for fact, value in self._data["orders"][order].items() if value}

    def _get_product(self, product: str) -> Any:
        if product not in PRODUCTS:
            raise Refused(f"there is no product {product}")
        return self._data["products"][product]

    def _hand_over(self, note: str) -> str:
        self._data["notes"].append(note)
        return "ok"

    def _write(self, name: str, order: str, **fact: str) -> str:
        row = self._data["orders"][order]
        if row["status"] in ("cancelled", "returned"):
            raise Refused(f"{order} is {row['status']}")
        row |= fact
        row["status"] = {"cancel_order": "cancelled", "return_order": "returned"}.get(name, row["status"])
        return "ok"


# ---------------------------------------------------------------- tasks


def payload_of(
    split: str, index: int, *, kinds: tuple[str, ...], hidden: float, orders: int = len(VALUES["order"])
) -> dict[str, Any]:
    """What task ``index`` of a split is about: the customer, the wish (its tool and facts), and the fact held back
    (``""`` for none, which happens with probability ``1 - hidden``)."""
    draws = generator(FAMILY, split, index)
    kind = kinds[int(draws.integers(len(kinds)))]
    data = shop(f"{FAMILY}/{split}/{index}", orders)
    order = _drawn(draws, VALUES["order"][:orders])
    row = {**data["orders"][order], "order": order}
    facts = {fact: order if fact == "order" else _other(draws, fact, row[fact]) for fact in KINDS[kind]}
    held = draws.random() < hidden
    outputs = [data["orders"][order]["status"]] if kind == "get_order" else []
    return {"customer": data["orders"][order]["customer"], "kind": kind, "facts": facts,
            "hidden": KINDS[kind][-1] if held else "", "outputs": outputs, "orders": orders}


def _other(draws: np.random.Generator, fact: str, now: str) -> str:
    """A value that is not the present one, so that every wish changes something."""
    return _drawn(draws, tuple(value for value in VALUES[fact] if value != now))


def gold_of(task: Task) -> Mapping[str, Any]:
    """The database as it should be after a task: its wish granted, and nothing else."""
    shop_of_task = Shop(shop(task.id, task.payload["orders"]))
    shop_of_task.call(task.payload["kind"], task.payload["facts"])
    return shop_of_task.state()


def opening_of(task: Task) -> str:
    """What the user says first: the wish without the fact that is held back."""
    payload, facts = task.payload, {**task.payload["facts"]}
    facts["order"] = "an order" if payload["hidden"] == "order" else f"order {facts['order']}"
    short = payload["hidden"] not in ("", "order")
    wish = (SHORT if short else WISHES)[payload["kind"]].format(**facts)
    return f"This is {payload['customer']}. Please {wish}."


def script_of(task: Task) -> Script:
    """The dialogue of a task."""
    payload = task.payload
    wish = WISHES[payload["kind"]].format(**{**payload["facts"], "order": f"order {payload['facts']['order']}"})
    opening, hidden = opening_of(task), payload["hidden"]
    return Script(
        guide=GUIDE, part=PART.format(name=payload["customer"], wish=wish, opening=opening, hidden=hidden or "rest"),
        opening=opening, tools=TOOLS, gold_sha256=sha256_of(gold_of(task)), outputs=tuple(payload["outputs"]),
        secrets={hidden: payload["facts"][hidden]} if hidden else {}, terminal=frozenset({"hand_over"}),
    )


# ---------------------------------------------------------------- scripted players


def rule_user(task: Task, *, patience: int = 4) -> Answer:
    """The user by rule: says the opening; tells the facts that the agent asks for (by name, with a question mark); does
    not know what else it is asked; ends the dialogue when it is asked nothing, or after ``patience`` useless
    questions."""
    facts, useless, opened = task.payload["facts"], 0, False

    def play(ask: Ask) -> Message:
        nonlocal useless, opened
        if not opened:
            opened = True
            return assistant(opening_of(task))
        heard = ask.messages[-1].text.lower()
        asked = [fact for fact in facts if fact in heard]
        if "?" not in heard or useless >= patience:
            return assistant(STOP_WORD)
        if not asked:
            useless += 1
            return assistant("I do not know.")
        return assistant(" ".join(f"The {fact} is {facts[fact]}." for fact in asked))

    return play


@dataclass
class RuleUser:
    """The agent that sits in the user's seat by default; it needs no model."""

    answer: Answer

    async def act(self, ask: Ask, desk: Desk) -> Message:
        """The rule's reply."""
        return self.answer(ask)


def scripted_agent(task: Task, *, guess: str = "") -> Answer:
    """The agent that asks for what is held back, grants the wish, and says so. With a ``guess`` it does not ask, and
    uses that value instead: a careless agent."""
    payload = task.payload
    facts = {**payload["facts"]}
    to_ask = payload["hidden"] if not guess else ""
    if guess and payload["hidden"]:
        facts[payload["hidden"]] = guess
    said: list[str] = []

    def play(ask: Ask) -> Message:
        if to_ask and not said:
            said.append("asked")
            return assistant(f"Which {to_ask}?")
        if "called" not in said:
            said.append("called")
            needed = {fact: facts[fact] for fact in KINDS[payload["kind"]]}
            return assistant("", calls=(Call("", payload["kind"], needed),))
        row = ask.messages[-1].text
        status = next((status for status in STATES if status in row), "")
        return assistant(f"It is {status}." if payload["kind"] == "get_order" else "Done.")

    return play


# ---------------------------------------------------------------- the suite


SPEC: Final = Spec(
    FAMILY, SEATS, invalid="an empty reply or a call that cannot be read is noted; see Rules", licence="Apache-2.0",
    package="polyturn",
)


@dataclass
class OrderDesk:
    """The suite; seats ``agent`` and ``user``, the latter taken by rule unless a match casts somebody else."""

    kinds: tuple[str, ...] = tuple(KINDS)
    hidden: float = 1.0
    rules: Rules = Rules()
    test_tasks: int = 64
    orders: int = len(VALUES["order"])
    verifier: EndState = EndState()
    spec: Spec = SPEC

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UnknownName("wish", kind, KINDS)
        if not self.kinds or not 0 <= self.hidden <= 1:
            raise BadInput(f"kinds is {self.kinds} and hidden {self.hidden}; expected a kind or more, and 0..1")
        least = 2 if "get_order" in self.kinds else 1
        if not least <= self.orders <= len(VALUES["order"]):
            raise BadInput(f"orders is {self.orders}; expected {least} to {len(VALUES['order'])} of these kinds")

    @property
    def figures(self) -> Mapping[str, float]:
        """Mean scores of the scripted players."""
        return {"oracle": 1.0, "null": 0.0} if self.rules.live else {}

    def tasks(self, split: str) -> Iterator[Task]:
        """Tasks without end in ``train``, ``test_tasks`` in ``test``. Raises: UnknownName."""
        made = partial(payload_of, split, kinds=self.kinds, hidden=self.hidden, orders=self.orders)
        return numbered(FAMILY, split, test=self.test_tasks, payload=made, limits=Limits(env_steps=64))

    async def make(self, task: Task, seed: int) -> Dialogue:
        """A dialogue with a database of its own; the task decides all, the seed nothing."""
        return Dialogue(script_of(task), Shop(shop(task.id, task.payload["orders"])), self.rules)

    async def close(self) -> None:
        """Nothing is shared."""

    def default_cast(self, task: Task) -> Mapping[Seat, Player]:
        """The user by rule."""
        return {USER: Player(lambda: RuleUser(rule_user(task)), "rule user")}

    def oracle(self, task: Task) -> Answer:
        """The agent that asks, acts and says so, and the user by rule, each when it is asked."""
        return _by_seat({AGENT: scripted_agent(task), USER: rule_user(task)})

    def null(self, task: Task) -> Answer:
        """An agent that says nothing, and the user by rule."""
        return _by_seat({AGENT: null_answer, USER: rule_user(task)})


def _by_seat(players: Mapping[Seat, Answer]) -> Answer:
    return lambda ask: players[ask.seat](ask)


def order_desk(
    *, kinds: tuple[str, ...] = tuple(KINDS), hidden: float = 1.0, live: bool = True, test_tasks: int = 64,
    orders: int = len(VALUES["order"]),
) -> OrderDesk:
    """The suite of the order desk; score 1 if the database ended as the wish says and what was asked was told, else 0.

    ``kinds`` chooses among the wishes (:data:`KINDS`), ``hidden`` is the share of tasks whose user holds a fact back,
    ``live=False`` plays the user's first message alone, ``orders`` is their number in the shop. Oracle 1, null 0.
    """
    return OrderDesk(kinds, hidden, Rules(live=live), test_tasks, orders)
