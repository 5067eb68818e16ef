"""OpenAI preference rows: ``{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, dict_of, each, tool_dicts, tools_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import identity
from polyturn.record.formats.pair import Pair, both, pairs
from polyturn.types import Episode


def episodes(record: Field, store: Store) -> list[Episode]:
    """Two episodes of one group: the preferred output is worth 1, the other 0."""
    given = record["input"]
    prompt = each(given["messages"], store)
    chosen = each(record["preferred_output"], store, first=len(prompt))
    rejected = each(record["non_preferred_output"], store, first=len(prompt))
    pair = Pair(tuple(prompt), tuple(chosen), tuple(rejected), tools_of(given.get("tools")))
    return both(pair, id=identity(record.value), format="openai-preference", verifier="preference")


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One row a pair. The format holds one reply an output, so both end with the first."""
    for pair in pairs(group, give):
        given: dict[str, Any] = {"messages": [dict_of(m, give.store) for m in pair.prompt]}
        if pair.tools:
            given["tools"] = tool_dicts(pair.tools)
        yield {"input": given, "preferred_output": [dict_of(pair.chosen[0], give.store)],
               "non_preferred_output": [dict_of(pair.rejected[0], give.store)]}
