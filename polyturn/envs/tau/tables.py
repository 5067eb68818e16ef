"""A database that many episodes read and each changes for itself: every record is copied before it can be changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Tables of records by key, as they were read: ``Delivered({"users": {"ann": {"age": 7}}}, "b1c2...")``."""

    tables: Mapping[str, Mapping[str, Record]]
    sha256: str


class Tables:
    """One episode's own view of a delivered database.

    >>> shared = Delivered({"users": {"ann": {"age": 7}}}, "b1c2")
    >>> mine, yours = Tables(shared), Tables(shared)
    >>> mine.find("users", "ann")["age"] = 8
    >>> yours.find("users", "ann"), mine.state()["changed"]
    ({'age': 7}, {'users': {'ann': {'age': 8}}})
    """

    def __init__(self, delivered: Delivered) -> None:
        self._delivered = delivered
        self._own: dict[str, dict[str, Record]] = {table: {} for table in delivered.tables}

    def find(self, table: str, key: str) -> Record | None:
        """This episode's own copy of a record, which may be changed; None where there is none of that key."""
        own = self._own[table]
        if key not in own:
            given = self._delivered.tables[table].get(key)
            if given is None:
                return None
            own[key] = deepcopy(given)
        return own[key]

    def add(self, table: str, key: str, record: Record) -> None:
        """A new record."""
        self._own[table][key] = record

    def rows(self, table: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(key, record) of a whole table, the delivered ones in their order; to be read and never changed."""
        own, given = self._own[table], self._delivered.tables[table]
        for key, record in given.items():
            yield key, own.get(key, record)
        for key in own.keys() - given.keys():
            yield key, own[key]

    def state(self) -> Mapping[str, Any]:
        """``delivered``: the hash of what all episodes share; ``changed``: table -> key -> every record that is not as
        it was delivered. Equal where, and only where, the whole databases are equal."""
        changed: dict[str, dict[str, Record]] = {}
        for table, own in self._own.items():
            given = self._delivered.tables[table]
            for key, record in own.items():
                if key not in given or record != given[key]:
                    changed.setdefault(table, {})[key] = deepcopy(record)
        return {"delivered": self._delivered.sha256, "changed": changed}
