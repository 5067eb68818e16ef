"""How many steps a second the GUI lab plays, in text and drawn, beside nothing else.

``python -m benchmarks.gui_lab``. In processor time of one core, so that what else runs changes little: text steps of a
random clicker over all test tasks, and drawn steps, no page twice, each drawn, compressed and stored.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Report, parser, show
from polyturn.envs.gui_lab.app import AppSpec, make_app
from polyturn.envs.gui_lab.env import Look
from polyturn.envs.gui_lab.suite import Drawn, GuiLab, gui_lab
from polyturn.media import Media

PAGES = 100


async def text_steps(tasks: int | None = None) -> tuple[int, float]:
    """Steps of a random clicker over the test tasks, and the seconds of the processor that they took."""
    lab = gui_lab()
    steps, began = 0, time.process_time()
    for task in list(lab.tasks("test"))[:tasks]:
        env, answer = await lab.make(task, 0), lab.random_clicker(task, 0)
        step = await env.start()
        while step.asks:
            step = await env.step({"agent": answer(step.asks[0])})
            steps += 1
    return steps, time.process_time() - began


async def drawn_steps(folder: Path, pages: int = PAGES) -> tuple[int, float]:
    """Pages shown as pictures that ``folder`` keeps, and the seconds of the processor that they took."""
    spec = AppSpec(seed=9)
    lab, app = GuiLab(Drawn(spec), Look("image", Media(folder))), make_app(spec)
    task = lab.task(app.pages[0].name, app.pages[1].name)
    began = time.process_time()
    for page in app.pages[:pages]:
        env = await lab.make(task, 0)
        await env.start(json.dumps({"page": page.index, "reached": False, "clicks": [], "history": []}).encode())
    return pages, time.process_time() - began


def main(argv: list[str] | None = None) -> None:
    """Parses the command line, measures, prints."""
    arguments = parser(__doc__.splitlines()[0]).parse_args(argv)
    report = Report("steps of the GUI lab", "python -m benchmarks.gui_lab", ("pillow",))
    found: dict[str, list[float]] = {"text": [], "drawn": []}
    for _ in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            for name, (steps, seconds) in (("text", asyncio.run(text_steps())),
                                           ("drawn", asyncio.run(drawn_steps(Path(folder))))):
                found[name].append(steps / seconds)
    report.row("steps a second of the processor", "what", "median", "worst")
    for name, rates in found.items():
        counted = rates[1:]
        report.row("steps a second of the processor", name, median(counted), min(counted))
        report.details[name] = counted
    show(report, as_json=arguments.json)


if __name__ == "__main__":
    main()
