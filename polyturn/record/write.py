"""The recorder: every turn on disk as soon as it is sampled, so that no kill can lose what was paid for.

Five append-only tables in the run folder (``turns``, ``episodes``, ``scores``, ``credit``, ``metrics``, each a
``.jsonl`` file of :mod:`polyturn.record.table`), beside ``run.json``. What is promised, and what it costs:

- Each call writes its lines with one ``write`` before it returns: SIGKILL of the process loses nothing returned from.
- A power cut loses at most ``sync_every_s`` seconds: tables are synced at the end of an episode when the last sync is
  that old, and at every :meth:`RunRecorder.commit` and ``close``.
- Calls from several threads are written one after the other.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyturn.errors import BadInput, NotFinite
from polyturn.media import Media
from polyturn.protocols import Scores
from polyturn.record.run import (
    Attempt,
    Lock,
    RunInfo,
    Status,
    code_sha256,
    is_locked,
    read_info,
    versions,
    write_info,
    write_whole,
)
from polyturn.record.shape import column_name, columns, shape_of, written
from polyturn.record.table import TABLES, Table, as_line, check_mark
from polyturn.record.waits import WaitsFile
from polyturn.types import EMPTY, Episode, Message, Score, Seat, Span, Trajectory, Turn
from polyturn.waits import Waiting

if TYPE_CHECKING:
    from polyturn.chat import Chat

KNOWN = 5_000
"""Of so many episodes at least, those that ended last, it is known by number which play a row about them means. A row
about an older one names none, and readers then take the last play of that id, which is the one it means."""
TURN, MESSAGE, SPAN = shape_of(Turn), shape_of(Message), shape_of(Span)
_TURN_FIELDS = columns(Turn)
_EPISODE_FIELDS = {name: shape for name, shape in columns(Episode).items() if name != "trajectories"}
_STOP, _PARENT, _TOOLS = (columns(Trajectory)[name] for name in ("stop", "parent", "tools"))
_BY_SEAT, _METRICS = shape_of(Mapping[Seat, Score]), shape_of(Mapping[str, float])


class _Play:
    """What is on disk of one episode that has not ended: compared by identity when it does."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.turns: dict[int, Turn] = {}
        self.messages: dict[tuple[str, str, int], Message] = {}
        self.spans: dict[tuple[str, str, int], Span] = {}


