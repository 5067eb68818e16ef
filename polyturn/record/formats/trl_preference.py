"""TRL, preference learning: ``{"prompt": [..], "chosen": [..], "rejected": [..], "tools"}``, or without a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, each, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import identity
from polyturn.record.formats.pair import Pair, both, pairs
from polyturn.record.formats.trl_sft import as_dicts
from polyturn.types import Episode

NAME = "trl-preference"


def episodes(record: Field, store: Store) -> list[Episode]:
    """Two episodes of one group, worth 1 and 0. Without a prompt, it is what both sides begin with."""
    given = record.get("prompt")
    prompt = each(given, store) if given is not None and given.items() else []
    chosen = each(record["chosen"], store, first=len(prompt))
    rejected = each(record["rejected"], store, first=len(prompt))
    if given is None:
        while len(prompt) < min(len(chosen), len(rejected)) - 1 and chosen[len(prompt)] == rejected[len(prompt)]:
            prompt.append(chosen[len(prompt)])
        chosen, rejected = chosen[len(prompt):], rejected[len(prompt):]
    pair = Pair(tuple(prompt), tuple(chosen), tuple(rejected), tools_of(record.get("tools")))
    better, worse = both(pair, id=identity(record.value), format=NAME, verifier="preference")
    return [replace(better, source={"format": NAME, "shape": "prompt" if given is not None else "implicit"}), worse]


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a pair."""
    for pair in pairs(group, give):
        chosen, rejected = as_dicts(pair.chosen, give.store), as_dicts(pair.rejected, give.store)
        prompt = as_dicts(pair.prompt, give.store)
        row: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if (group[0].source or {}).get("shape") == "implicit":
            row = {"chosen": [*prompt, *chosen], "rejected": [*prompt, *rejected]}
        yield {**row, "tools": tool_dicts(pair.tools)} if pair.tools else row
