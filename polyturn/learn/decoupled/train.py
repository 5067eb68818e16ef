"""The decoupled loop: environments play, replicas sample and the learner updates, all at the same time.

The same verbs as :mod:`polyturn.learn.loop`, in another order: an update is :func:`polyturn.learn.loop.learn` in a
thread of its own, while environments go on. The four parts meet in :class:`polyturn.learn.decoupled.stock.Stock` only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from polyturn.errors import BadInput, first_of
from polyturn.learn.decoupled.resume import bring_back, follow
from polyturn.learn.decoupled.schedule import Schedule, lags
from polyturn.learn.decoupled.stock import Stock
from polyturn.learn.loop import Metrics, Stage, learn, learned_nothing, played_metrics
from polyturn.learn.run import Run
from polyturn.policies.replicas import Pinned, Replicas, weights_of
from polyturn.protocols import Stateful
from polyturn.rollout.environments import Environments, Occupancy
from polyturn.rollout.leases import Lease
from polyturn.types import Group
from polyturn.waits import Waiting

if TYPE_CHECKING:
    from polyturn.rollout.crew.lead import Crew


async def train_decoupled(
    run: Run, stage: Stage, schedule: Schedule, *, save_every: int = 10, enough: Callable[[], bool] | None = None,
) -> None:
    """Runs a stage to its end, or from its checkpoint to its end; afterwards ``checkpoints/<stage>`` holds the model.

    ``stage.iterations`` are updates, ``stage.pool`` gives retries and deadlines. A curriculum's ``propose(i)`` must
    name the same tasks whenever it is asked; rollouts and limits may depend on what it observed. Metrics beside those
    of :func:`polyturn.learn.loop.iterate`: ``rollout/occupied``, ``rollout/busy``, ``decoupled/lag``, ``lag_most``,
    ``waited_s`` (the learner for groups), ``open``, ``dead``, ``stale``, ``stale_episodes``, ``fewest_serving``.
    Raises: BadInput where what is trained does not play; what an episode's program, the learner or a deadline raises,
    with everything finished on disk.
    """
    if stage.policies.get(stage.policy) is not stage.model:
        raise BadInput(f"policy {stage.policy!r} of stage {stage.name} is not the stage's model, so its replicas could "
                       "not take its place; decoupled training is for what the model itself samples")
    stage.learner.version = max(stage.learner.version, stage.model.version)
    work = _Work(run, stage, schedule)
    try:
        await work.train(save_every, enough)
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    finally:
        work.close()


def crew_of(run: Run) -> Crew | None:
    """The workers that a run's episodes are played by; None where it plays them itself. Raises: BadInput."""
    if not run.processes:
        if run.ray:
            raise BadInput(f"ray is {run.ray!r}, and processes is 0; say how many actors are to play")
        return None
    from polyturn.rollout.crew.lead import Crew

    if run.ray:
        from polyturn.rollout.cluster import starter

        return Crew(starter(run.ray), run.processes, run.progress.note)
    from polyturn.rollout.crew.processes import begin

    return Crew(begin, run.processes, run.progress.note)


