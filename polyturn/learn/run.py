"""A run's folder as a recipe sees it: the record, the progress, checkpoints that can be gone on from, results."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.errors import BadInput
from polyturn.learn import checkpoint
from polyturn.learn.learner import Learner
from polyturn.learn.learns import Learns
from polyturn.progress import Progress
from polyturn.protocols import Match, Stateful
from polyturn.record.control import Control
from polyturn.record.run import write_whole
from polyturn.record.write import RunRecorder
from polyturn.types import EMPTY, Episode

if TYPE_CHECKING:
    from polyturn.learn.ranks.group import Ranks
    from polyturn.policies.local import Local


@dataclass
class Run:
    """What a recipe's ``main(settings, run)`` is given.

    ``checkpoints/state`` holds what a resume needs (one, the newest), ``checkpoints/<stage>`` model folders that
    transformers or peft load unchanged, ``results.json`` what the recipe found. Made on the folder of an earlier
    attempt, a run goes on from the checkpoint; what was recorded after that is void.
    """

    folder: Path
    recorder: RunRecorder
    progress: Progress
    deterministic: bool = False
    processes: int = 0
    """So many other processes play the episodes of decoupled training; 0 = this one does."""
    ray: str = ""
    """The address of a Ray cluster whose actors these are; "" = spawned processes of this machine."""
    results: dict[str, Any] = field(default_factory=dict)
    control: Control = field(init=False)
    """What is asked of the run while it works."""
    ranks: Ranks | None = None
    """The processes that learn together (``polyturn run --ranks``); None = this one alone."""
    _found: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.control = Control(self.folder, self.recorder.attempt)
        if self._results_file.exists():
            self.results = _results(self._results_file)
        if self._state_folder.exists():
            self._found = checkpoint.load(self._state_folder)
            stage, done = self._found.get("stage"), self._found.get("done")
            if not (isinstance(stage, str) and isinstance(done, int) and isinstance(self._found.get("parts"), dict)):
                raise BadInput(f"{self._state_folder} is no checkpoint of a run: it lacks its stage, how many "
                               "iterations are done, or its parts; remove it to begin anew")
        if self.recorder.attempt > 1:
            self.recorder.rewind(None if self.at is None else _mark(*self.at))

    @property
    def _results_file(self) -> Path:
        return self.folder / "results.json"

    @property
    def _state_folder(self) -> Path:
        return self.folder / "checkpoints" / "state"

    @property
    def at(self) -> tuple[str, int] | None:
        """(stage, number of its iterations that are done) of the checkpoint that was found; None without one."""
        return None if self._found is None else (str(self._found["stage"]), int(self._found["done"]))

    def learner(self, policy: Local, *, lr: float, **options: Any) -> Learns:
        """A learner of the policy's model, in its numbers, in this process or over the run's ranks; ``options`` are
        those of :class:`polyturn.learn.learner.Learner`. Over ranks it takes the place of the one before, and the
        model's weights of now; make it when its stage begins."""
        dtype = None if policy.dtype == "float32" else policy.dtype
        if self.ranks is None:
            return Learner(policy.model, lr=lr, dtype=dtype, **options)
        from polyturn.learn.ranks.learner import RankedLearner

        return RankedLearner(self.ranks, policy.model, lr=lr, dtype=dtype, **options)

    def save(self, stage: str, done: int, parts: Mapping[str, Stateful]) -> None:
        """Replaces the checkpoint by the states of ``parts`` after ``done`` iterations of ``stage``."""
        states = {name: part.state() for name, part in parts.items()}
        self.recorder.commit(_mark(stage, done))
        checkpoint.save(self._state_folder, {"stage": stage, "done": done, "parts": states})
        self._found = {"stage": stage, "done": done}

    async def heed(self, stage: str, i: int, parts: Mapping[str, Stateful]) -> None:
        """Obeys what was asked of the run (:mod:`polyturn.record.control`), before iteration ``i`` of ``stage``.

        Where the program is being ended by a signal, what was finished is saved first.
        Raises: Stopped where it was asked to stop, after :meth:`save`.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self.save(stage, i, parts)
        await self.control.between(stage, i, lambda: self.save(stage, i, parts), note=self.progress.note)

    def plays(self, name: str, matches: Sequence[Match]) -> Callable[[Episode], None]:
        """What is to be called with each episode of a stage that only plays, as it ends: a rating, demonstrations.

        The stage begins now. Each episode is shown and counted, and a ``stop`` is obeyed: it raises Stopped. Nothing is
        saved then; a run that goes on plays the stage again.
        """
        self.progress.stage(name, sum(match.rollouts for match in matches))
        numbers = count()

        def finished(episode: Episode) -> None:
            number = next(numbers)
            self.progress.sample(episode)
            self.progress.iteration(number, EMPTY)
            self.control.within(name, number + 1)

        return finished

    def restore(self, parts: Mapping[str, Stateful]) -> None:
        """Hands the found checkpoint's states to ``parts``. Raises: BadInput where it holds other parts."""
        found = checkpoint.load(self._state_folder)["parts"]
        checkpoint.check_names(parts, found)
        for name, part in parts.items():
            part.restore(found[name])

    def found(self, part: str) -> Any:
        """The state of one part in the checkpoint that was found. Raises: BadInput where it has no such part."""
        parts = checkpoint.load(self._state_folder)["parts"]
        checkpoint.check_names([part], parts.keys() & {part})
        return parts[part]

    def model_folder(self, name: str) -> Path:
        """Where the model of a stage is kept."""
        return self.folder / "checkpoints" / name

    def keep(self, **results: Any) -> None:
        """Adds to ``results.json``, at once and whole."""
        self.results.update(results)
        write_whole(self._results_file, json.dumps(self.results, indent=1, sort_keys=True, allow_nan=False).encode())

    def room(self, need_bytes: int) -> bool:
        """Whether the folder's disk has that much room."""
        return shutil.disk_usage(self.folder).free >= need_bytes


def _results(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}); remove it: a run that goes on writes it anew") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds {type(found).__name__}; expected an object of results")
    return found


def _mark(stage: str, done: int) -> str:
    return f"{stage}:{done}"
