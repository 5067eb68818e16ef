"""The suite: tasks from page to page in one application, their solver and random players, scores and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from polyturn.envs.answers import null_answer, random_answer
from polyturn.envs.gui_lab.actions import BRIEF_COMPLETE, COMPLETE, click_text
from polyturn.envs.gui_lab.app import App, AppSpec, Page, make_app
from polyturn.envs.gui_lab.browser import Browser
from polyturn.envs.gui_lab.drawing import MAX_PIXELS, shown_size
from polyturn.envs.gui_lab.env import GuiEnv, Look
from polyturn.envs.gui_lab.questions import KINDS, QuestionEnv, answer_text
from polyturn.envs.gui_lab.screens import Engine, Screen
from polyturn.envs.gui_lab.splits import LENGTHS, Pair, Rule, Split, balanced, endless, split
from polyturn.envs.score import FinalScore
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Verifier
from polyturn.seeds import generator
from polyturn.types import Group, Limits, Message, Score, Seat, Task, assistant

ENVS = (
    {"name": "gui_lab", "package": "polyturn", "licence": "Apache-2.0", "seats": ("agent",),
     "oracle": 1.0, "random": 0.004, "null": 0.0},
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What :class:`GuiLab` is made of beside how it looks."""

    app: AppSpec = AppSpec()
    rule: Rule = Rule()
    lengths: tuple[int, int] = LENGTHS
    questions: bool = False
    """True: the splits also hold one caption and one grounding question after every seven tasks."""


