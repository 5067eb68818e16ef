"""One thread that serves all waiting requests as one batch; requests join between steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from polyturn.errors import PolicyFailed, PolyturnError
from polyturn.forest.threads import let_go
from polyturn.policies.sampler.draw import draw
from polyturn.policies.sampler.request import Outcome, Request
from polyturn.waits import Waiting

IDLE_S = 0.05
"""Seconds without work after which the threads behind the products end, so that a learner's run at full speed."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the engine did since it was made."""

    steps: int = 0
    """Forwards of the model."""
    sequences: int = 0
    """Requests in them, summed: ``sequences / steps`` is the mean batch."""
    sampled: int = 0
    """Ids drawn or forced by a mask."""
    prefilled: int = 0
    """Prompt ids that were computed."""
    cached: int = 0
    """Prompt ids that were read from a cache, of finished requests."""
    restarted: int = 0
    """Requests that lost their cache to the byte budget while at work and were computed again."""

    @property
    def mean_batch(self) -> float:
        """Requests per forward."""
        return self.sequences / self.steps if self.steps else 0.0


class Stepper(Protocol):
    """How new ids of a batch go through a model: over slots, or plainly."""

    name: str
    width: int

    def admit(self, request: Request) -> bool:
        """Takes a request on; False where it has to wait for room."""
        ...

    def release(self, request: Request, broken: bool = False) -> None:
        """The request has ended; what a broken one has computed is not kept."""
        ...

    def drop(self) -> None:
        """Forgets all that was computed, for the weights have changed."""
        ...

    def close(self) -> None:
        """Gives back what it holds; it is not used again."""
        ...

    def step(self, requests: Sequence[Request]) -> tuple[list[Request], torch.Tensor, list[Request]]:
        """One forward: the requests that reached the end of their ids, the logits of their last ids [R, V] in float32
        (more rows may follow), and the requests that lost their place and must be admitted again."""
        ...


class Engine:
    """Serves requests until it is closed. Every method may be called from any thread."""

    def __init__(self, stepper: Stepper, *, name: str = "main") -> None:
        self.stepper = stepper
        self.version = 0
        self.stats = Stats()
        self._waiting: deque[Request] = deque()
        self._working: list[Request] = []
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._count = 0
        self._thread = threading.Thread(target=self._serve, name=f"sampler-{name}", daemon=True)
        self._thread.start()

    # -------------------------------------------------------- from outside

    def submit(self, request: Request) -> Future[Outcome]:
        """Queues a request; cancelling the future frees its place.

        Raises: PolicyFailed when the engine is closed.
        """
        with self._changed:
            self._refuse_closed()
            self._count += 1
            request.order = self._count
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def between(self, command: Callable[[], Any]) -> Any:
        """What ``command()`` returns, called in the engine's thread when all requests at work are finished."""
        future: Future[Any] = Future()
        with self._changed:
            self._refuse_closed()
            self._commands.append((command, future))
            self._changed.notify()
        with Waiting("the loop", f"{self._thread.name}", "that the requests at work are answered"):
            return future.result()

    def _refuse_closed(self) -> None:
        if self._closing or not self._thread.is_alive():
            raise PolicyFailed("the sampler is closed; load the policy again")

    def close(self) -> None:
        """Ends the thread; whoever still waits gets PolicyFailed. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # -------------------------------------------------------- in the thread

    def _serve(self) -> None:
        with torch.inference_mode():
            while self._next():
                try:
                    self._admit()
                    if self._working:
                        self._step()
                except Exception as error:
                    self._fail_all(error)
            self._fail_all(PolicyFailed("the sampler was closed while this request waited"))
            self.stepper.close()

    def _next(self) -> bool:
        """Waits for work and runs commands; False = closing."""
        with self._changed:
            if not self._changed.wait_for(self._asked, timeout=IDLE_S):
                let_go()
                self._changed.wait_for(self._asked)
            if self._closing:
                return False
            commands = [] if self._working or self._begun() else list(self._commands)
            if commands:
                self._commands.clear()
        for command, future in commands:
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)
        return True

    def _asked(self) -> bool:
        return bool(self._closing or self._waiting or self._working or self._commands)

    def _begun(self) -> list[Request]:
        """Waiting requests that have drawn something already: they lost their cache to the byte budget."""
        return [request for request in self._waiting if request.length > request.prompt]

    def _admit(self) -> None:
        """Drops cancelled requests and seats waiting ones in order; one that must wait lets later ones pass."""
        for request in [r for r in self._working if r.future.cancelled()]:
            self._leave(request)
        with self._changed:
            waiting = self._begun() if self._commands else list(self._waiting)
        for request in waiting:
            if len(self._working) >= self.stepper.width:
                break
            if request.future.cancelled():
                self._waiting.remove(request)
            elif request.finish:
                self._waiting.remove(request)
                self._answer(request)
            elif self.stepper.admit(request):
                self._waiting.remove(request)
                self._working.append(request)

    def _step(self) -> None:
        batch = list(self._working)
        before = {request.order: (min(request.fed, request.prompt), request.length) for request in batch}
        with Waiting(self._thread.name, "its model", f"a forward over {len(batch)} of its requests"):
            ready, logits, lost = self.stepper.step(batch)
        for request in lost:
            self._working.remove(request)
            with self._changed:
                self._waiting.appendleft(request)
        kept = [request for request in batch if request not in lost]
        for request, drawn in zip(ready, draw(logits, ready) if ready else [], strict=True):
            if isinstance(drawn, PolicyFailed):
                self._leave(request, drawn)
            else:
                request.add(*drawn)
        self.stats = replace(
            self.stats, steps=self.stats.steps + 1, sequences=self.stats.sequences + len(kept),
            prefilled=self.stats.prefilled + sum(min(r.fed, r.prompt) - before[r.order][0] for r in kept),
            sampled=self.stats.sampled + sum(r.length - before[r.order][1] for r in kept),
            restarted=self.stats.restarted + len(lost),
        )
        for request in kept:
            if request.finish or (request.score is not None and request.pending == 0):
                self._answer(request)

    def _answer(self, request: Request) -> None:
        outcome = request.outcome(self.version)
        self._leave(request)
        self.stats = replace(self.stats, cached=self.stats.cached + outcome.cached)
        try:
            request.future.set_result(outcome)
        except InvalidStateError:  # cancelled in this moment
            return

    def _leave(self, request: Request, error: Exception | None = None) -> None:
        """Takes a request out of the batch; with an error its cache is not trusted and its waiter is told."""
        if request in self._working:
            self._working.remove(request)
            self.stepper.release(request, broken=error is not None)
        if error is not None and not request.future.done():
            request.future.set_exception(error)

    def _fail_all(self, error: Exception) -> None:
        """Tells everybody who waits; later requests start with empty caches."""
        if not isinstance(error, PolyturnError):
            failed = PolicyFailed(f"the sampler failed: {type(error).__name__}: {error}")
            failed.__cause__ = error
            error = failed
        with self._changed:
            waiting: list[Future[Any]] = [request.future for request in (*self._working, *self._waiting)]
            waiting += [future for _, future in self._commands]
            self._working.clear()
            self._waiting.clear()
            self._commands.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self.stepper.drop()
