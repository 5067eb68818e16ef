"""Orders to a run at work: who may give them, when they are obeyed, and that a resumed run keeps what was set."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from polyturn.envs.arithmetic import arithmetic as suite
from polyturn.errors import BadInput, Stopped, UnknownName
from polyturn.protocols import Match
from polyturn.record.control import FILE, Control, ask, is_paused, orders
from polyturn.record.table import as_line
from polyturn.record.write import RunRecorder, open_run
from polyturn.types import Limits, Task


@pytest.fixture
def recorder(tmp_path: Path) -> RunRecorder:
    return open_run(tmp_path / "run", recipe="test")


class Saves:
    """Counts checkpoints."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_a_run_that_nobody_asks_goes_on(recorder: RunRecorder) -> None:
    save = Saves()
    await Control(recorder.folder).between("learn", 0, save)
    assert save.count == 0 and not (recorder.folder / FILE).exists()
    recorder.close()


async def test_checkpoint_and_limits(recorder: RunRecorder) -> None:
    control, save, notes = Control(recorder.folder), Saves(), []
    ask(recorder.folder, "checkpoint", by="me")
    ask(recorder.folder, "set", {"tokens": 64, "seconds": 1.5, "concurrency": 3})
    await control.between("learn", 4, save, note=notes.append)
    assert save.count == 1
    assert control.limits(Limits(tokens=9, env_steps=2)) == Limits(env_steps=2, tokens=64, seconds=1.5)
    assert control.concurrency(64) == 3
    assert [o.said for o in orders(recorder.folder)] == [
        "saved before iteration 4 of learn", "tokens 64, seconds 1.5, concurrency 3 from iteration 4 of learn on"]
    assert notes[0] == "saved before iteration 4 of learn (me)"
    ask(recorder.folder, "set", {"tokens": None})
    await control.between("learn", 5, save)
    assert control.limits(Limits(tokens=9)) == Limits(tokens=9, seconds=1.5)
    match = Match(suite(), Task("t", "f"), {}, limits=Limits(tokens=9))
    assert control.match(match) == replace(match, limits=Limits(tokens=9, seconds=1.5))
    ask(recorder.folder, "set", {"temperature": 0.5, "max_tokens": 7, "call_seconds": 2.5})
    await control.between("learn", 6, save)
    assert control.match(match) == replace(
        match, limits=Limits(tokens=9, seconds=1.5), temperature=0.5, max_tokens=7)
    assert control.call_seconds(600.0) == 2.5 and Control(recorder.folder).call_seconds(600.0) == 600.0
    assert save.count == 1  # each order once
    recorder.close()


async def test_while_episodes_are_only_played_a_stop_is_obeyed_and_the_rest_waits(recorder: RunRecorder) -> None:
    control, save = Control(recorder.folder), Saves()
    control.within("rating base", 1)
    ask(recorder.folder, "checkpoint")
    control.within("rating base", 2)
    control.within("rating base", 3)
    await control.between("learn", 0, save)
    assert save.count == 1
    ask(recorder.folder, "stop", by="me")
    with pytest.raises(Stopped, match=f"asked for by me; polyturn run --resume {recorder.folder} goes on"):
        control.within("rating base", 4)
    assert [order.said for order in orders(recorder.folder)] == [
        "saved before iteration 0 of learn", "stopped after episode 4 of rating base, which is played again"]
    assert save.count == 1
    recorder.close()


async def test_a_pause_lasts_until_it_is_ended_and_hears_other_orders(recorder: RunRecorder) -> None:
    told: list[bool] = []

    async def sleep(seconds: float) -> None:
        told.append(is_paused(recorder.folder, 1))
        ask(recorder.folder, ("checkpoint", "resume")[min(len(told) - 1, 1)])

    save = Saves()
    ask(recorder.folder, "pause")
    await Control(recorder.folder, sleep=sleep).between("learn", 2, save)
    assert told == [True, True] and save.count == 1 and not is_paused(recorder.folder, 1)
    recorder.close()


