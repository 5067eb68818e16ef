"""inspect logs (EvalLog version 2): a sample is an episode, an epoch a trial; ``.json`` both ways, ``.eval`` in.

What inspect says of the whole log (its spec, plan, results) stays with the first sample. Events, stores and usage of a
sample are kept aside; its messages, scores, limits and errors are read.
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polyturn.errors import BadInput
from polyturn.record.formats.carry import KEY, carried, is_carried, unpacked
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field, parsed
from polyturn.record.formats.dialogue import (
    Dialogue,
    dialogues,
    episode_of,
    identity,
    rows,
    shown,
    trajectory_of,
)
from polyturn.record.formats.files import MOST_BYTES
from polyturn.record.formats.inspect_messages import message_dict, message_of, whole_text
from polyturn.types import Episode, Finding, Message, Score, Stop, Task, Turn

NAME = "inspect"
ZSTD = 93
"""How zip names the packing that inspect uses."""
LETTERS: Mapping[str, float] = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""What inspect's letters are worth: correct, incorrect, partly, no answer."""
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, RuntimeError,
          MemoryError)
"""What unpackers raise for bytes that are broken, locked, or packed in another way (which is a RuntimeError)."""
_MEND = "inspect log convert --to json makes a .json of it"
_LIMITS: Mapping[str, str] = {"message": "model_calls", "token": "tokens", "time": "seconds", "working": "seconds",
                              "cost": "cost", "turn": "model_calls", "operator": "operator", "custom": "custom",
                              "context": "context"}


def opened(path: Path, bad: list[str] | None) -> list[Field] | None:
    """The log in an ``.eval`` file, a zip of JSON members; None for a file of another ending.

    Raises: BadInput for an archive that is none, that would unpack to more than two gigabytes, or that is packed in a
    way that this Python cannot read.
    """
    if path.suffix != ".eval":
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            members = {item.filename: item for item in archive.infolist()}
            size = sum(item.file_size for item in members.values())
            if size > MOST_BYTES:
                raise BadInput(f"{path} would unpack to {size} bytes; at most {MOST_BYTES} are read")
            names = [name for name in members if name.startswith("samples/") and name.endswith(".json")]
            if "header.json" not in members:
                raise BadInput(f"{path} holds no header.json: the run that wrote it was cut off; inspect log recover")
            log, *samples = [_member(path, archive, members[name]) for name in ("header.json", *names)]
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{path}: cannot be unpacked ({_said(error)}); {_MEND}") from None
    return [Field({**Field(log, str(path)).object(), "samples": samples}, str(path))]


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """The JSON value of a member. Raises: BadInput that names it, also where it is packed in a way that no reader here
    knows, is locked with a password, or breaks off."""
    where = f"{path}, {ascii(member.filename)[1:-1]}"
    try:
        data = _unpacked(path, archive, member)
    except BROKEN as error:
        raise BadInput(f"{where}: cannot be unpacked ({_said(error)}); {_MEND}") from None
    return parsed(data, where)


