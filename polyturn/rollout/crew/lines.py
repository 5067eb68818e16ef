"""What workers and the process that leads them say to each other: MessagePack of known types, by msgspec.

A frame is one byte that names the kind of message, then its fields. Arrays travel as their bytes, so that token ids and
log-probabilities come back bit for bit. What a worker says is checked by the types of our nouns as it is read, and
never unpickled. Two fields hold pickles, of the way *to* the workers alone: suites, and who sits at a match.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from polyturn.errors import BadInput
from polyturn.protocols import Completion, Match, Piece
from polyturn.rollout.episode import Place
from polyturn.rollout.worker import packed
from polyturn.types import Episode, Message, Sampling, Span, Tool, Turn

FRAME_BYTES: Final = 2**28
"""The longest frame that is read."""
_ARRAY: Final = 1
_DTYPES: Final = ("<i4", "<i8", "<f4", "<f8", "|b1", "|u1")

# ---------------------------------------------------------------- to a worker


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message: where the leader's modules are found."""

    paths: tuple[str, ...]
    files: Mapping[str, str]
    """Module -> file, of those that no name leads to (a recipe in a file of its own)."""


@dataclass(frozen=True, slots=True)
class Meet:
    """A suite that matches will name by its number."""

    suite: int
    pickled: bytes


@dataclass(frozen=True, slots=True)
class Play:
    """One rollout to be played."""

    order: int
    suite: int
    match: bytes
    """The pickle of the match without its suite."""
    place: Place
    policies: Mapping[str, tuple[str, int]]
    """Who can be asked -> its own name and its limit."""
    call_timeout_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a :class:`Sample` or a :class:`Count`."""

    ask: int
    completion: Completion | None = None
    count: int | None = None
    error: str = ""
    """The type of what was raised instead, and its words."""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Nobody waits for a rollout any more."""

    order: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""


@dataclass(frozen=True, slots=True)
class End:
    """There is nothing more to play."""


# ---------------------------------------------------------------- from a worker


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can play; which process it is, and on which machine."""

    process: int
    machine: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A seat asks its policy for a reply."""

    ask: int
    order: int
    policy: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    sampling: Sampling
    written: tuple[tuple[Piece, ...] | None, ...]
    """For each message, the ids that it was sampled as."""


@dataclass(frozen=True, slots=True)
class Count:
    """A context asks how many tokens messages make."""

    ask: int
    order: int
    policy: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """The seat waits no longer for an answer."""

    ask: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A turn as soon as it was sampled, as the recorder takes it."""

    order: int
    turn: Turn
    messages: Mapping[int, Message]
    spans: Mapping[int, Span]


@dataclass(frozen=True, slots=True)
class Played:
    """A rollout has ended."""

    order: int
    episode: Episode


@dataclass(frozen=True, slots=True)
class Refused:
    """A rollout cannot be played at all."""

    order: int
    error: str
    words: str


@dataclass(frozen=True, slots=True)
class Pong:
    """I am, and these are the orders that I hold."""

    orders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stands:
    """Who waits for whom in the worker: who, whom, what, for how many seconds so far, and the most it may take."""

    waits: tuple[tuple[str, str, str, float, float | None], ...]


Told: TypeAlias = Begin | Meet | Play | Answer | Drop | Ping | End
Heard: TypeAlias = Ready | Sample | Count | Forget | Recorded | Played | Refused | Pong | Stands
_TOLD: Final[tuple[type[Told], ...]] = (Begin, Meet, Play, Answer, Drop, Ping, End)
_HEARD: Final[tuple[type[Heard], ...]] = (Ready, Sample, Count, Forget, Recorded, Played, Refused, Pong, Stands)


def frame(message: Told | Heard) -> bytes:
    """The bytes of a message. Raises: BadInput for a value in it that is no JSON value, array or noun."""
    kinds: tuple[type[Any], ...] = _TOLD if isinstance(message, _TOLD) else _HEARD
    try:
        return bytes([kinds.index(type(message))]) + _ENCODER.encode(message)
    except (TypeError, OverflowError, RecursionError, UnicodeEncodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{type(message).__name__} cannot be sent to another process: {error}") from None


def told(data: bytes) -> Told:
    """What a worker is told. Raises: BadInput for what is no message."""
    found: Told = _read(data, _TELLERS, _TOLD)
    return found


def heard(data: bytes) -> Heard:
    """What a worker says. Raises: BadInput for what is no message.

    >>> heard(frame(Pong((3,))))
    Pong(orders=(3,))
    """
    found: Heard = _read(data, _HEARERS, _HEARD)
    return found


def _read(data: bytes, decoders: tuple[Any, ...], kinds: tuple[type[Any], ...]) -> Any:
    kind = data[0] if data else len(kinds)
    if kind >= len(kinds):
        raise BadInput(f"a frame of {len(data)} bytes begins with {data[:1]!r}, which is no kind of message")
    try:
        return decoders[kind].decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadInput(f"{kinds[kind].__name__} was said in a form that it does not have: {error}") from None


# ---------------------------------------------------------------- what msgspec does not know


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.str not in _DTYPES or value.ndim != 1:
            raise TypeError(f"an array of {value.dtype} with shape {value.shape}")
        return msgspec.msgpack.Ext(_ARRAY, value.dtype.str.encode() + value.tobytes())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {value!r}"[:120])


def _array(code: int, data: memoryview) -> Any:
    dtype = bytes(data[:3]).decode("ascii", "replace")
    if code != _ARRAY or dtype not in _DTYPES:
        raise ValueError(f"extension {code} of {dtype!r}")
    return np.frombuffer(data[3:], dtype).copy()


def _noun(kind: Any, value: Any) -> Any:
    """An array of numbers where one is expected, as it was sent."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"expected an array as {kind}, got {type(value).__name__}")
    return value


def _decoder(kind: type[Any]) -> Any:
    return msgspec.msgpack.Decoder(kind, dec_hook=_noun, ext_hook=_array)


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_TELLERS: Final = tuple(_decoder(kind) for kind in _TOLD)
_HEARERS: Final = tuple(_decoder(kind) for kind in _HEARD)

# ---------------------------------------------------------------- matches


def pickled(value: Any, what: str) -> bytes:
    """The pickle of a suite or a match. Raises: BadInput for what cannot be sent, with a way out."""
    try:
        return packed(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(f"{what} cannot be sent to another process: {error}; what it is made of has to stand at the top "
                       "level of a module (functools.partial in place of a lambda)") from error


def without_suite(match: Match) -> bytes:
    """The match, its suite left out: that is sent once."""
    return pickled(replace(match, suite=None), f"the match on task {match.task.id}")  # type: ignore[arg-type]


def unpickled(told: bytes) -> Any:
    """What the leader packed: called in a worker, and on nothing else."""
    return pickle.loads(told)
