"""What a worker's process is asked and what it answers, as JSON of known shape: nothing is unpickled."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from polyturn.errors import BadInput, EnvironmentFailed
from polyturn.protocols import Step
from polyturn.record.shape import shape_of, written
from polyturn.types import Message, Seat

ANSWER_BYTES: Final = 2**28
"""The longest answer that is read."""
_STEP, _REPLIES, _FINAL = shape_of(Step), shape_of(Mapping[Seat, Message]), shape_of(Mapping[str, Any])


def as_request(method: str, arguments: Sequence[Any]) -> bytes:
    """A call: ``start(bytes or None)``, ``step(replies)``, or ``final``, ``save``, ``close`` without arguments.

    Raises: BadInput for replies that have no exact form on disk.
    """
    given: Any = None
    if method == "start" and arguments[0] is not None:
        given = base64.b64encode(arguments[0]).decode()
    elif method == "step":
        given = written(_REPLIES, arguments[0], "the replies")
    return orjson.dumps({"method": method, "given": given})


def read_request(line: bytes) -> tuple[str, tuple[Any, ...]]:
    """The inverse.

    >>> read_request(as_request("start", (b"2",))), read_request(as_request("final", ()))
    (('start', (b'2',)), ('final', ()))
    """
    asked = orjson.loads(line)
    method, given = asked["method"], asked["given"]
    if method == "start":
        return method, (None if given is None else base64.b64decode(given),)
    return method, (_REPLIES.decode(given),) if method == "step" else ()


def as_answer(method: str, value: Any) -> bytes:
    """What a method gave. Raises: BadInput, NotFinite for what has no exact form on disk, with its place."""
    if method in ("start", "step"):
        if not isinstance(value, Step):
            return as_refusal(f"{method}() answered {type(value).__name__}; expected a Step", False)
        return orjson.dumps({"value": written(_STEP, value, method)}, option=orjson.OPT_SERIALIZE_NUMPY)
    if method == "final":
        return orjson.dumps({"value": written(_FINAL, value, method)})
    return orjson.dumps({"value": base64.b64encode(value).decode() if method == "save" else None})


def as_refusal(words: str, refused: bool) -> bytes:
    """What went wrong; ``refused``: whoever asked is to blame."""
    return orjson.dumps({"error": words.encode("utf-8", "replace").decode(), "refused": refused})


def read_answer(name: str, method: str, line: bytes) -> Any:
    """The value, decoded by the shape that ``method`` gives.

    Raises: BadInput where the environment refused; EnvironmentFailed where it raised, or said what is no answer.
    """
    try:
        said = orjson.loads(line)
        if "error" in said:
            words, refused = str(said["error"]), said["refused"] is True
        else:
            read: Callable[[Any], Any] = _READ.get(method, _nothing)
            return read(said["value"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EnvironmentFailed(f"the process of {name} said what is no answer to {method}(): {line[:80]!r} "
                                f"({type(error).__name__}: {error})") from None
    raise BadInput(words) if refused else EnvironmentFailed(f"{name}.{method}() raised {words}")


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _nothing(value: Any) -> None:
    if value is not None:
        raise ValueError("nothing was asked for")


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "start": _STEP.decode, "step": _STEP.decode, "final": _FINAL.decode, "save": _bytes,
}
