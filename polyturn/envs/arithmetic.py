"""Arithmetic word problems with a calculator that answers over several turns; every number is an exact fraction.

A problem is a chain of events ("Ann has 7 pens. She buys 5 more."). The agent writes ``calc 7 + 5``, reads ``12``, and
in the end writes ``answer 12``. With ``noise`` the calculator is sometimes wrong: a tool whose answer the agent did not
write and could not have foreseen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "arithmetic", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": None, "null": 0.0},
)
NAMES = ("Ann", "Ben", "Eva", "Tom")
THINGS = ("pens", "books", "coins", "cards")
MOST = 999
"""The largest number in a story."""
LONGEST = 80
"""Characters of an expression that the calculator reads."""
RULES = "Use the calculator: reply calc 2 * 3. At the end reply answer 6."
UNREAD = "Reply calc and an expression, or answer and a number."


# ---------------------------------------------------------------- problems


@dataclass(frozen=True, slots=True)
class Problem:
    """``Problem("Ann has 7 pens. ...", ("7 + 5", "12 * 2"), Fraction(24))``: the story, the calculations that solve it
    (with the results of those before), and the number asked for."""

    text: str
    steps: tuple[str, ...]
    answer: Fraction


def problem(draws: np.random.Generator, steps: int) -> Problem:
    """A story of ``steps`` events, its numbers whole and in 1..999 all the way."""
    name, thing = NAMES[int(draws.integers(len(NAMES)))], THINGS[int(draws.integers(len(THINGS)))]
    have = int(draws.integers(2, 13))
    told, calculated = [f"{name} has {have} {thing}."], []
    for _ in range(steps):
        sign, number, sentence = _event(draws, have, name)
        told.append(sentence)
        calculated.append(f"{have} {sign} {number}")
        have = int(exact(calculated[-1]))
    return Problem(f"{' '.join(told)} How many {thing} does {name} have now?", tuple(calculated), Fraction(have))


def _event(draws: np.random.Generator, have: int, name: str) -> tuple[str, int, str]:
    """(operator, number, sentence) of something that may happen to ``have`` things."""
    shares = [number for number in range(2, 10) if have % number == 0]
    open_signs = [sign for sign, may in (("+", have <= MOST - 12), ("-", have > 1), ("*", have * 9 <= MOST),
                                         ("/", bool(shares))) if may]
    sign = open_signs[int(draws.integers(len(open_signs)))]
    high = min(have - 1, 12) if sign == "-" else 9 if sign == "*" else 12
    number = int(draws.integers(1 if sign in "+-" else 2, high + 1))
    if sign == "/":
        number = shares[int(draws.integers(len(shares)))]
    sentence = {
        "+": f"{name} buys {number} more.", "-": f"{name} gives away {number}.",
        "*": f"{name} swaps each one for {number}.", "/": f"{name} makes {number} equal heaps and keeps one heap.",
    }[sign]
    return sign, number, sentence


# ---------------------------------------------------------------- the calculator


def exact(expression: str) -> Fraction:
    """The value of numbers joined by ``+ - * /`` and parentheses, without rounding.

    >>> exact("1 / 3 + 0.5")
    Fraction(5, 6)

    Raises: BadInput for anything else, for a division by zero, and for an expression of more than 80 characters.
    """
    if len(expression) > LONGEST:
        raise BadInput(f"the expression has {len(expression)} characters; at most {LONGEST}")
    if not re.fullmatch(r"[0-9.+\-*/() \t]+", expression) or "**" in expression or "//" in expression:
        raise BadInput("only numbers, + - * / and parentheses")
    try:
        text = expression.strip()
        return _value(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise BadInput("this is no expression") from error
    except ZeroDivisionError as error:
        raise BadInput("division by zero") from error


def _value(node: ast.expr, text: str) -> Fraction:
    """The value of a part of ``text``; numbers are read from their digits, never as floats."""
    if isinstance(node, ast.Constant):
        return Fraction(text[node.col_offset:node.end_col_offset])
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, text) if isinstance(node.op, ast.USub) else _value(node.operand, text)
    if not isinstance(node, ast.BinOp):
        raise SyntaxError(type(node).__name__)
    left, right = _value(node.left, text), _value(node.right, text)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    return left * right if isinstance(node.op, ast.Mult) else left / right


def number_of(text: str) -> Fraction | None:
    """The number that a text writes (``12``, ``-3.5``, ``5/6``); None where it writes none.

    >>> number_of(" 12.0 "), number_of("5/6"), number_of("twelve")
    (Fraction(12, 1), Fraction(5, 6), None)
    """
    if not re.fullmatch(r"\s*[-+]?\d{1,12}(\.\d{1,12}|/\d{1,12})?\s*", text, re.ASCII):
        return None
    try:
        return Fraction(text.strip())
    except ZeroDivisionError:
        return None


# ---------------------------------------------------------------- the environment


class Arithmetic:
    """A :class:`polyturn.protocols.Suite` of word problems of ``steps`` events.

    Replies are ``calc <expression>`` or ``answer <number>``, nothing beside it; case and spaces do not matter. Anything
    else is invalid: it is told so, and a second one in a row ends the play. There are ``steps + 3`` replies. Score: 1
    for the right number, else 0. With ``noise`` each answer of the calculator is off by 1 to 3 with this probability,
    drawn from task, seed and the number of calculations before: equal replies to an equal world stay equal.

    At any size: oracle 1 (it reckons itself), null 0.
    """

    def __init__(self, *, steps: int = 2, noise: float = 0.0, test_tasks: int = 64) -> None:
        if steps < 1 or not 0 <= noise <= 1:
            raise BadInput(f"steps is {steps} and noise {noise}; expected at least 1, and a probability")
        self.steps, self.noise, self.test_tasks = steps, noise, test_tasks
        self.spec = Spec(
            "arithmetic", limits=Limits(env_steps=steps + 3), licence="Apache-2.0", package="polyturn",
            invalid="told so once; a second invalid reply in a row ends the play",
        )
        self.verifier = FinalScore(self.spec.seats, _scores)
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered("arithmetic", split, test=self.test_tasks, limits=self.spec.limits)

    def problem(self, task: Task, seed: int) -> Problem:
        """The problem of a world, drawn from the task's id and the seed."""
        return problem(generator("arithmetic", task.id, seed), self.steps)

    async def make(self, task: Task, seed: int) -> ArithmeticEnv:
        """One play."""
        draws = generator("arithmetic calculator", task.id, seed)
        return ArithmeticEnv(self.problem(task, seed), self.steps + 3, self.noise, draws)

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player that reads the story, calculates event by event and answers."""
        return Reckoner()

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def arithmetic(*, steps: int = 2, noise: float = 0.0, test_tasks: int = 64) -> Arithmetic:
    """The suite; see :class:`Arithmetic`."""
    return Arithmetic(steps=steps, noise=noise, test_tasks=test_tasks)


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    if not final["over"]:
        return {}
    return {"agent": Score(float(final["right"]), success=final["right"])}


class ArithmeticEnv:
    """One play. No ``save``: a copy is made by replay."""

    def __init__(self, problem: Problem, replies: int, noise: float, draws: np.random.Generator) -> None:
        self._problem = problem
        self._left = replies
        self._noise = noise
        self._draws = draws
        self._asked: tuple[Seat, ...] = ()
        self._answer: str | None = None
        self._calculated: list[str] = []
        self._invalid = False
        self._over = False

    async def start(self, state: bytes | None = None) -> Step:
        """The story, and how to reply."""
        if state is not None:
            raise BadInput("arithmetic saves no state; replay the replies into a fresh environment")
        return self._ask(user(f"{self._problem.text} {RULES}"))

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The calculator's result, or the end. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        self._asked = ()
        self._left -= 1
        text = replies["agent"].text
        said = re.fullmatch(r"\s*(calc|answer)\s+(.*\S)\s*", text, re.IGNORECASE | re.DOTALL)
        number = number_of(said[2]) if said and said[1].lower() == "answer" else None
        if number is not None:
            self._answer = str(number)
            return self._end("answered")
        twice, self._invalid = self._invalid, said is None or said[1].lower() != "calc"
        events = (Event(0, "invalid", "agent", {"reply": text[:200]}),) if self._invalid else ()
        if self._left == 0 or (twice and self._invalid):
            return self._end("no reply left" if self._left == 0 else "two invalid replies in a row", events)
        if self._invalid or said is None:
            return self._ask(user(UNREAD, status="error"), events)
        return self._ask(self._calculate(said[2]))

    async def final(self) -> Mapping[str, Any]:
        """``problem``, ``expected``, ``answer`` (None = none), ``right``, the calculator's lines, ``over``."""
        expected = str(self._problem.answer)
        return {
            "problem": self._problem.text, "expected": expected, "answer": self._answer,
            "right": self._answer == expected, "calculated": list(self._calculated), "over": self._over,
        }

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()

    def _calculate(self, expression: str) -> Message:
        wrong = self._draws.random() < self._noise
        off = int(self._draws.integers(1, 4)) * (1 if self._draws.random() < 0.5 else -1)
        try:
            value = str(exact(expression) + (off if wrong else 0))
        except BadInput as error:
            self._calculated.append(f"{expression[:LONGEST]}: {error}")
            return user(f"error: {error}", status="error")
        self._calculated.append(f"{expression} = {value}")
        return user(value)

    def _ask(self, message: Message, events: tuple[Event, ...] = ()) -> Step:
        self._asked = ("agent",)
        return Step((Ask("agent", (message,)),), events=events)

    def _end(self, reason: str, events: tuple[Event, ...] = ()) -> Step:
        self._over = True
        return Step((), events=events, stop=Stop("done", reason))


# ---------------------------------------------------------------- the solver


class Reckoner:
    """An :data:`polyturn.protocols.Answer` that reads the story alone; what the calculator says, it knows already."""

    EVENTS = ((r"buys (\d+) more", "+"), (r"gives away (\d+)", "-"), (r"each one for (\d+)", "*"),
              (r"makes (\d+) equal", "/"))

    def __init__(self) -> None:
        self.plan: list[str] = []

    def __call__(self, ask: Ask) -> Message:
        """The next calculation, or the answer."""
        story = ask.messages[-1].text
        if opening := re.search(r" has (\d+) ", story):
            self.plan = self._planned(int(opening[1]), story)
        return assistant(self.plan.pop(0))

    def _planned(self, have: int, story: str) -> list[str]:
        found = sorted(
            (match.start(), sign, int(match[1]))
            for pattern, sign in self.EVENTS for match in re.finditer(pattern, story)
        )
        plan = []
        value = Fraction(have)
        for _, sign, number in found:
            plan.append(f"calc {value} {sign} {number}")
            value = exact(f"{value} {sign} {number}")
        return [*plan, f"answer {value}"]