class _Work:
    """One decoupled stage at work."""

    def __init__(self, run: Run, stage: Stage, schedule: Schedule) -> None:
        self.run, self.stage, self.schedule = run, stage, schedule
        self.crew = crew_of(run)
        self.pool: Replicas | Pinned = (
            Pinned(stage.model, schedule.max_lag + 1) if schedule.by_ticket
            else Replicas(stage.model, schedule.replicas)
        )
        self.stock = Stock(run, stage, schedule, self.pool)
        self.environments = Environments(
            schedule.environments, stage.name, stage.pool, run.recorder, run.progress.sample, self._allowed,
            run.control.call_seconds)
        if self.crew is not None:
            self.environments = replace(self.environments, player=self.crew.play)
        self.occupancy = Occupancy(schedule.environments)
        self.waited_s = 0.0

    @property
    def parts(self) -> dict[str, Stateful]:
        """Everything with memory."""
        return {**self.stage.parts, "stock": self.stock}

    def _allowed(self) -> int:
        return self.run.control.concurrency(self.schedule.environments)

    async def train(self, save_every: int, enough: Callable[[], bool] | None) -> None:
        run, stage = self.run, self.stage
        run.recorder.tokenizer(stage.model.chat)
        run.progress.stage(stage.name, 0 if enough else stage.iterations)
        done = await self._begin()
        if done < stage.iterations and not (enough and enough()):
            async with asyncio.TaskGroup() as others:
                occupancy = self.occupancy = Occupancy(self.schedule.environments)
                working = [others.create_task(self.environments.work(self.stock, occupancy)),
                           others.create_task(self.stock.judge())]
                if self.crew is not None:
                    working.append(others.create_task(self.crew.work()))
                try:
                    done = await self._updates(done, save_every, enough)
                finally:
                    for task in working:
                        task.cancel()
        if self.stock.leases.tickets:
            run.progress.note(f"{len(self.stock.leases.tickets)} groups were in play or on offer when stage "
                              f"{stage.name} ended; nothing was trained on them")
        stage.model.publish(stage.learner.version)
        stage.model.save(run.model_folder(stage.name))
        run.save(stage.name, stage.iterations, self.parts)

    async def _begin(self) -> int:
        """From a checkpoint, or from the stage's first weights; the number of updates that are done."""
        run, stage, stock = self.run, self.stage, self.stock
        if run.at is None or run.at[0] != stage.name:
            await self._publish()
            if isinstance(self.pool, Pinned):
                for proposal in range(min(self.schedule.max_lag + 1, stage.iterations)):
                    stock.open_proposal(proposal)
            run.save(stage.name, 0, self.parts)
            return 0
        state = run.found("stock")
        run.restore(self.parts)
        if isinstance(self.pool, Pinned):
            await self.pool.restore(state["versions"])
        else:
            await self._publish()
        bring_back(stock, state)
        if self.schedule.by_ticket:
            return run.at[1]
        return run.at[1] + await follow(stock, int(state["journal"]), self._step)

    async def _updates(self, done: int, save_every: int, enough: Callable[[], bool] | None) -> int:
        for update in range(done, self.stage.iterations):
            if enough is not None and enough():
                return update
            await self.run.heed(self.stage.name, update, self.parts)
            started = time.monotonic()
            lease, groups = await self.stock.take(update)
            self.waited_s = time.monotonic() - started
            await self._step(update, lease, groups)
            if (update + 1) % save_every == 0 and update + 1 < self.stage.iterations:
                self.run.save(self.stage.name, update + 1, self.parts)
        return self.stage.iterations

    async def _step(self, update: int, lease: Lease, groups: Sequence[Group]) -> None:
        """One update in a thread, its weights handed out, its groups settled, its numbers recorded."""
        stage, started = self.stage, time.monotonic()
        if stage.lr is not None:
            stage.learner.lr = stage.lr(update)
        seen: dict[str, float] = lags(groups, stage.policy, stage.learner.version)
        try:
            if groups:
                metrics = await asyncio.to_thread(learn, self.run, stage, update, groups)
            else:
                played = [ticket.group for ticket in lease.tickets]
                metrics = learned_nothing(self.run, stage, update, played, most=None)  # others are in play already
        except BaseException:
            self.stock.leases.release(lease)
            raise
        stage.learner.version += 1
        await self._publish()
        if self.schedule.by_ticket and self.stock.opened[0] < stage.iterations:
            self.stock.open_proposal(self.stock.opened[0])
        await self.stock.commit(lease)
        played = [ticket.group for ticket in lease.tickets]
        metrics |= {**played_metrics(played, time.monotonic() - started), **seen, **self._numbers()}
        self.run.recorder.metrics(update, metrics, stage=stage.name)
        self.run.progress.iteration(update, metrics)

    def _numbers(self) -> Metrics:
        stock = self.stock
        found = {
            **self.occupancy.shares(), "decoupled/waited_s": self.waited_s,
            "decoupled/open": float(len(stock.leases.tickets)), "decoupled/dead": float(stock.leases.settled["dead"]),
            "decoupled/stale": float(stock.leases.settled["stale"]),
            "decoupled/stale_episodes": float(stock.stale_episodes),
        }
        if isinstance(self.pool, Replicas):
            found["decoupled/fewest_serving"] = float(self.pool.fewest_serving)
        return found

    async def _publish(self) -> None:
        """Hands the present weights to those that sample."""
        version, weights = self.stage.learner.version, weights_of(self.stage.model.model)
        with Waiting("the learner", "the samplers", f"they take weights {version}"):
            if isinstance(self.pool, Pinned):
                await self.pool.keep(version, weights)
            else:
                await self.pool.roll(version, weights, at_once=self.schedule.at_once)

    def close(self) -> None:
        """Ends what was begun here."""
        self.pool.close()
        self.stock.journal.close()