async def test_a_pause_that_was_taken_back_at_once_does_not_wait(recorder: RunRecorder) -> None:
    async def never(seconds: float) -> None:
        raise AssertionError("it waited")

    ask(recorder.folder, "pause")
    ask(recorder.folder, "resume")
    await Control(recorder.folder, sleep=never).between("learn", 0, Saves())
    recorder.close()


async def test_stop_saves_and_ends(recorder: RunRecorder) -> None:
    save = Saves()
    ask(recorder.folder, "stop", by="me")
    with pytest.raises(Stopped, match="saved and stopped before iteration 7 of learn, as asked for by me"):
        await Control(recorder.folder).between("learn", 7, save)
    assert save.count == 1
    recorder.close()


async def test_a_later_attempt_sets_again_what_was_set_and_obeys_no_old_order(recorder: RunRecorder) -> None:
    folder, save = recorder.folder, Saves()
    first = Control(folder, 1)
    for i, tokens in ((2, 10), (5, 20)):
        ask(folder, "set", {"tokens": tokens})
        await first.between("learn", i, save)
    ask(folder, "stop")  # not obeyed any more: the run was killed
    recorder.close("killed")
    with open_run(folder, resume=True) as again:
        second = Control(folder, again.attempt)
        seen = []
        for i in range(3, 7):
            await second.between("learn", i, save)
            seen.append(second.limits(Limits()).tokens)
        assert seen == [10, 10, 20, 20] and save.count == 0
    with open_run(folder, resume=True) as third:
        later = Control(folder, third.attempt)
        await later.between("after", 0, save)
        assert later.limits(Limits()).tokens == 20


def test_orders_that_make_no_sense(recorder: RunRecorder, tmp_path: Path) -> None:
    folder = recorder.folder
    with pytest.raises(UnknownName, match="did you mean 'pause'"):
        ask(folder, "puase")
    for settings in ({"tokens": 0.0}, {"tokens": 1.5}, {"tokens": float("nan")}, {"tokens": float("inf")},
                     {"tokens": 2.0**63}, {"tokens": 10**400}, {}):
        with pytest.raises(BadInput):
            ask(folder, "set", settings)
    with pytest.raises(UnknownName, match="tokens"):
        ask(folder, "set", {"token": 3})
    with pytest.raises(BadInput, match="expected no settings"):
        ask(folder, "stop", {"tokens": 3})
    with pytest.raises(BadInput, match="no run folder"):
        ask(tmp_path, "pause")
    recorder.close()
    with pytest.raises(BadInput, match=r"not at work \(finished\)"):
        ask(folder, "pause")
    assert orders(folder) == []


def test_many_may_ask_at_once_and_a_torn_line_costs_itself_only(recorder: RunRecorder) -> None:
    folder = recorder.folder
    ask(folder, "pause")
    with (folder / FILE).open("ab") as file:
        file.write(b'{"crc32":"00')  # a writer that was killed
    threads = [threading.Thread(target=ask, args=(folder, "checkpoint")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [o.id for o in orders(folder)] == list(range(1, 22))
    recorder.close()


@pytest.mark.parametrize("row", [
    {"x": 1}, {"ask": 3}, {"ask": {"id": 1}}, {"did": {"id": 7, "stage": "", "iteration": 0, "attempt": 1, "said": ""}},
    {"ask": {"id": [1], "command": "pause", "settings": {}, "time": 0, "by": ""}},
    {"ask": {"id": 1, "command": "pause", "settings": 5, "time": 0, "by": ""}},
])
def test_orders_that_are_none_are_named(tmp_path: Path, row: dict[str, object]) -> None:
    """Whoever may write the folder may ask; but a file of others is checked, checksums or not."""
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / FILE).write_bytes(as_line(row))
    with pytest.raises(BadInput, match="line 1: is no order"):
        orders(tmp_path / "run")
