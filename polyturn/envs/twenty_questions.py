"""Twenty questions: one hidden word, yes-or-no questions answered from a table of attributes, and guesses.

Every turn costs 1 but the one that names the word, as in ArCHer's game (arXiv 2402.19446); the answers come from a
table in place of a model that might be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from polyturn.envs.answers import check_seats, null_answer, random_answer
from polyturn.envs.score import FinalScore, scaled
from polyturn.envs.tasks import numbered
from polyturn.errors import BadInput
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import generator
from polyturn.types import Event, Limits, Message, Score, Seat, Stop, Task, assistant, user

ENVS = (
    {"name": "twenty_questions", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 0.846, "random": 0.391, "null": 0.0},
)
QUESTIONS: Mapping[str, frozenset[str]] = {
    "Is it an animal?": frozenset({"dog", "horse", "eagle", "bee", "salmon", "whale"}),
    "Can it fly?": frozenset({"eagle", "bee", "plane"}),
    "Is it found in water?": frozenset({"salmon", "whale", "boat"}),
    "Is it bigger than a person?": frozenset({"horse", "whale", "oak", "plane", "boat"}),
    "Is it smaller than a hand?": frozenset({"bee", "apple", "spoon"}),
    "Is it made of metal?": frozenset({"plane", "spoon"}),
    "Can you eat it?": frozenset({"salmon", "apple"}),
    "Does it have legs?": frozenset({"dog", "horse", "eagle", "bee", "chair"}),
}
"""Question -> the words for which the answer is yes."""
WORDS = ("dog", "horse", "eagle", "bee", "salmon", "whale", "apple", "oak", "plane", "boat", "spoon", "chair")


def guess_of(word: str) -> str:
    """The question that names a word.

    >>> guess_of("oak"), guess_of("bee")
    ('Is it an oak?', 'Is it a bee?')
    """
    return f"Is it {'an' if word[0] in 'aeiou' else 'a'} {word}?"


class TwentyQuestions:
    """A :class:`polyturn.protocols.Suite`: find the hidden word in as few turns as you can.

    ``words`` are the first of :data:`WORDS`; ``questions`` is the number of turns. Each turn pays -1 in the channel
    ``question``, the right guess 0. Score: ``1 + return / questions``, so an unsolved game scores 0. A reply that is
    none of the listed questions and guesses is invalid: it is told so, and has cost a turn. ``brief`` leaves the
    lists out of the rules, for a model too small to read them.

    At the default size (exact; see :func:`expected_return`): oracle 0.846, random 0.391, null 0.
    """

    def __init__(self, *, words: int = 12, questions: int = 20, test_tasks: int = 64, brief: bool = False) -> None:
        if not 2 <= words <= len(WORDS) or questions < 1:
            raise BadInput(f"words is {words} and questions {questions}; expected 2..{len(WORDS)} and at least 1")
        self.words, self.questions, self.test_tasks, self.brief = WORDS[:words], questions, test_tasks, brief
        self.spec = Spec(
            "twenty_questions", limits=Limits(env_steps=questions), licence="Apache-2.0", package="polyturn",
            invalid="costs a turn, and is told so",
        )
        self.verifier = FinalScore(self.spec.seats, self._scores)
        best = 1 + expected_return(frozenset(self.words)) / questions
        wrong = 1 - 1 / (len(QUESTIONS) + words)
        random = 1 - sum(wrong**k for k in range(1, questions + 1)) / questions
        fits = questions > len(QUESTIONS)
        self.figures: Mapping[str, float] = {"random": random, "null": 0.0, **({"oracle": best} if fits else {})}

    @property
    def legal(self) -> tuple[str, ...]:
        """The questions, then the guesses."""
        return (*QUESTIONS, *(guess_of(word) for word in self.words))

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks."""
        return numbered("twenty_questions", split, test=self.test_tasks, limits=self.spec.limits)

    def word(self, task: Task, seed: int) -> str:
        """The word that a world hides, drawn from the task's id and the seed."""
        return self.words[int(generator("twenty_questions", task.id, seed).integers(len(self.words)))]

    async def make(self, task: Task, seed: int) -> TwentyQuestionsEnv:
        """One play."""
        return TwentyQuestionsEnv(self, self.word(task, seed))

    async def close(self) -> None:
        """Nothing is shared."""

    def oracle(self, task: Task) -> Answer:
        """The player of the highest expected return, reading the asks alone."""
        return BestQuestions(self.words)

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over all questions and guesses, asked before or not."""
        return random_answer(task, seed, seat)

    def _scores(self, final: Mapping[str, Any]) -> Mapping[Seat, Score]:
        if not final["over"]:
            return {}
        value = scaled(-float(final["paid"]), -float(self.questions), 0.0)
        return {"agent": Score(value, success=final["found"])}


def twenty_questions(
    *, words: int = 12, questions: int = 20, test_tasks: int = 64, brief: bool = False
) -> TwentyQuestions:
    """The suite; see :class:`TwentyQuestions`."""
    return TwentyQuestions(words=words, questions=questions, test_tasks=test_tasks, brief=brief)


class TwentyQuestionsEnv:
    """One play. No ``save``: a copy is made by replay."""

    def __init__(self, suite: TwentyQuestions, word: str) -> None:
        self._suite = suite
        self._word = word
        self._known = {_plain(text): text for text in suite.legal}
        self._asked: tuple[Seat, ...] = ()
        self._turns = self._paid = 0
        self._found = False

    async def start(self, state: bytes | None = None) -> Step:
        """The rules and the first ask."""
        if state is not None:
            raise BadInput("twenty questions saves no state; replay the replies into a fresh environment")
        suite = self._suite
        if suite.brief:
            return self._ask("Find it.")
        return self._ask(
            f"I think of one of these: {', '.join(suite.words)}. Find it in at most {suite.questions} turns. "
            f"Ask one of: {' '.join(QUESTIONS)} Or guess, like: {guess_of(suite.words[0])}"
        )

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The answer. Raises: BadInput for a wrong seat."""
        check_seats(self._asked, replies)
        self._asked = ()
        self._turns += 1
        said = self._known.get(_plain(replies["agent"].text))
        if said == guess_of(self._word):
            self._found = True
            return Step((), {"agent": {"question": 0.0}}, stop=Stop("done", f"found {self._word}"))
        self._paid += 1
        paid: dict[Seat, dict[str, float]] = {"agent": {"question": -1.0}}
        events = () if said else (Event(0, "invalid", "agent", {"reply": replies["agent"].text[:200]}),)
        if self._turns == self._suite.questions:
            return Step((), paid, events, Stop("done", f"no turn left; the word was {self._word}"))
        yes = self._word in QUESTIONS.get(said or "", ())
        answer = "Yes." if yes else "No." if said else "That is none of the questions and guesses."
        return self._ask(answer, paid, events)

    async def final(self) -> Mapping[str, Any]:
        """``word``, ``found``, ``turns`` taken, ``paid`` (turns that cost 1), ``over``."""
        over = self._found or self._turns == self._suite.questions
        return {"word": self._word, "found": self._found, "turns": self._turns, "paid": self._paid, "over": over}

    async def close(self) -> None:
        """Nothing to free."""
        self._asked = ()

    def _ask(
        self, text: str, paid: Mapping[Seat, Mapping[str, float]] | None = None, events: tuple[Event, ...] = ()
    ) -> Step:
        self._asked = ("agent",)
        return Step((Ask("agent", (user(text),), legal=self._suite.legal),), paid or {}, events)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" ?.!")


