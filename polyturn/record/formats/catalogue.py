"""The formats by name: one literal table, and the module of a name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from polyturn.errors import UnknownName
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.types import Episode

FORMATS = (
    {"name": "polyturn", "module": "polyturn", "files": ".jsonl .parquet", "unit": "episode",
     "about": "the closed view, one row an episode: loses nothing"},
    {"name": "openai", "module": "openai", "files": ".jsonl", "unit": "dialogue",
     "about": "OpenAI fine-tuning rows: messages, tools, weight 0 on replies that are not to be learned"},
    {"name": "openai-preference", "module": "openai_preference", "files": ".jsonl", "unit": "pair",
     "about": "OpenAI preference rows: input, preferred_output, non_preferred_output"},
    {"name": "chatml", "module": "chatml", "files": ".jsonl .parquet", "unit": "dialogue",
     "about": "a column of chat messages beside free columns"},
    {"name": "sharegpt", "module": "sharegpt", "files": ".jsonl .json", "unit": "dialogue",
     "about": "conversations of from and value"},
    {"name": "trl-sft", "module": "trl_sft", "files": ".jsonl .parquet", "unit": "dialogue",
     "about": "TRL, supervised fine-tuning: prompt and completion, one row a reply"},
    {"name": "trl-preference", "module": "trl_preference", "files": ".jsonl .parquet", "unit": "pair",
     "about": "TRL, preference learning: prompt, chosen, rejected, from attempts of one group"},
    {"name": "trl-grpo", "module": "trl_grpo", "files": ".jsonl .parquet", "unit": "path",
     "about": "TRL, GRPO: token ids, log-probabilities and mask of each path, with the reward"},
    {"name": "inspect", "module": "inspect", "files": ".json .eval", "unit": "log",
     "about": "inspect logs, version 2: samples with messages and scores (.eval is read, .json read and written)"},
    {"name": "atif", "module": "atif", "files": "/ .json .jsonl", "unit": "document",
     "about": "ATIF of Harbor, 1.0 to 1.8: steps of agents and the agents that they called"},
    {"name": "verifiers", "module": "verifiers", "files": ".jsonl", "unit": "trajectory",
     "about": "verifiers traces, version 1: one agent's messages as a graph of nodes with their tokens"},
    {"name": "otel", "module": "otel", "files": ".jsonl .json", "unit": "episode",
     "about": "OpenTelemetry GenAI spans in OTLP/JSON: agents, chats, tools and evaluations, a trace an episode"},
    {"name": "tau-bench", "module": "tau_bench", "files": ".json .jsonl", "unit": "dialogue",
     "about": "results of tau-bench: task, trial, reward, dialogue"},
    {"name": "who-and-when", "module": "who_and_when", "files": "/ .json .jsonl", "unit": "document",
     "about": "logs of teams that failed, with who made the decisive mistake, and when"},
)
"""One mapping a format: its name, its module in this folder, the files it stands in, what one record is."""


@dataclass(frozen=True, slots=True)
class Give:
    """What an export may use: the media of the run, and the seats that were asked for (none: those that learn)."""

    store: Store = Store()
    seats: tuple[str, ...] = ()
    bare: bool = False
    """Without the whole episode, which formats with room for it carry otherwise."""


class Format(Protocol):
    """What a module of this folder has. Some have more (:func:`part`): ``split(document: Field) -> list[Field]`` and
    ``joined(records) -> documents`` where records are parts of a document; ``opened(path, bad) -> documents`` for files
    of another kind; ``schema()`` for the Arrow schema of rows; ``OWN`` where records are episodes."""

    def episodes(self, record: Field, store: Store) -> list[Episode]:
        """The episodes of one record, checked. Raises: BadInput, with the place."""

    def records(self, group: Sequence[Episode], give: Give) -> Iterator[Any]:
        """The records of a group of episodes, as JSON values."""


def entry(name: str) -> dict[str, str]:
    """The row of a format. Raises: UnknownName."""
    for row in FORMATS:
        if row["name"] == name:
            return row
    raise UnknownName("format", name, (row["name"] for row in FORMATS))


def format_named(name: str) -> Format:
    """The module of a format."""
    return cast(Format, import_module(f"polyturn.record.formats.{entry(name)['module']}"))


def part(name: str, what: str) -> Any:
    """What a format's module may have; None where it has not."""
    return getattr(import_module(f"polyturn.record.formats.{entry(name)['module']}"), what, None)
