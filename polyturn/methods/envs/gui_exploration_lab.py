"""GUI Exploration Lab: screen navigation learned in three stages, and its static and interactive scores.

Claim (arXiv 2512.02423): imitation memorises the screens it saw; single-turn reinforcement learning on stored steps
generalises better, and multi-turn reinforcement learning in the engine learns to explore, which improves static and
interactive tests. The environment is :mod:`polyturn.envs.gui_lab`. With indicator ``[.]``, a step's right
element ``e`` (none where the page is the goal), a reply's click ``x`` and claimed icon ``i``:

    single turn   R = [kind right] + [x in box(e)] + [i = name(e)]        three terms; all 1 where both are ``complete``
    multi turn    A2B = [complete said on the goal];  A2B_wo = [on the goal at the end]
                  SoftA2B = exp(-d), d = clicks from the last page to the goal; 0 where there is no way
    static        step right = both complete, or i = name(e) and x in box(e)
                  Path@n = share of tasks of length n with n + 1 right steps
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from polyturn.envs.gui_lab.actions import Action, pixel, read_action, well_formed
from polyturn.envs.gui_lab.app import HEIGHT, WIDTH, App, AppSpec, Element, make_app
from polyturn.envs.gui_lab.questions import is_right
from polyturn.errors import BadInput, UnknownName
from polyturn.paper import Paper
from polyturn.protocols import Scores
from polyturn.types import Episode, Group, Score, Task

PAPER = Paper(
    title="GUI Exploration Lab: Enhancing Screen Navigation in Agents via Multi-Turn Reinforcement Learning",
    arxiv="2512.02423", year=2025,
    claim="Imitation memorises the screens it saw; single-turn reinforcement learning on stored steps generalises "
          "better, and multi-turn reinforcement learning learns to explore and turn back and improves both tests.",
    adds=("StepReward: Verifier", "PathReward: Verifier", "static_report: Report", "lr_at: Schedule"),
    axes={
        "task": "agentic: screen navigation", "method": "model: imitation, then single-turn, then multi-turn "
        "reinforcement learning", "challenge": "generalisation to screens and paths that were never demonstrated",
    },
    deviations=(
        "Whether the goal was reached is read from the engine's page. The released rule trusts the text of the replies "
        "and pays for naming the right icon without clicking it; it stands behind legacy=True.",
        "The history in an observation says what was truly clicked, not what a reply claimed.",
        "The coordinate term asks for a point inside the box. The released variant that allows 5 % of the screen "
        "beside it (tolerance=0.05) also pays for clicks on a neighbour.",
        "A step whose right answer is complete earns all three terms by complete, none by a click.",
        "The step reward is the mean of its terms, so that scores lie in 0..1; a group's advantage is the same.",
        "Icons are drawn by the engine and named by what they show; the released pictures are not ours to ship.",
        "The recipe's observations are text (an element list), since the default model reads no pictures.",
        "Sub-trees are held out of paths, while their single clicks are trained on, as the released sets' single steps "
        "suggest; Rule(single_clicks=False) holds those out too.",
    ),
)

GROUP, TEMPERATURE, TOP_P, TOP_K, MAX_TURNS, MAX_TOKENS = 8, 1.2, 1.0, 8, 8, 1024
"""Of the paper's sampling; ``TOP_K`` in the multi-turn stage alone."""
LR, WARM_UP, BATCH, ACCUMULATE, EPOCHS = 1e-6, 0.05, 8, 2, 10
"""Of its training (a model of 7 billion parameters, all of them trained)."""
TOLERANCE = 0.05
"""Of the released variant of the coordinate term, as a share of width and height."""
Goal: TypeAlias = Literal["a2b", "a2b_wo", "soft_a2b"]


# ---------------------------------------------------------------- one step


@dataclass(frozen=True, slots=True)
class Terms:
    """What one reply earns at one step, each 0 or 1."""

    kind: float
    coordinate: float
    intent: float
    form: float
    right: bool
    """By the static rule, without tolerance."""


