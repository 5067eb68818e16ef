"""``audit_run``: the whole audit of a run, from its record alone.

Every path, every medium and every row of credit is checked (:mod:`polyturn.audit.paths`, :mod:`polyturn.audit.credit`).
Then every update is laid out again from the episodes and shown to each detector of :mod:`polyturn.audit.detectors`, and
what was measured while steps were made is judged (:mod:`polyturn.audit.measured`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from polyturn.audit.credit import CreditRows
from polyturn.audit.detectors import BY_UPDATE, LOOKS_FOR
from polyturn.audit.ends import knows_ends
from polyturn.audit.equal import Signal
from polyturn.audit.found import fault
from polyturn.audit.measured import measured_faults, measurements
from polyturn.audit.paths import leaves, media_faults, path_faults
from polyturn.audit.update import Key, Row, key_of, rebuilt
from polyturn.errors import BadInput, PolyturnError
from polyturn.media import Media
from polyturn.record.read import count_turns, read_metrics, read_plays
from polyturn.types import Episode, Finding

UpdateKey: TypeAlias = tuple[int, int, str]
"""Attempt, number of the update, policy."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """``tokens`` trained tokens on ``paths`` leaf paths and ``updates`` updates were checked; no ``faults`` = all of
    them hold."""

    tokens: int
    paths: int
    updates: int
    faults: list[Finding]
    checks: Mapping[str, int]
    """Check -> the faults that it found."""
    waivers: Mapping[str, int]
    """Named waiver -> the number of trained tokens it let pass (``observations``: beside which it let others pass)."""
    signal: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Stage -> groups that all scored alike, and all groups."""
    unchecked: tuple[str, ...] = ()
    """What the record does not say, so that it could not be checked."""

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "tokens": self.tokens, "paths": self.paths, "updates": self.updates,
            "faults": [{**asdict(found), "target": dict(found.target)} for found in self.faults],
            "checks": dict(self.checks), "waivers": dict(self.waivers), "unchecked": list(self.unchecked),
            "signal": {stage: {"equal": equal, "groups": groups} for stage, (equal, groups) in self.signal.items()},
        }


def audit_run(folder: Path | str) -> AuditReport:
    """Checks the record of a run. Raises: BadInput for a folder without a run and for a damaged line."""
    credit, steps = CreditRows(Path(folder)), _Steps()
    steps.expect(credit)
    found: dict[str, list[Finding]] = {name: [] for name in LOOKS_FOR}
    paths = 0
    recorded, media = count_turns(folder), Media(Path(folder) / "media")
    for key, episode in read_plays(folder):
        broken = list(path_faults(episode))
        found["paths"] += [*_lost_turns(recorded.get(key, 0), episode), *broken, *media_faults(episode, media)]
        paths += sum(len(leaves(trajectory)) for trajectory in episode.trajectories)
        for row in credit.take(key, episode.id):
            found["credit"] += credit.faults(row, episode)
        for name, finding in steps.give(key, episode, sound=not broken):
            found[name].append(finding)
    found["credit"] += credit.left_over()
    found["no_signal"] += [finding for signal in steps.signal.values() for finding in signal.faults()]
    metrics = read_metrics(folder)
    for name, finding in measured_faults(metrics):
        found[name].append(finding)
    unchecked = list(steps.unchecked)
    if credit.versionless:
        unchecked.append("versions: credit rows name no weights version")
    unchecked += [f"{name}: no step of this run was measured" for name, rows in measurements(metrics).items()
                  if steps.updates and not rows]
    return AuditReport(
        credit.tokens, paths, steps.updates, [finding for each in found.values() for finding in each],
        {name: len(each) for name, each in found.items()}, credit.waivers,
        {stage: (signal.equal, signal.groups) for stage, signal in steps.signal.items() if signal.groups},
        tuple(unchecked),
    )


def _lost_turns(recorded: int, episode: Episode) -> Iterator[Finding]:
    turns = sum(len(trajectory.turns) for trajectory in episode.trajectories)
    if recorded > turns:
        yield fault("lost_turn", {"episode": episode.id}, recorded - turns,
                    "turns were recorded when they were sampled and are not in the episode")


class _Steps:
    """The updates of a run, each laid out as soon as all of its episodes were read, then let go."""

    def __init__(self) -> None:
        self.signal: dict[str, Signal] = {}
        self.updates = 0
        self.unchecked: dict[str, None] = {}
        self._rows: dict[UpdateKey, list[Row]] = {}
        self._wanted: dict[UpdateKey, set[Key]] = {}
        self._wants: dict[Key, list[UpdateKey]] = {}
        self._held: dict[Key, Episode] = {}
        self._broken: set[UpdateKey] = set()
        self._first: dict[tuple[int, str, int | None], int] = {}
        """Attempt, policy and version -> its first update."""

    def expect(self, credit: CreditRows) -> None:
        """Notes which episodes each update needs."""
        for key, rows in credit.rows.items():
            for row in rows:
                update = (row["attempt"], row["update"], row["policy"])
                self._rows.setdefault(update, []).append(row)
                self._wanted.setdefault(update, set()).add(key)
                version = (row["attempt"], row["policy"], row.get("version"))
                self._first[version] = min(row["update"], self._first.get(version, row["update"]))
        for update, keys in self._wanted.items():
            for key in keys:
                self._wants.setdefault(key, []).append(update)

    def give(self, play: tuple[int, int], episode: Episode, *, sound: bool) -> Iterator[tuple[str, Finding]]:
        """Takes an episode, and yields what is wrong with the updates that it completes: the check's name, a finding.
        With an episode whose paths are not ``sound`` an update cannot be laid out again."""
        for key in (play, episode.id):
            for update in self._wants.get(key, ()):
                self._held[key] = episode
                self._wanted[update].discard(key)
                self._broken |= set() if sound else {update}
                if not self._wanted[update]:
                    rows = self._rows.pop(update)
                    yield from self._checked(rows, sound=update not in self._broken)
                    self._let_go(rows)

    def _let_go(self, rows: list[Row]) -> None:
        """Forgets the episodes of an update that no other update waits for."""
        for key in {key_of(row) for row in rows}:
            if not any(self._wanted[update] for update in self._wants[key]):
                self._held.pop(key, None)

    def _checked(self, rows: list[Row], *, sound: bool) -> Iterator[tuple[str, Finding]]:
        try:
            if not sound:
                raise BadInput("an episode's paths are broken")
            version = (rows[0]["attempt"], rows[0]["policy"], rows[0]["version"])
            update = rebuilt(rows, self._held, first=self._first[version] == rows[0]["update"])
        except PolyturnError as error:
            where = f"iteration {rows[0]['iteration']} of stage {rows[0]['stage'] or 'none'}"
            self.unchecked[f"{where} cannot be laid out again: {error}"] = None
            return
        self.updates += 1
        self.signal.setdefault(update.stage, Signal()).see(update)
        if not knows_ends(update):
            self.unchecked["untrained_end, beyond_end: a cast does not say which ids end a reply"] = None
        for name, detector in BY_UPDATE.items():
            yield from ((name, finding) for finding in detector(update))
