"""The page in Chromium: what a person sees, presses and links to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright

from polyturn.cli.view import hosts, listen
from polyturn.dashboard.app import make_app
from polyturn.dashboard.watch import Watch
from polyturn.record.control import Control, orders
from polyturn.record.read import read_metrics
from polyturn.record.write import RunRecorder
from tests.dashboard.made import iteration, keep_tokenizer, made_run

TOKEN = "t" * 40
PHONE = {"width": 390, "height": 844}


@dataclass
class Site:
    """A served folder of runs, and what the page complained of."""

    address: str
    folder: Path
    recorder: RunRecorder
    complaints: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def serving(top: Path) -> Iterator[str]:
    """The address of a server over the runs of a folder."""
    watch = Watch((top,), every_s=0.1)
    watch.look()
    watch.read_on(5)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    app = make_app(watch, token=TOKEN, hosts=hosts("127.0.0.1", port, []))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    watch.start()
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=5)
        watch.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    top = tmp_path_factory.mktemp("runs")
    made_run(top / "ended", iterations=3)
    made_run(top / "other", iterations=2, seed=1)
    recorder = made_run(top / "going", iterations=1, close=False)
    with serving(top) as address:
        yield Site(address, top, recorder, [])
    recorder.close()


@pytest.fixture
def page(served: Site, browser: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    found.set_default_timeout(30_000)
    served.complaints.clear()
    found.on("console", lambda m: served.complaints.append(m.text) if m.type == "error" else None)
    found.on("pageerror", lambda error: served.complaints.append(str(error)))
    foreign: list[str] = []
    found.on("request", lambda r: None if r.url.startswith((served.address, "data:")) else foreign.append(r.url))
    found.goto(f"{served.address}/enter?token={TOKEN}")
    yield found
    context.close()
    assert not served.complaints and not foreign


def test_from_the_list_to_a_token(page: Page, served: Site) -> None:
    expect(page.locator("h1")).to_have_text("Runs")
    page.get_by_role("link", name="ended", exact=True).click()
    expect(page.locator(".tiles")).to_contain_text("6episodes")
    page.locator(".grid-cards .card", has_text="guessing").locator("svg.picks").click(position={"x": 60, "y": 60})
    expect(page.locator("h1")).to_have_text("learn, iteration 0")
    page.get_by_role("link", name="learn.0.0").click()
    expect(page.locator(".seats")).to_contain_text("Too low")
    page.locator(".tok", has_text="twelve").click()
    panel = page.locator("aside.panel")
    expect(panel).to_contain_text("log-probability when drawn")
    expect(panel).to_contain_text("−2.5")
    for said in ("R = score 1", "(1 − 0.5) / 0.5 = 1", "mean of the set of 2", "A = 1", "w = 0.04166667 = 1 / 24",
                 "r = exp(−2.2 − −2.502) = 1.352561", "Outside 0.8 to 1.2", "dL / d log p = 0"):
        expect(panel).to_contain_text(said)
    assert "token=0.3.2" in page.url and "turn=2" in page.url


def test_a_link_to_a_token_opens_it(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1?turn=2&token=0.3.2&colour=gap")
    expect(page.locator("aside.panel")).to_contain_text("twelve")
    expect(page.get_by_role("button", name="Gap sampler / learner")).to_have_attribute("aria-pressed", "true")


def test_markup_in_a_record_is_text(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    expect(page.locator(".message.user", has_text="<b>Too</b> high?")).to_be_visible()
    assert page.locator(".message b", has_text="Too").count() == 0


def test_pictures_stand_in_their_message(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    picture = page.locator(".message.user").first.locator("img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 2


def test_seats_stand_side_by_side_and_a_rewritten_context_is_marked(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    left, right = (page.locator(f".seat-head.s{i}").bounding_box() for i in (0, 1))
    assert left and right and right["x"] > left["x"] + 200 and abs(left["y"] - right["y"]) < 2
    expect(page.locator(".rewritten")).to_have_count(1)
    expect(page.locator(".rewritten")).to_contain_text("keeps 4 tokens, leaves out 10")
    expect(page.locator(".map")).to_contain_text("2 branches of context")


@pytest.mark.parametrize(("key", "shown"), [
    ("1", ("twelve", "<end>")), ("2", ("twelve", "")), ("3", ("say", "")), ("5", ("say", "<end>")),
])
def test_keys_choose_the_colour(page: Page, served: Site, key: str, shown: tuple[str, str]) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    page.locator(".turn").first.wait_for()
    page.keyboard.press(key)
    turn = page.locator("#turn-2")
    coloured, idle = shown
    read = "node => parseFloat(node.style.getPropertyValue('--depth'))"
    assert turn.locator(".tok", has_text=coloured).evaluate(read) > 3
    expect(turn.locator(".tok.idle")).to_have_text([idle] if idle else [])


def test_colours_follow_the_sign(page: Page, served: Site) -> None:
    hues = []
    for episode in ("1.1", "1.2"):
        page.goto(f"{served.address}/run/ended/episode/{episode}")
        hues.append(page.locator("#turn-0 .tok", has_text="eight").evaluate("n => n.style.getPropertyValue('--hue')"))
    assert hues == ["var(--good)", "var(--worse)"]


def test_exact_tokens_show_what_was_fed(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    page.locator(".turn").first.wait_for()
    page.keyboard.press("t")
    expect(page.locator("#turn-2 .prompt")).to_contain_text("fed: 2 new tokens")
    expect(page.locator("#turn-2 .prompt .tok")).to_have_count(2)
    page.locator("#turn-2 .prompt .tok").first.click()
    expect(page.locator("aside.panel")).to_contain_text("Nobody wrote this token")


def test_keys_walk_turns_tokens_and_the_group(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episode/1.1")
    page.locator(".turn").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator(".turn.at")).to_have_id("turn-2")
    page.keyboard.press("Enter")
    expect(page.locator(".token-title")).to_contain_text("I")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".token-title")).to_contain_text("say")
    page.keyboard.press("Escape")
    expect(page.locator("aside.panel")).to_contain_text("Choose a token")
    page.keyboard.press("]")
    expect(page.locator(".episode-head")).to_contain_text("learn.0.0.1")
    page.keyboard.press("d")
    expect(page.locator(".shared")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator("h1")).to_have_text("Runs")


def test_two_episodes_from_their_first_difference(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/diff/1.1/1.2")
    expect(page.locator(".shared")).to_contain_text("4 messages alike")
    expect(page.locator(".shared")).to_contain_text("then 2 tokens of the reply")
    first = page.locator(".pair.first")
    expect(first.locator(".tok.differs")).to_have_text(["twelve", "ten"])
    page.get_by_role("button", name="Show what is alike").click()
    expect(page.locator(".pair")).to_have_count(7)


def test_search_and_filters(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/ended/episodes")
    page.locator("tbody tr").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("say twelve")
    expect(page.locator(".head .quiet")).to_have_text("3 episodes")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("mark").first).to_be_in_viewport()
    assert "".join(page.locator("mark").all_text_contents()) == "say twelve"
    page.go_back()
    expect(page.locator("input[type=search]")).to_have_value("say twelve")
    page.locator("input.mono").fill("score = ")
    expect(page.get_by_role("alert")).to_contain_text("was refused")
    assert all("status of 400" in text for text in served.complaints)
    served.complaints.clear()  # the browser's own word for the refused condition
    page.locator("input.mono").fill("iteration = 1")
    expect(page.locator(".head .quiet")).to_have_text("1 episode")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".head .quiet")).to_have_text("6 episodes")
    page.get_by_role("button", name="score").click()
    expect(page.locator("tbody tr").first).to_contain_text("learn.2.0.0")


def test_runs_are_compared(page: Page, served: Site) -> None:
    page.locator("tr", has_text="ended").get_by_role("checkbox").check()
    page.locator("tr", has_text="other").get_by_role("checkbox").check()
    page.get_by_role("button", name="Compare 2 marked").click()
    expect(page.locator("h1")).to_have_text("2 runs compared")
    expect(page.locator(".legend")).to_contain_text("guess (2 seeds)")  # they differ in nothing but the seed


def test_a_run_is_followed_while_it_goes_on(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/going")
    expect(page.locator(".status")).to_have_text("running")
    expect(page.locator(".tiles")).to_contain_text("2episodes")
    button = page.get_by_role("button", name="Pause").element_handle()
    iteration(served.recorder, 1, keep_tokenizer(served.folder / "going"), "0" * 64)
    expect(page.locator(".tiles")).to_contain_text("4episodes")
    expect(page.locator(".tiles")).to_contain_text("2iterations")
    assert button is not None and button.evaluate("node => node.isConnected")  # what is being pressed stays


def test_what_is_pointed_at_is_not_redrawn(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/going")
    count = len(read_metrics(served.folder / "going"))
    chart = page.locator(".grid-cards .chart svg").first
    chart.hover()
    drawn = chart.element_handle()
    expect(page.locator(".chart-tip").first).to_be_visible()
    iteration(served.recorder, count, keep_tokenizer(served.folder / "going"), "0" * 64)
    expect(page.locator(".tiles")).to_contain_text(f"{count + 1}iterations")
    assert drawn is not None and drawn.evaluate("node => node.isConnected")
    page.mouse.move(5, 5)
    page.wait_for_function("node => !node.isConnected", arg=drawn)


def test_a_run_is_controlled(page: Page, served: Site) -> None:
    page.goto(f"{served.address}/run/going")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".said")).to_contain_text("Asked for pause")
    expect(page.locator(".orders")).to_contain_text("pause by dashboard: not yet")
    paused = threading.Event()

    async def wait(seconds: float) -> None:
        paused.set()
        await asyncio.sleep(0.05)

    run = Control(served.folder / "going", 1, sleep=wait)
    thread = threading.Thread(target=lambda: asyncio.run(run.between("learn", 3, lambda: None)))
    thread.start()
    paused.wait(5)
    expect(page.locator(".head .status")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".orders")).to_contain_text("gone on before iteration 3 of learn")
    thread.join(5)
    page.get_by_role("button", name="Limits").click()
    page.get_by_label("sampled tokens a seat").fill("64")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator(".orders")).to_contain_text("tokens=64 by dashboard: not yet")
    assert [o.command for o in orders(served.folder / "going")] == ["pause", "resume", "set"]


@pytest.mark.parametrize("path", ["/", "/run/ended", "/run/ended/episodes", "/run/ended/iteration/learn/1",
                                  "/run/ended/episode/1.1", "/run/ended/diff/1.1/1.2", "/compare?runs=ended,other"])
def test_nothing_is_wider_than_a_phone(page: Page, served: Site, path: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(served.address + path)
    page.locator("#main h1").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_without_the_token_there_is_a_form(served: Site, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{served.address}/run/ended")
    expect(page.locator("h1")).to_have_text("Which token?")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("h1")).to_have_text("Runs")
    context.close()