def step_terms(reply: str, wanted: Element | None, *, tolerance: float = 0.0) -> Terms:
    """The terms of a reply where a click on ``wanted`` is right; None = ``complete`` is.

    ``tolerance`` widens the box on every side by this share of the canvas's width and height. An unreadable reply earns
    nothing. Raises: BadInput for a negative tolerance.
    """
    if tolerance < 0:
        raise BadInput(f"tolerance is {tolerance}; expected a share of the canvas, 0 or more")
    action, form = read_action(reply), float(well_formed(reply))
    if action is None or (action.kind == "complete") != (wanted is None):
        intent = float(action is not None and wanted is not None and action.icon == wanted.name)
        return Terms(0.0, 0.0, intent, form, False)
    if wanted is None:
        return Terms(1.0, 1.0, 1.0, form, True)
    named = action.icon == wanted.name
    return Terms(1.0, float(inside(action, wanted, tolerance)), float(named), form, named and inside(action, wanted))


def inside(action: Action, element: Element, tolerance: float = 0.0) -> bool:
    """Whether a click lies in an element's box, widened by ``tolerance`` of the canvas."""
    if action.point is None:
        return False
    (x, y), (left, top, right, bottom) = pixel(action.point), element.box
    wide, high = tolerance * WIDTH, tolerance * HEIGHT
    return left - wide <= x < right + wide and top - high <= y < bottom + high


def wanted_at(task: Task) -> Element | None:
    """The element that the solver clicks at a stored step of its own; None where it says ``complete``.

    Raises: BadInput for a task that is no stored step, or one at which something else was replied.
    """
    payload = task.payload
    if not {"stored", "step", "app", "start", "goal"} <= payload.keys():
        raise BadInput(f"task {task.id!r} is no stored step: make it with polyturn.envs.stored.Stored from episodes "
                       "that the solver played")
    app = app_of(task)
    path = app.path(payload["start"], payload["goal"])
    wanted = app.best(path[payload["step"]], payload["goal"]) if payload["step"] < len(path) else None
    said = read_action(payload["stored"])
    if said is None or said.icon != (None if wanted is None else wanted.name):
        raise BadInput(f"the stored reply of {task.id!r} is not the solver's: {payload['stored']!r}")
    return wanted


def app_of(task: Task) -> App:
    """The application that a task is played in."""
    kept = task.payload["app"]
    return make_app(AppSpec(**{**kept, "branching": tuple(kept["branching"])}))