def _unpacked(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member; those packed with zstd, which ``zipfile`` does not know, by way of pyarrow."""
    if member.compress_type != ZSTD:
        return archive.read(member)
    import pyarrow

    with path.open("rb") as file:
        file.seek(member.header_offset)
        names, extra = struct.unpack("<26x2H", file.read(30))
        file.seek(names + extra, 1)
        packed = pyarrow.BufferReader(file.read(member.compress_size))
    data: bytes = pyarrow.CompressedInputStream(packed, "zstd").read(member.file_size + 1)
    if zlib.crc32(data) != member.CRC:
        raise OSError(f"the checksum of {member.filename} does not match")
    return data


def _said(error: BaseException) -> str:
    """An error in one line; some of these say nothing but their kind."""
    return " ".join(str(error).split()) or type(error).__name__


def split(document: Field) -> list[Field]:
    """One record a sample: ``{"log": what is said of all, with the first, "sample": ...}``."""
    if document.get("version") is None or document["version"].whole() != 2:
        raise BadInput(f"{document.where}: expected a log of version 2; inspect log convert makes one")
    document["eval"]["model"].text()
    samples = document.get("samples")
    found = [] if samples is None else samples.items()
    if not found:
        raise BadInput(f"{document.where}.samples: is empty; expected a sample")
    header = {key: value for key, value in document.value.items() if key != "samples"}
    return [Field({"log": header if number == 0 else None, "sample": sample.value}, sample.where)
            for number, sample in enumerate(found)]


def joined(records: Sequence[Any]) -> Iterator[Any]:
    """The logs that the records are of: one for each that was imported, one for all that was played here."""
    logs: list[dict[str, Any]] = []
    for record in records:
        made = record.get("made", False)
        if not logs or (record["log"] is not None and not made) or made != logs[-1]["made"]:
            logs.append({"made": made, "log": record["log"] or _header(record["sample"]), "samples": []})
        logs[-1]["samples"].append(record["sample"])
    for log in logs:
        whole = {**log["log"], "samples": log["samples"]}
        yield {**whole, "results": _results(log["samples"])} if log["made"] else whole


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a sample."""
    given = Field(record.value["sample"], record.where)
    metadata = given.get("metadata")
    attached = given.get("attachments")
    texts = {} if attached is None else attached.object()
    held = None if metadata is None else metadata.object().get(KEY)
    full = {key: whole_text(value, texts) if key in ("input", "messages", "output") else value
            for key, value in given.value.items()}
    sample = given.get("messages")
    messages = [message_of(item, number, store, texts) for number, item in enumerate(
        [] if sample is None else sample.items())]
    whole = unpacked(held, full, NAME, lambda e: [made["sample"] for made in records([e], Give(store))], record.where,
                     store)
    if whole is not None:
        return [whole]
    epoch = given["epoch"].whole()
    if epoch < 1:
        raise BadInput(f"{given.where}.epoch: is {epoch}; expected a number from 1 on")
    stop, error = _stop(given)
    scores = _scores(given.get("scores"))
    name = str(given["id"].value)
    uuid = given.get("uuid")
    trajectory = trajectory_of(messages, policy=_model(given), stop=stop)
    return [episode_of(
        trajectory, id=identity(given.value) if uuid is None else uuid.text(), format=NAME, trial=epoch - 1,
        task=Task(name, NAME, {"input": given["input"].value, "target": given["target"].value}),
        scores={} if stop.kind == "error" else scores, stop=stop, error=error,
        started=_seconds(given.get("started_at")), ended=_seconds(given.get("completed_at")),
    )]


def _model(sample: Field) -> str:
    output = sample.get("output")
    model = None if output is None else output.get("model")
    return NAME if model is None or not model.text() else model.text()


def _stop(sample: Field) -> tuple[Stop, str | None]:
    error, limit = sample.get("error"), sample.get("limit")
    if error is not None:
        return Stop("error", error["message"].text()), error["message"].text()
    if limit is not None:
        kind = limit["type"].text()
        return Stop("budget", _LIMITS.get(kind, kind)), None
    return Stop("done"), None


def _scores(given: Field | None) -> dict[str, Score]:
    """Numbers and inspect's letters are values; any other value abstains here and is kept aside."""
    found = {}
    for name in {} if given is None else given.object():
        score = given.get(name) if given is not None else None
        if score is None:
            continue
        value, why, answer = score["value"].value, score.get("explanation"), score.get("answer")
        number = LETTERS.get(value) if isinstance(value, str) else (
            float(value) if isinstance(value, int | float) else None)
        findings = [] if why is None and answer is None else [Finding(
            "answer", value=None if answer is None else answer.text(), reason="" if why is None else why.text(),
            source=name)]
        found[name] = Score(number, None if number is None else number == 1.0, findings=tuple(findings))
    return found


def _seconds(given: Field | None) -> float:
    if given is None:
        return 0.0
    try:
        when = datetime.fromisoformat(given.text().replace("Z", "+00:00"))
    except ValueError:
        raise BadInput(f"{given.where}: {given.value!r} is no ISO 8601 time") from None
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


# ---------------------------------------------------------------- out


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One sample an episode, with all that the first seat that is shown saw and said; the whole episode stands in the
    sample's metadata unless a bare export was asked for."""
    for episode in group:
        chosen = next(_shown(episode, give), None)
        if chosen is None:
            continue
        sample = _sample(episode, chosen, give.store)
        if is_carried(episode, NAME, give.bare):
            sample["metadata"] = {KEY: carried(episode, give.store, chosen.messages)}
        record = {"log": _header(sample), "sample": sample}
        yield record if _foreign(episode) else {**record, "made": True}


def _foreign(episode: Episode) -> bool:
    """Whether an episode is a sample that inspect wrote."""
    source = episode.source or {}
    return source.get("format") == NAME and not source.get("carried")


def _shown(episode: Episode, give: Give) -> Iterator[Dialogue]:
    if _foreign(episode):
        yield from rows(episode, give.seats)
        return
    for trajectory in shown(episode, give.seats):
        yield _whole(dialogues(trajectory))


def _whole(found: Sequence[Dialogue]) -> Dialogue:
    """All contexts of a seat as one dialogue, every message where it was first shown."""
    messages: list[Message] = []
    turns: dict[int, Turn] = {}
    for dialogue in found:
        known = {message.id for message in messages}
        for place, message in enumerate(dialogue.messages):
            if message.id not in known or not message.id:
                if place in dialogue.turns:
                    turns[len(messages)] = dialogue.turns[place]
                messages.append(message)
    return Dialogue(found[0].trajectory, tuple(messages), turns, frozenset(turns))


def _sample(episode: Episode, dialogue: Dialogue, store: Store) -> dict[str, Any]:
    names = {call.id: call.name for message in dialogue.messages for call in message.calls}
    messages = [message_dict(message, store, names) for message in dialogue.messages]
    first = next((i for i, message in enumerate(dialogue.messages) if message.role == "assistant"), len(messages))
    payload = episode.task.payload
    sample: dict[str, Any] = {
        "id": episode.task.id if _foreign(episode) else episode.group or episode.task.id, "epoch": episode.trial + 1,
        "input": payload.get("input", messages[:first]), "target": _target(payload.get("target", "")),
        "messages": messages, "output": _output(dialogue, messages),
        "scores": {name: _score(score, name) for name, by_seat in episode.scores.items()
                   if (score := by_seat.get(dialogue.trajectory.seat.split("/")[0])) is not None},
        "metadata": {}, "uuid": episode.id,
    }
    if episode.started:
        sample["started_at"] = datetime.fromtimestamp(episode.started, UTC).isoformat()
    if episode.ended:
        sample["completed_at"] = datetime.fromtimestamp(episode.ended, UTC).isoformat()
    if episode.stop.kind == "error":
        said = episode.error or episode.stop.reason
        sample["error"] = {"message": said, "traceback": said, "traceback_ansi": said}
    elif episode.stop.kind in ("budget", "truncated"):
        kinds = {"model_calls": "message", "tokens": "token", "seconds": "time"}
        sample["limit"] = {"type": kinds.get(episode.stop.reason.split(":")[0], "custom"), "limit": 0}
    return sample


def _target(value: Any) -> Any:
    return value if isinstance(value, str) or (isinstance(value, list) and all(
        isinstance(item, str) for item in value)) else str(value)


def _output(dialogue: Dialogue, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said = [i for i, message in enumerate(dialogue.messages) if message.role == "assistant"]
    if not said:
        return {"model": dialogue.trajectory.policy, "choices": []}
    turn = dialogue.turns.get(said[-1])
    reason = {"length": "max_tokens", "budget": "max_tokens", "tool": "tool_calls"}.get(
        "stop" if turn is None else turn.finish, "stop")
    return {"model": dialogue.trajectory.policy, "choices": [{"message": messages[said[-1]], "stop_reason": reason}]}


def _score(score: Score, name: str) -> dict[str, Any]:
    """A number, or ``N`` (no answer) of a verifier that abstained."""
    found: dict[str, Any] = {"value": "N" if score.value is None else score.value}
    for finding in score.findings:
        if finding.name == "answer" and finding.source == name:
            found |= {} if finding.value is None else {"answer": str(finding.value)}
            found |= {"explanation": finding.reason} if finding.reason else {}
    return found


def _header(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a whole log that was played here."""
    created = sample.get("started_at") or datetime.fromtimestamp(0, UTC).isoformat()
    return {"version": 2, "status": "success", "eval": {
        "created": created, "task": "polyturn", "dataset": {}, "model": sample["output"]["model"], "config": {}}}


def _results(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each verifier over the samples that it scored and that did not break."""
    given: dict[str, list[float]] = {}
    whole = [sample for sample in samples if "error" not in sample]
    for sample in whole:
        for name, score in sample["scores"].items():
            if not isinstance(score["value"], str):
                given.setdefault(name, []).append(score["value"])
    return {"total_samples": len(samples), "completed_samples": len(whole), "scores": [
        {"name": name, "scorer": name, "metrics": {"mean": {"name": "mean", "value": sum(v) / len(v)}}}
        for name, v in given.items()]}
