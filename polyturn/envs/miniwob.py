"""MiniWoB++: small tasks on web pages in a real Chromium, seen as a numbered list of what the page shows.

The pages are those of the package ``miniwob`` (MIT; ``polyturn envs --install miniwob``), answered from its folder; the
browser reaches no network. An agent clicks, types, selects and presses keys, and the page itself judges. Its clock and
its time penalty are left out: the score is the page's raw reward.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from polyturn.envs.answers import check_seats, null_answer
from polyturn.envs.browser import Chromium
from polyturn.envs.install import installed
from polyturn.envs.score import FinalScore
from polyturn.envs.tasks import in_turn
from polyturn.errors import BadInput, EnvironmentFailed, UnknownName
from polyturn.protocols import Answer, Ask, Spec, Step
from polyturn.seeds import derive
from polyturn.types import Event, Message, Score, Seat, Stop, Task, assistant, user

if TYPE_CHECKING:
    from playwright.async_api import Page as BrowserPage

ENVS = (
    {"name": "miniwob", "package": "miniwob", "needs": "miniwob", "extra": "gui", "licence": "MIT",
     "seats": ("agent",), "oracle": 1.0, "null": 0.0},
)
NAME: Final = "miniwob"
ADDRESS: Final = "http://miniwob.invalid/"
GAMES: Final = ("click-test", "click-test-2", "click-button", "click-link", "click-checkboxes", "click-option",
                "focus-text", "enter-text", "enter-password", "login-user", "choose-list")
"""Tasks that the scripted player solves."""
STEPS: Final = 20
"""The most actions of a play."""
RULES: Final = (
    "You work on a small web page. Reply with one of: click N; type N TEXT (into what is numbered N); select N OPTION; "
    "press KEY (such as Enter or Tab). N is a number of the list."
)
BEGIN: Final = """seed => {
  Math.seedrandom(String(seed));
  core.EPISODE_MAX_TIME = 1e9;
  core.startEpisodeReal();
}"""
LOOK: Final = r"""() => {
  window.polyturnSeen = [];
  const items = [];
  for (const e of document.querySelectorAll("#wrap *, .ui-datepicker *, .ui-autocomplete *")) {
    const tag = e.tagName.toLowerCase();
    if (e.closest("#query") || ["script", "style", "option", "br", "hr"].includes(tag)) continue;
    if (tag === "label" && e.querySelector("input")) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || !box.height || style.visibility === "hidden" || style.display === "none") continue;
    const own = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent).join(" ");
    const control = ["input", "button", "select", "textarea", "a"].includes(tag);
    const tick = tag === "input" && ["checkbox", "radio"].includes(e.type);
    const label = tick ? (e.closest("label") || e.parentElement).innerText : own;
    const text = label.replace(/\s+/g, " ").trim();
    if (!control && !text) continue;
    items.push({kind: tag === "input" ? e.type : tag, text, value: tick ? "" : String(e.value ?? ""),
                checked: tick && e.checked, options: tag === "select" ? [...e.options].map(o => o.text) : []});
    window.polyturnSeen.push(e);
  }
  const told = core.getUtterance();
  return {utterance: typeof told === "string" ? told : told.utterance, items, done: WOB_DONE_GLOBAL,
          reward: WOB_RAW_REWARD_GLOBAL};
}"""
PLACE: Final = """n => {
  const e = window.polyturnSeen[n];
  e.scrollIntoView({block: "nearest"});
  const box = e.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
SELECT: Final = """([n, text]) => {
  const e = window.polyturnSeen[n], found = [...(e.options || [])].findIndex(o => o.text.trim() === text);
  if (found < 0) return false;
  e.selectedIndex = found;
  e.dispatchEvent(new Event("change", {bubbles: true}));
  return true;
}"""
SETTLE: Final = "() => new Promise(then => setTimeout(then, 30))"
WORDS: Final = re.compile(r"(click|type|select|press)\s+(.*)", re.DOTALL)


class WebTask:
    """One task in play."""

    def __init__(self, game: str, seed: int, folder: Path, chromium: Chromium) -> None:
        self._game, self._seed, self._folder, self._chromium = game, seed, folder, chromium
        self._page: BrowserPage | None = None
        self._seen: Mapping[str, Any] = {}
        self._steps = 0
        self._asked = False

    async def start(self, state: bytes | None = None) -> Step:
        """The task and the page."""
        if state is not None or self._page is not None:
            raise BadInput("a web task begins once and has no saved states; replay its replies")
        self._page = await self._chromium.page(500, 320, self._answer)
        await self._page.goto(f"{ADDRESS}miniwob/{self._game}.html")
        await self._page.evaluate(BEGIN, self._seed)
        await self._look()
        return self._ask(f"{RULES}\n\nYour task: {self._seen['utterance']}\n\n")

    async def _answer(self, route: Any) -> None:
        """A request of the page, from the package's folder and from nowhere else."""
        name = route.request.url.split("?")[0].split("#")[0]
        path = (self._folder / name.removeprefix(ADDRESS)).resolve()
        if name.startswith(ADDRESS) and path.is_relative_to(self._folder.resolve()) and path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            await route.fulfill(body=path.read_bytes(), content_type=kind)
        else:
            await route.abort()

    async def _look(self) -> None:
        assert self._page is not None
        await self._page.evaluate(SETTLE)
        found = await self._page.evaluate(LOOK)
        if not (isinstance(found, dict) and isinstance(found.get("utterance"), str)
                and isinstance(found.get("items"), list) and isinstance(found.get("done"), bool)
                and isinstance(found.get("reward"), int | float)):
            raise EnvironmentFailed(f"the page of {self._game} shows {str(found)[:200]}")
        self._seen = found

    def _ask(self, before: str, *events: Event) -> Step:
        self._asked = True
        return Step((Ask("agent", (user(f"{before}{listed(self._seen['items'])}"),)),), events=events)

    async def step(self, replies: Mapping[Seat, Message]) -> Step:
        """The page after the action."""
        check_seats(("agent",) if self._asked else (), replies)
        text = replies["agent"].text.strip()
        reason = await self._act(text)
        self._steps += 1
        told = (Event(0, "invalid", "agent", {"reply": text[:200], "reason": reason}),) if reason else ()
        if not reason:
            await self._look()
        if self._seen["done"] or self._steps == STEPS:
            self._asked = False
            stop = Stop("done") if self._seen["done"] else Stop("truncated", f"after {STEPS} steps")
            return Step(events=told, stop=stop)
        return self._ask(f"{reason}\n" if reason else "", *told)

    async def _act(self, text: str) -> str:
        """Does what a reply says; the reason if it cannot be done."""
        assert self._page is not None
        match = WORDS.fullmatch(text)
        if match is None:
            return "That is no action; it begins with click, type, select or press."
        verb, rest = match[1], match[2].strip()
        if verb == "press":
            if not re.fullmatch(r"[A-Za-z0-9]{1,12}", rest):
                return f"{rest[:40]!r} is no key."
            try:
                await self._page.keyboard.press(rest)
            except Exception as error:  # Playwright's own error for a key that it does not know
                return f"{rest!r} is no key: {str(error).splitlines()[0]}"
            return ""
        number, _, more = rest.partition(" ")
        if not number.isdigit() or int(number) >= len(self._seen["items"]):
            return f"There is nothing numbered {number[:20]!r}."
        if verb == "select":
            chosen = await self._page.evaluate(SELECT, [int(number), more.strip()])
            return "" if chosen else f"Number {number} has no option {more.strip()[:40]!r}."
        x, y = await self._page.evaluate(PLACE, int(number))
        await self._page.mouse.click(x, y)
        if verb == "type":
            await self._page.keyboard.type(more)
        return ""

    async def final(self) -> Mapping[str, Any]:
        """Task, steps, whether the page ended it, and its raw reward."""
        done = bool(self._seen.get("done"))
        return {"game": self._game, "utterance": self._seen.get("utterance", ""), "steps": self._steps, "done": done,
                "reward": float(self._seen["reward"]) if done else 0.0}

    async def close(self) -> None:
        """Closes the page."""
        page, self._page, self._asked = self._page, None, False
        if page is not None:
            await page.context.close()


def listed(items: Sequence[Mapping[str, Any]]) -> str:
    """What a page shows, a line for each.

    >>> print(listed([{"kind": "button", "text": "Ok", "value": "", "checked": False, "options": []},
    ...               {"kind": "checkbox", "text": "tea", "value": "", "checked": True, "options": []}]))
    [0] button "Ok"
    [1] checkbox "tea" (checked)
    """
    lines = []
    for number, item in enumerate(items):
        more = [f'"{item["text"]}"'] if item["text"] else []
        more += [f"value={item['value']!r}"] if item["value"] and item["kind"] not in ("button", "submit") else []
        more += ["(checked)"] if item["checked"] else []
        more += [f"options: {', '.join(item['options'])}"] if item["options"] else []
        lines.append(" ".join((f"[{number}]", item["kind"], *more)))
    return "\n".join(lines)


def _scores(final: Mapping[str, Any]) -> Mapping[Seat, Score]:
    value = min(1.0, max(0.0, final["reward"]))
    return {"agent": Score(value, success=final["reward"] > 0, parts={"reward": final["reward"]})}


class MiniWob:
    """The suite; made by :func:`miniwob`. Tasks take turns; the page is drawn from the task and the seed."""

    def __init__(self, games: Sequence[str], test_tasks: int, program: str) -> None:
        self.games, self.test_tasks = tuple(games), test_tasks
        self.folder = installed(NAME) / "miniwob" / "html"
        self.figures: Mapping[str, float] = {"oracle": 1.0, "null": 0.0}
        self.spec = Spec("miniwob", licence="MIT", package="miniwob",
                         invalid="it is answered by the reason, and the step is spent")
        self.verifier = FinalScore(self.spec.seats, _scores)
        self._chromium = Chromium(program)

    def tasks(self, split: str) -> Iterator[Task]:
        """``train`` without end, ``test`` of ``test_tasks`` tasks. Raises: UnknownName."""
        return in_turn(self.spec.name, "game", self.games, split, test=self.test_tasks)

    async def make(self, task: Task, seed: int) -> WebTask:
        """The page of the task and the seed."""
        world = derive("miniwob", task.id, seed) % 2**31
        return WebTask(task.payload["game"], world, self.folder, self._chromium)

    async def close(self) -> None:
        """Ends the browser."""
        await self._chromium.close()

    def oracle(self, task: Task) -> Answer:
        """The player that reads what is asked and does it, for the tasks of ``GAMES``."""
        left: list[str] | None = None

        def play(ask: Ask) -> Message:
            nonlocal left
            left = plan(ask.messages[-1].text) if left is None else left
            return assistant(left.pop(0) if left else "press Escape")

        return play

    def null(self, task: Task) -> Answer:
        """The player that says nothing."""
        return null_answer


def plan(opening: str) -> list[str]:
    """The actions that do what an opening asks for.

    >>> plan('Your task: Click button ONE.\\n\\n[0] button "ONE"\\n[1] button "TWO"')
    ['click 0']
    """
    task = re.search(r"Your task: (.*?)\n\n", opening, re.DOTALL)
    lines = re.findall(r'^\[(\d+)\] (\S+)(?: "(.*?)")?', opening, re.M)
    found = [(int(n), kind, text) for n, kind, text in lines]
    if task is None:
        raise BadInput(f"no task stands in {opening[:80]!r}")
    said = task[1]

    def numbers(kind: str, text: str | None = None) -> list[int]:
        return [n for n, k, t in found if k == kind and text in (None, t)]

    def named(text: str) -> int:
        return next(n for n, k, t in found if t.lower() == text.lower() and k not in ("checkbox", "radio"))

    quoted = re.findall(r'"(.*?)"', said)
    fields = numbers("text") + numbers("password")
    if match := re.fullmatch(r"Select (.*) from the list and click Submit\.", said):
        return [f"select {numbers('select')[0]} {match[1]}", f"click {named('Submit')}"]
    if match := re.fullmatch(r"Select (.*) and click Submit\.", said):
        wanted = match[1].split(", ")
        ticks = [n for n, kind, text in found if kind in ("checkbox", "radio") and text in wanted]
        return [*(f"click {n}" for n in ticks), f"click {named('Submit')}"]
    if said.startswith("Focus"):
        return [f"click {fields[0]}"]
    if said.startswith("Enter") and quoted:
        texts = quoted if len(quoted) > 1 else quoted * len(fields)
        ends = "Login" if "login" in said.lower() else "Submit"
        return [*(f"type {n} {text}" for n, text in zip(fields, texts, strict=True)), f"click {named(ends)}"]
    if match := re.search(r"[Cc]lick (?:on the )?(?:button|link|\S+ button) ?\"?(\w+)?\"?", said):
        target = quoted[0] if quoted else match[1]
        return [f"click {named(target) if target else numbers('button')[0]}"]
    return [f"click {numbers('button')[0]}"]


def miniwob(*, games: Sequence[str] = GAMES, test_tasks: int = 44, program: str = "") -> MiniWob:
    """Tasks of the pages named, in turns: any of the package's. ``program`` = a Chromium, where it has another name.

    Raises: MissingPackage, which names the command; UnknownName for a page that does not exist.
    """
    known = {path.stem for path in (installed(NAME) / "miniwob" / "html" / "miniwob").glob("*.html")}
    for game in games:
        if game not in known:
            raise UnknownName("web task", game, known)
    return MiniWob(games, test_tasks, program)