@dataclass(frozen=True, slots=True)
class StepReward:
    """A :class:`polyturn.protocols.Verifier` of stored steps: the mean of the three terms (with ``form`` of four).

    ``success`` is the static rule. A stored question about one page (caption, ground) scores 1 for a right answer.
    """

    tolerance: float = 0.0
    form: bool = False
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score. Raises: BadInput for tasks that are no stored steps."""
        return {episode.id: {"agent": self._score(episode)} for group in groups for episode in group
                if episode.stop.kind != "error"}

    def _score(self, episode: Episode) -> Score:
        if episode.final is None or episode.final["reply"] is None:
            return Score(0.0, success=False) if episode.final is not None else Score(None)
        reply = str(episode.final["reply"])
        if episode.task.payload.get("ask", "navigate") != "navigate":
            right = _answered(episode.task, reply)
            return Score(float(right), success=right)
        terms = step_terms(reply, wanted_at(episode.task), tolerance=self.tolerance)
        parts = {"kind": terms.kind, "coordinate": terms.coordinate, "intent": terms.intent}
        parts |= {"form": terms.form} if self.form else {}
        return Score(sum(parts.values()) / len(parts), success=terms.right, parts=parts)


def _answered(task: Task, reply: str) -> bool:
    page = app_of(task).pages[task.payload["page"]]
    element = page.element(task.payload["icon"])
    assert element is not None
    return is_right(task.payload["ask"], reply, page, element)


# ---------------------------------------------------------------- a whole play


def reward_of(final: Mapping[str, Any], goal: Goal = "a2b") -> float:
    """What a play earns by its final state (:meth:`polyturn.envs.gui_lab.env.GuiEnv.final`), 0..1.

    >>> final = {"page": "page_2", "goal": "page_2", "completed": False, "distance": 0}
    >>> [reward_of(final, goal) for goal in ("a2b", "a2b_wo", "soft_a2b")]
    [0.0, 1.0, 1.0]
    """
    if goal not in ("a2b", "a2b_wo", "soft_a2b"):
        raise UnknownName("reward", goal, ("a2b", "a2b_wo", "soft_a2b"))
    if goal == "soft_a2b":
        return 0.0 if final["distance"] is None else math.exp(-final["distance"])
    there = final["page"] == final["goal"]
    return float(there and (final["completed"] or goal == "a2b_wo"))


def legacy_reward_of(final: Mapping[str, Any], app: App, goal: Goal = "a2b") -> float:
    """What the released text rule pays: the last click *claimed* ("click X icon on page_p") is looked up in the graph.

    Exploitable, since nothing has to be clicked: for comparison only. Raises: BadInput for ``soft_a2b``, which the
    text rule has not.
    """
    if goal == "soft_a2b":
        raise BadInput("the legacy text rule knows a2b and a2b_wo; soft_a2b reads the engine's page")
    clicks = final["clicks"]
    claimed = clicks[-1] if clicks else None
    page = None if claimed is None else app.by_name.get(claimed["claimed"] or "")
    element = None if page is None or claimed is None else page.element(claimed["icon"] or "")
    there = element is not None and element.target is not None and app.pages[element.target].name == final["goal"]
    return float(there and (final["completed"] or goal == "a2b_wo"))


@dataclass(frozen=True, slots=True)
class PathReward:
    """A :class:`polyturn.protocols.Verifier` of plays: :func:`reward_of` the final state, or the released text rule.

    ``success`` is always ``complete`` said on the goal, as the engine has it.
    """

    goal: Goal = "a2b"
    legacy: bool = False
    name: str = "score"

    async def __call__(self, groups: Sequence[Group]) -> Scores:
        """Episode id -> seat -> score. Raises: UnknownName, BadInput as the rewards do."""
        return {episode.id: {"agent": self._score(episode)} for group in groups for episode in group
                if episode.stop.kind != "error"}

    def _score(self, episode: Episode) -> Score:
        final = episode.final
        if final is None:
            return Score(None)
        value = legacy_reward_of(final, app_of(episode.task), self.goal) if self.legacy else reward_of(final, self.goal)
        parts = {"reached": float(final["reached"]), "clicks": float(len(final["clicks"]))}
        return Score(value, success=reward_of(final) == 1.0, parts=parts)


# ---------------------------------------------------------------- static report


@dataclass(frozen=True, slots=True)
class Judged:
    """One answered step: ``Judged("tree-0/page_3>page_9", 0, 4, "click", True)``."""

    task: str
    trial: int
    length: int
    kind: Literal["click", "complete", "caption", "ground"]
    right: bool


def judged(groups: Sequence[Group]) -> Iterator[Judged]:
    """The answered steps of groups that :class:`StepReward` scored; errors and abstentions are left out."""
    for episode in (episode for group in groups for episode in group):
        score = episode.scores.get("score", {}).get("agent")
        if score is None or score.value is None:
            continue
        payload = episode.task.payload
        kind = payload["ask"]
        if kind == "navigate":
            kind = "complete" if wanted_at(episode.task) is None else "click"
        yield Judged(payload["of"], episode.trial, payload.get("length", 0), kind, bool(score.success))


def static_report(steps: Sequence[Judged]) -> dict[str, float]:
    """Shares of right steps: ``all`` (of navigation), ``clicks`` (without complete, and without tasks of one click),
    ``complete``, ``edge`` (the click of tasks of one click), ``caption``, ``ground``, ``length/n``; and ``path/n``, the
    share of tasks of length n all of whose n + 1 steps are right. What was not asked is left out.
    """
    rows: dict[str, list[bool]] = {}
    right: dict[tuple[str, int, int], int] = {}
    for step in steps:
        if step.kind in ("caption", "ground"):
            rows.setdefault(step.kind, []).append(step.right)
            continue
        group = "complete" if step.kind == "complete" else "edge" if step.length == 1 else "clicks"
        for name in ("all", group, f"length/{step.length}"):
            rows.setdefault(name, []).append(step.right)
        key = (step.task, step.trial, step.length)
        right[key] = right.get(key, 0) + step.right
    for (_, _, length), count in right.items():
        rows.setdefault(f"path/{length}", []).append(count == length + 1)
    return {name: sum(values) / len(values) for name, values in sorted(rows.items())}


def path_accuracy(steps: Sequence[Judged]) -> float:
    """Path@ over all lengths: the share of tasks all of whose steps are right. Raises: BadInput without a step."""
    right: dict[tuple[str, int, int], int] = {}
    for step in (step for step in steps if step.kind in ("click", "complete")):
        key = (step.task, step.trial, step.length)
        right[key] = right.get(key, 0) + step.right
    if not right:
        raise BadInput("no answered step of a navigation task was given, so there is no path accuracy")
    return sum(count == length + 1 for (_, _, length), count in right.items()) / len(right)