class RunRecorder:
    """Records a run into its folder; a :class:`polyturn.protocols.Recorder`. Holds the folder's lock until closed.

    Every recorder on a folder is a new *attempt*, numbered in ``run.json`` and in each row. Use :func:`open_run` to say
    what is run. ``media`` keeps the pictures and sounds that messages name. Raises: BadInput when another process
    writes there, or for values that have no exact form on disk; NotFinite for a number that is not finite;
    RecordFailed when the disk is full.
    """

    def __init__(
        self, folder: Path | str, *, info: RunInfo | None = None, clock: Callable[[], float] = time.time,
        sync_every_s: float = 1.0,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.folder)
        self.media = Media(self.folder / "media")
        self._clock = clock
        self._sync_every_s = sync_every_s
        self._synced = time.monotonic()
        self._writing = threading.Lock()
        self._open: dict[str, _Play] = {}
        self._plays: dict[str, int] = {}
        self._older: dict[str, int] = {}
        self._updates = self._count = 0
        self.taken = 0
        """How many turns this attempt wrote."""
        try:
            self.info = self._begun(info)
            self._tables = {name: Table(self.folder / f"{name}.jsonl") for name in TABLES}
        except BaseException:
            self._lock.free()
            raise
        self.attempt = self.info.attempts[-1].number
        self._waits = WaitsFile(self.folder, self.attempt)

    def _begun(self, info: RunInfo | None) -> RunInfo:
        now = self._clock()
        if info is None:
            known = (self.folder / "run.json").is_file()
            info = read_info(self.folder) if known else RunInfo(self.folder.name, started=now, versions=versions())
        before = tuple(replace(a, status="killed") if a.status == "running" else a for a in info.attempts)
        attempt = Attempt(len(before) + 1, os.getpid(), platform.node(), now)
        info = replace(info, attempts=(*before, attempt))
        write_info(self.folder, info)
        return info

    # ------------------------------------------------------------ the protocol

    def turn(self, episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span]) -> None:
        """Writes a turn with the messages and spans that are new to its trajectory, by index."""
        with self._writing:
            play = self._play(episode_id, turn.at)
            self._append("turns", {
                "attempt": self.attempt, "play": play.number, **turn_row(episode_id, turn, messages, spans),
            })
            play.turns[turn.at] = turn
            self.taken += 1
            play.messages.update({(turn.seat, turn.policy, i): m for i, m in messages.items()})
            play.spans.update({(turn.seat, turn.policy, i): s for i, s in spans.items()})

    def episode(self, episode: Episode) -> None:
        """Writes the end of an episode: all that its turns did not say, and what changed since they were written."""
        with self._writing:
            play = self._open.get(episode.id) or self._new_play(episode.id)
            what = f"episode {episode.id}"
            row = {column_name(name, shape): written(shape, getattr(episode, name), f"{what}.{name}")
                   for name, shape in _EPISODE_FIELDS.items()}
            rest = [_rest(play, trajectory, what) for trajectory in episode.trajectories]
            self._append("episodes", {
                "attempt": self.attempt, "play": play.number, "episode": row, "trajectories": rest,
            })
            self._open.pop(episode.id, None)
            self._know(episode.id, play.number)
            if time.monotonic() - self._synced >= self._sync_every_s:
                self._sync()

    def scores(self, verifier: str, scores: Scores) -> None:
        """Writes what one verifier gave, one row an episode."""
        with self._writing:
            self._append("scores", *({
                "attempt": self.attempt, "play": self._number(episode_id), "episode": episode_id,
                "verifier": verifier, "scores": written(_BY_SEAT, by_seat, f"{verifier}, episode {episode_id}"),
            } for episode_id, by_seat in scores.items()))

    def unscored(self, verifier: str, failed: Mapping[str, tuple[str, str]]) -> None:
        """Writes which episodes one verifier could not score, one row an episode: from here on they end in an error,
        until a later row of the same verifier scores them. ``failed`` = id -> (reason, traceback)."""
        with self._writing:
            self._append("scores", *({
                "attempt": self.attempt, "play": self._number(episode_id), "episode": episode_id,
                "verifier": verifier, "scores": {}, "reason": reason, "error": trace,
            } for episode_id, (reason, trace) in failed.items()))

    def credit(self, iteration: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the credit of one update, one row a span (:func:`polyturn.record.credit.credit_rows`)."""
        with self._writing:
            _refuse_infinite(rows)
            self._updates += 1
            self._append("credit", *(
                {"attempt": self.attempt, "update": self._updates, "iteration": iteration,
                 "play": self._number(row["episode"]), **row} for row in rows
            ))

    def metrics(self, iteration: int, values: Mapping[str, float], *, stage: str = "") -> None:
        """Writes one row of named numbers."""
        with self._writing:
            self._append("metrics", {
                "attempt": self.attempt, "stage": stage, "iteration": iteration, "time": self._clock(),
                "values": written(_METRICS, values, f"metrics of iteration {iteration}"),
            })

    def tokenizer(self, chat: Chat | None) -> None:
        """Keeps a chat's tokenizer under its hash (``PolicyInfo.tokenizer_sha256``), so that the ids of the record stay
        readable. Nothing for None, for a tokenizer without a text of its own, and for one that is kept."""
        text = None if chat is None else chat.tokenizer_json
        if chat is None or text is None:
            return
        path = self.folder / "tokenizers" / f"{chat.tokenizer_sha256}.json"
        with self._writing:
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                write_whole(path, text.encode())

    # ------------------------------------------------------------ checkpoints

    def commit(self, mark: str | int) -> None:
        """Marks that everything so far belongs to a checkpoint, and syncs. Call it just before the checkpoint is saved
        under the same name; the newest mark of a name counts."""
        with self._writing:
            for table in self._tables.values():
                table.append([as_line({"mark": str(mark), "attempt": self.attempt, "time": self._clock()})])
            self._sync()

    def rewind(self, mark: str | int | None) -> None:
        """Makes everything void that was recorded after :meth:`commit` of ``mark`` (None: everything there is), since
        the run goes on from that checkpoint. Rows stay in the tables and are no longer read.

        Raises: UnknownName for a mark that was never committed.
        """
        name = None if mark is None else str(mark)
        with self._writing:
            if name is not None:
                for table in self._tables.values():
                    check_mark(table.path, name)
            for table in self._tables.values():
                table.append([as_line({"rewind": name, "attempt": self.attempt, "time": self._clock()})])
            self._sync()

    def close(self, status: Status = "finished", reason: str = "") -> None:
        """Syncs, writes how the attempt ended into ``run.json`` and frees the folder. Further calls do nothing."""
        with self._writing:
            if not self._tables:
                return
            tables, self._tables = self._tables, {}
            try:
                for table in tables.values():
                    table.close()
                self._waits.close()
                ended = replace(self.info.attempts[-1], ended=self._clock(), status=status, reason=reason)
                self.info = replace(self.info, attempts=(*self.info.attempts[:-1], ended))
                write_info(self.folder, self.info)
            finally:
                self._lock.free()

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Closes; an exception on its way out makes the attempt ``failed`` (``stopped`` for what ends a program). Where
        that cannot be written, the exception goes on as it came, and the attempt reads as ``killed``."""
        if kind is None:
            self.close()
            return
        with suppress(OSError):
            self.close("failed" if issubclass(kind, Exception) else "stopped", f"{kind.__name__}: {error}")

    # ------------------------------------------------------------ inside

    def _append(self, table: str, *rows: Mapping[str, Any]) -> None:
        if not self._tables:
            raise BadInput(f"the record of {self.folder} is closed; open the run again with resume=True")
        lines = [as_line(row, table) for row in rows]
        with Waiting("the record", "the disk", f"{table}.jsonl takes {len(lines)} rows"):
            self._tables[table].append(lines)

    def _sync(self) -> None:
        with Waiting("the record", "the disk", "the tables are synced"):
            for table in self._tables.values():
                table.sync()
        self._synced = time.monotonic()

    def _play(self, episode_id: str, at: int) -> _Play:
        """The open play of an episode; a turn that is already there begins the episode anew (a retry)."""
        play = self._open.get(episode_id)
        if play is None or at in play.turns:
            play = self._open[episode_id] = self._new_play(episode_id)
        return play

    def _know(self, episode_id: str, number: int) -> None:
        """Keeps which play an episode was; in two halves, the older of which is dropped whole."""
        if len(self._plays) >= KNOWN and episode_id not in self._plays:
            self._plays, self._older = {}, self._plays
        self._plays[episode_id] = number

    def _number(self, episode_id: str) -> int | None:
        return self._plays.get(episode_id, self._older.get(episode_id))

    def _new_play(self, episode_id: str) -> _Play:
        self._count += 1
        return _Play(self._count)


def open_run(
    folder: Path | str, *, recipe: str = "", text: str = "", settings: Mapping[str, Any] = EMPTY,
    seeds: Mapping[str, Any] = EMPTY, resume: bool = False, clock: Callable[[], float] = time.time,
) -> RunRecorder:
    """A recorder on a new folder, or with ``resume`` on a folder that already holds a run.

    Raises: BadInput for a folder that holds something else, a run (without ``resume``) or none (with it), and for one
    that another process writes.
    """
    folder = Path(folder)
    if resume:
        return RunRecorder(folder, info=read_info(folder), clock=clock)
    held = sorted(p.name for p in folder.iterdir() if p.name != "lock") if folder.exists() else []
    if "run.json" in held:
        info = read_info(folder)
        status = "being written" if is_locked(folder) else info.status
        raise BadInput(f"{folder} already holds a run of {info.recipe or 'an unnamed recipe'} ({status}); continue it "
                       "with --resume, or choose another folder")
    if held:
        raise BadInput(f"{folder} holds {', '.join(held[:5])} but no run.json, so it is no run, or a half-written one; "
                       "choose another folder, or empty this one")
    info = RunInfo(folder.name, recipe, text, settings, seeds, versions(), code_sha256(), clock())
    return RunRecorder(folder, info=info, clock=clock)


def rewind(folder: Path | str, mark: str | int | None) -> None:
    """Makes everything void that a run recorded after the commit of ``mark``; see :meth:`RunRecorder.rewind`."""
    with RunRecorder(folder) as recorder:
        recorder.rewind(mark)


def turn_row(
    episode_id: str, turn: Turn, messages: Mapping[int, Message], spans: Mapping[int, Span],
) -> dict[str, Any]:
    """A turn as it stands on disk. Raises: NotFinite, BadInput for what has no exact form there, with its place."""
    return {
        "episode": episode_id, "turn": written(TURN, turn, f"episode {episode_id}, turn at {turn.at}"),
        "messages": [_at(MESSAGE, i, m, f"episode {episode_id}, message") for i, m in messages.items()],
        "spans": [_span(i, s, f"episode {episode_id}, span") for i, s in spans.items()],
    }


def _refuse_infinite(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        for name, value in row.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isinf(value).any():
                raise NotFinite(f"credit of episode {row['episode']}, span {row['span']}: {name} is infinite")


def _at(shape: Any, index: int, value: Any, what: str) -> dict[str, Any]:
    return {"index": index, **written(shape, value, f"{what} {index}")}


def _span(index: int, span: Span, what: str) -> dict[str, Any]:
    for name, values in (("logprobs", span.logprobs), ("support", span.support)):
        if values is not None and len(values) != len(span.ids):
            raise BadInput(f"{what} {index}: {len(values)} {name} for {len(span.ids)} ids; expected one for each")
    return _at(SPAN, index, span, what)


def _rest(play: _Play, trajectory: Trajectory, what: str) -> dict[str, Any]:
    """What of a trajectory is not in the turns table as it stands now."""
    who = (trajectory.seat, trajectory.policy)
    what = f"{what}, seat {trajectory.seat}"
    messages = [_at(MESSAGE, i, m, f"{what}, message") for i, m in enumerate(trajectory.messages)
                if not _equal(play.messages.get((*who, i)), m)]
    spans = [_span(i, s, f"{what}, span") for i, s in enumerate(trajectory.spans)
             if not _equal(play.spans.get((*who, i)), s)]
    return {
        "seat": trajectory.seat, "policy": trajectory.policy,
        "parent": written(_PARENT, trajectory.parent, f"{what}.parent"),
        "stop": written(_STOP, trajectory.stop, f"{what}.stop"),
        "tools": written(_TOOLS, trajectory.tools, f"{what}.tools"),
        "turns": [_changes(play.turns.get(turn.at), turn, f"{what}, turn at {turn.at}") for turn in trajectory.turns],
        "message_count": len(trajectory.messages), "messages": messages,
        "span_count": len(trajectory.spans), "spans": spans,
    }


def _changes(before: Turn | None, turn: Turn, what: str) -> dict[str, Any]:
    """The turn's place and the fields that differ from what was written; all of them if none was."""
    if before is None or (before.seat, before.policy) != (turn.seat, turn.policy):
        return {"new": True, **written(TURN, turn, what)}
    changed = [] if before is turn else [n for n in _TURN_FIELDS if getattr(before, n) != getattr(turn, n)]
    return {"at": turn.at, **{
        column_name(name, _TURN_FIELDS[name]): written(_TURN_FIELDS[name], getattr(turn, name), f"{what}.{name}")
        for name in changed
    }}


def _equal(before: object, after: object) -> bool:
    """Identity, or equality field by field where fields may be arrays."""
    if before is after:
        return True
    if before is None or type(before) is not type(after):
        return False
    return all(_same(getattr(before, f.name), getattr(after, f.name)) for f in fields(before))  # type: ignore[arg-type]


def _same(before: object, after: object) -> bool:
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        return before.dtype == after.dtype and np.array_equal(before, after, equal_nan=before.dtype.kind == "f")
    return before is after or (type(before) is type(after) and before == after)
