"""The whole episode inside a record of a format with room for it, so that what we wrote comes back with nothing lost.

A carried episode counts only while the record around it still says the same: a record that others changed is read by
its own fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from polyturn.errors import PolyturnError
from polyturn.record.closed import SCHEMA_VERSION
from polyturn.record.formats.chat import Store
from polyturn.record.rules import check_rules
from polyturn.record.shape import shape_of
from polyturn.types import Episode, Message

KEY = "polyturn"
"""Under which name it stands in the record's free fields."""
_EPISODE = shape_of(Episode)


def is_carried(episode: Episode, format: str, bare: bool) -> bool:
    """Whether an export carries the episode: if it was played here, or came from such a record of the same format."""
    source = episode.source
    return not bare and (source is None or (source.get("format") == format and bool(source.get("carried"))))


def carried(episode: Episode, store: Store, shown: Iterable[Message]) -> dict[str, Any]:
    """The episode as plain JSON values, without where it came from, and the media of messages that the record itself
    does not show."""
    plain = _EPISODE.encode(replace(episode, source=None))
    held: dict[str, Any] = orjson.loads(orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY))
    there = {part.media for message in shown for part in message.parts}
    rest = {part.media: store.address(part) for t in episode.trajectories for message in t.messages
            for part in message.parts if part.media is not None and part.media not in there}
    return {"schema_version": SCHEMA_VERSION, "episode": held, **({"media": rest} if rest else {})}


def unpacked(
    held: Any, record: Any, format: str, again: Callable[[Episode], list[Any]], where: str, store: Store
) -> Episode | None:
    """The episode that a record carries; None where it carries none, or where the record says something else by now.

    The media that the record shows have to be in the store already; those that are carried are put there.
    ``again`` exports an episode; what is carried is believed only if the record says all that this gives. Fields may
    have been added: inspect adds defaults where it writes a log anew.
    """
    if not isinstance(held, Mapping) or not isinstance(held.get("episode"), dict):
        return None
    try:
        episode: Episode = _EPISODE.decode(held["episode"])
        episode = replace(episode, source={"format": format, "carried": True})
        check_rules(episode, where)
        for url in dict(held.get("media", {})).values():
            store.taken(str(url))
        made = again(episode)
        return episode if len(made) == 1 and _says(record, made[0]) else None
    except (PolyturnError, TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None


def _says(record: Any, made: Any) -> bool:
    """Whether all of ``made`` stands in the record, with more beside it or not.

    >>> _says({"a": 1, "b": []}, {"a": 1.0, "c": None}), _says({"a": 2}, {"a": 1}), _says([1, 2], [1])
    (True, False, False)
    """
    if isinstance(made, dict):
        return isinstance(record, dict) and all(
            _says(record[key], value) if key in record else value is None for key, value in made.items())
    if isinstance(made, list | tuple):
        return isinstance(record, list) and len(record) == len(made) and all(
            _says(r, m) for r, m in zip(record, made, strict=True))
    return bool(record == made)