# ---------------------------------------------------------------- the best player


@cache
def expected_return(words: frozenset[str]) -> float:
    """The return, on average over ``words``, of the best play when exactly these are still possible.

    >>> expected_return(frozenset({"dog"})), expected_return(frozenset({"dog", "oak"}))
    (0.0, -0.5)
    """
    return best_question(words)[0]


@cache
def best_question(words: frozenset[str]) -> tuple[float, str]:
    """The best expected return when these words are possible, and the question or guess that leads there.

    A guess is right with probability 1 / n, else it has cost 1 and left the others; a question costs 1 and leaves the
    words of its answer. The first of equals, in the order of :data:`QUESTIONS` and :data:`WORDS`.
    """
    size = len(words)
    best: tuple[float, str] = (float("-inf"), "")
    for question, those in QUESTIONS.items():
        yes, no = words & those, words - those
        if yes and no:
            value = -1 + (len(yes) * expected_return(yes) + len(no) * expected_return(no)) / size
            best = max(best, (value, question), key=lambda pair: pair[0])
    guess = next(word for word in WORDS if word in words)
    others = words - {guess}
    value = (size - 1) / size * (-1 + expected_return(others)) if others else 0.0
    return max((value, guess_of(guess)), best, key=lambda pair: pair[0])


class BestQuestions:
    """An :data:`polyturn.protocols.Answer` of highest expected return, read from the words of the asks alone."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.left = frozenset(words)
        self.last = ""

    def __call__(self, ask: Ask) -> Message:
        """The next question or guess."""
        text = ask.messages[-1].text if ask.messages else ""
        if re.match(r"(Yes|No)\.$", text) and self.last:
            yes = QUESTIONS.get(self.last, frozenset(word for word in WORDS if guess_of(word) == self.last))
            self.left = self.left & yes if text == "Yes." else self.left - yes
        self.last = best_question(self.left)[1]
        return assistant(self.last)