class GuiLab:
    """A :class:`polyturn.protocols.Suite` of navigation in one application.

    A task leads from a page to another over a shortest path of 1 to 7 clicks; lengths are equally frequent. The score
    is 1 when the play ended with ``complete`` on the goal, as the engine (or the browser) has it; ``parts`` has
    ``reached`` (the goal was open at some time), ``clicks`` and ``shortest``.

    >>> suite = GuiLab()
    >>> task = next(iter(suite.tasks("test")))
    >>> task.payload["length"], suite.spec.limits.env_steps
    (2, 8)
    """

    def __init__(
        self, drawn: Drawn = Drawn(), look: Look = Look(), *, driver: Literal["engine", "browser"] = "engine",
        test_tasks: int = 140, max_pixels: int | None = MAX_PIXELS, program: str = "",
    ) -> None:
        if driver not in ("engine", "browser"):
            raise BadInput(f"driver is {driver!r}; expected 'engine' or 'browser'")
        shown_size(max_pixels)
        self.drawn, self.look, self.driver = drawn, look, driver
        self.test_tasks, self.max_pixels = test_tasks, max_pixels
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self.spec = Spec(
            "gui_lab", limits=Limits(env_steps=look.turns), licence="Apache-2.0", package="polyturn",
            invalid="an unreadable reply changes nothing and costs its turn",
        )
        self.verifier: Verifier = FinalScore(("agent",), read_score)
        self._browser = Browser(program) if driver == "browser" else None
        self._pictures: dict[AppSpec, dict[str, bytes]] = {}

    @property
    def split(self) -> Split:
        """The pairs of both splits."""
        return split(self.drawn.app, self.drawn.rule, self.drawn.lengths)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks. Raises: UnknownName."""
        found = self.split
        if split == "train":
            pairs = endless(found.train, self.drawn.app.seed)
            return self._with_questions((self._task(pair, found.train_app) for pair in pairs), "train")
        if split == "test":
            chosen = balanced(found.test, self.test_tasks, self.drawn.app.seed)
            return self._with_questions((self._task(pair, found.test_app) for pair in chosen), "test")
        raise UnknownName("split", split, ("train", "test"))

    def task(self, start: str, goal: str) -> Task:
        """The task between two pages of the application, by name, whichever split it is in. Raises: UnknownName."""
        app = make_app(self.drawn.app)
        return self._task((app.page(start).index, app.page(goal).index), self.drawn.app)

    def _task(self, pair: Pair, spec: AppSpec) -> Task:
        app = make_app(spec)
        start, goal = pair
        payload = {"ask": "navigate", "app": {**asdict(spec), "branching": list(spec.branching)}, "start": start,
                   "goal": goal, "length": app.distance(start, goal)}
        name = f"gui_lab/{spec.kind}-{spec.seed}/{app.pages[start].name}>{app.pages[goal].name}"
        return Task(name, "gui_lab", payload, self.spec.limits)

    def _with_questions(self, tasks: Iterator[Task], split: str) -> Iterator[Task]:
        if not self.drawn.questions:
            return tasks
        return self._mixed(tasks, split)

    def _mixed(self, tasks: Iterator[Task], split: str) -> Iterator[Task]:
        """A caption and a grounding question after every seven tasks, each question once in ``test`` and never in both
        splits: every fifth icon is asked about in ``test`` alone."""
        spec = self.split.test_app if split == "test" else self.split.train_app
        places = [(page.index, e.name) for page in make_app(spec).pages for e in page.seen if e.kind == "icon"]
        held = {place for number, place in enumerate(places) if number % 5 == 4}
        mine = [place for place in places if (place in held) == (split == "test")]
        order = generator("gui_lab questions", split, spec.seed).permutation(len(mine)).tolist()
        asked = 0
        while chunk := list(islice(tasks, 7)):
            yield from chunk
            if split == "test" and asked >= len(mine):
                continue
            page, icon = mine[order[asked % len(mine)]]
            asked += 1
            yield from (self._question(kind, spec, page, icon) for kind in KINDS)

    def _question(self, kind: str, spec: AppSpec, page: int, icon: str) -> Task:
        payload = {"ask": kind, "app": {**asdict(spec), "branching": list(spec.branching)}, "page": page, "icon": icon}
        name = f"gui_lab/{spec.kind}-{spec.seed}/{kind} {icon} on {make_app(spec).pages[page].name}"
        return Task(name, f"gui_lab_{kind}", payload, Limits(env_steps=1))

    async def make(self, task: Task, seed: int) -> GuiEnv | QuestionEnv:
        """One play; nothing in it is drawn."""
        app = self.app_of(task)
        screen: Screen
        if self._browser is not None:
            screen = await self._browser.tab(app)
        else:
            screen = Engine(app, self._pictures.setdefault(app.spec, {}), self.max_pixels)
        if task.payload["ask"] == "navigate":
            return GuiEnv(app, task.payload, screen, self.look)
        page = app.pages[task.payload["page"]]
        return QuestionEnv(task.payload["ask"], page, task.payload["icon"], screen, self.look)

    def app_of(self, task: Task) -> App:
        """The application that a task is played in."""
        kept = task.payload["app"]
        return make_app(AppSpec(**{**kept, "branching": tuple(kept["branching"])}))

    async def close(self) -> None:
        """Ends the browser, where there is one."""
        if self._browser is not None:
            await self._browser.close()

    # ------------------------------------------------------------ scripted players

    def oracle(self, task: Task) -> Answer:
        """The shortest path from wherever it is asked, by breadth-first search, then ``complete``.

        It knows the page by the names of the legal replies, so it plays every view alike (in the brief form, which has
        no such names, by the observation's words).
        """

        def play(ask: Ask) -> Message:
            if task.payload["ask"] != "navigate":
                return assistant(self._right(task))
            return assistant(self._best(task, self._open_page(task, ask)))

        return play

    def _best(self, task: Task, page: Page) -> str:
        app = self.app_of(task)
        best = app.best(page.index, task.payload["goal"])
        if best is None:
            return BRIEF_COMPLETE if self.look.brief else COMPLETE
        return click_text(page.name, best, brief=self.look.brief)

    def _open_page(self, task: Task, ask: Ask) -> Page:
        legal = (ask.legal or ("",))[0]
        told = ask.messages[-1].text if self.look.brief else legal.partition(".\t")[0]
        return self.app_of(task).page(told.rpartition(" on ")[2])

    def _right(self, task: Task) -> str:
        element = self.app_of(task).pages[task.payload["page"]].element(task.payload["icon"])
        assert element is not None
        return answer_text(task.payload["ask"], element)

    def null(self, task: Task) -> Answer:
        """``complete`` at once; nothing for a question."""
        return (lambda ask: assistant(COMPLETE)) if task.payload["ask"] == "navigate" else null_answer

    def random_answer(self, task: Task, seed: int, seat: Seat = "agent") -> Answer:
        """Uniform over the elements' centres and ``complete``."""
        return random_answer(task, seed, seat)

    def random_clicker(self, task: Task, seed: int) -> Answer:
        """Uniform over the elements' centres; never ``complete``, so look at ``reached``."""
        draws = generator("gui_lab clicker", task.id, seed)

        def play(ask: Ask) -> Message:
            clicks = [text for text in ask.legal or () if text not in (COMPLETE, BRIEF_COMPLETE)]
            return assistant(clicks[int(draws.integers(len(clicks)))])

        return play

    def report(self, groups: Sequence[Group]) -> Mapping[str, float]:
        """Per length n: ``success/n`` (Pass@1), ``reached/n``, and ``excess/n``, clicks beyond the shortest path where
        the goal was completed."""
        rows: dict[str, list[float]] = {}
        for episode in (episode for group in groups for episode in group):
            score = episode.scores.get("score", {}).get("agent")
            if score is None or score.value is None or "length" not in episode.task.payload:
                continue
            length = episode.task.payload["length"]
            rows.setdefault(f"success/{length}", []).append(score.value)
            rows.setdefault(f"reached/{length}", []).append(score.parts["reached"])
            if score.success:
                rows.setdefault(f"excess/{length}", []).append(score.parts["clicks"] - score.parts["shortest"])
        return {name: float(np.mean(rows[name])) for name in sorted(rows)}


def read_score(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    """1 for a play that was completed on the goal, or for a question answered right, else 0; by the engine's state.

    >>> read_score({"ask": "caption", "right": True})["agent"].value
    1.0
    """
    if "right" in final:
        return {} if final["right"] is None else {"agent": Score(float(final["right"]), success=bool(final["right"]))}
    good = bool(final["completed"] and final["page"] == final["goal"])
    parts = {"reached": float(final["reached"]), "clicks": float(len(final["clicks"])),
             "shortest": float(final["shortest"])}
    return {"agent": Score(float(good), success=good, parts=parts)}


def gui_lab(*, view: Literal["text", "image", "both"] = "text", driver: Literal["engine", "browser"] = "engine",
            test_tasks: int = 140, **more: Any) -> GuiLab:
    """The suite over the paper's default application (231 pages), its sub-trees held out; ``more`` are fields of
    :class:`Drawn` and :class:`Look`.

    Raises: BadInput for a field that neither has.
    """
    own = {name: more.pop(name) for name in list(more) if name in Drawn.__dataclass_fields__}
    strange = set(more) - set(Look.__dataclass_fields__)
    if strange:
        raise BadInput(f"gui_lab has no option {sorted(strange)}; it has {sorted(Drawn.__dataclass_fields__)} and "
                       f"{sorted(Look.__dataclass_fields__)}")
    return GuiLab(Drawn(**own), Look(view, **more), driver=driver, test_tasks=test_tasks)
