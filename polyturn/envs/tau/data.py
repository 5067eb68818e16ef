"""What tau2 delivers for a domain: database, policy, tasks, splits, and how a simulated user should behave.

The files are those of the package ``inspect-evals`` (MIT), fetched by ``polyturn envs --install tau``; they are the
ones of tau2-bench at its commit 377cecf (December 2025). No code of the package is run.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from textwrap import indent
from typing import Any

import orjson

from polyturn.envs.install import installed
from polyturn.envs.tau.tables import Delivered

DATA = Path("inspect_evals") / "tau2" / "data"
BASIS = ("DB", "COMMUNICATE")
"""What the reward of a task rests on where the task does not say: so it is for all 164."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain as it was delivered; shared by all episodes and never changed."""

    name: str
    database: Delivered
    policy: str
    guidelines: str
    """How a simulated user behaves, in any task."""
    tasks: Mapping[str, Mapping[str, Any]]
    """Task id -> ``scenario`` (the text for the user), ``opening``, ``actions`` (name and arguments of the gold calls)
    and ``outputs`` (what the agent must say)."""
    splits: Mapping[str, Sequence[str]]
    """``train``, ``test`` and ``base`` (all) -> task ids."""


def load(name: str) -> Domain:
    """The domain ``airline`` or ``retail``, read once for each folder. Raises: MissingPackage, which names the command
    that fetches it; ValueError for a task whose reward rests on something else than database and words."""
    return _read(name, installed("tau") / DATA)


@lru_cache(maxsize=4)
def _read(name: str, folder: Path) -> Domain:
    place = folder / "domains" / name
    database = gzip.decompress((place / "db.json.gz").read_bytes())
    delivered = Delivered(_complete(name, orjson.loads(database)), sha256(database).hexdigest())
    tasks = {str(task["id"]): _task(task) for task in orjson.loads((place / "tasks.json").read_bytes())}
    return Domain(
        name, delivered, (place / "policy.txt").read_text(encoding="utf-8"),
        (folder / "user_simulator" / "simulation_guidelines.txt").read_text(encoding="utf-8"), tasks,
        orjson.loads((place / "split_tasks.json").read_bytes()),
    )


_ABSENT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "airline": ("reservations", ("status",)),
    "retail": ("orders", (
        "cancel_reason", "exchange_items", "exchange_new_items", "exchange_payment_method_id",
        "exchange_price_difference", "return_items", "return_payment_method_id",
    )),
}
"""Domain -> a table and the fields that its records leave out while they are empty; tools show them as null."""


def _complete(name: str, tables: dict[str, Any]) -> dict[str, Any]:
    table, fields = _ABSENT[name]
    for record in tables[table].values():
        for field in fields:
            record.setdefault(field, None)
    return tables


def _task(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is needed of a task, as plain JSON."""
    criteria, instructions = raw["evaluation_criteria"], raw["user_scenario"]["instructions"]
    basis = tuple(criteria.get("reward_basis") or BASIS)
    if basis != BASIS or raw.get("initial_state") is not None:
        raise ValueError(f"task {raw['id']} is rewarded for {basis} and starts from {raw.get('initial_state')}; "
                         f"expected {BASIS} and the delivered database")
    return {
        "scenario": scenario(raw["user_scenario"]), "opening": instructions["reason_for_call"],
        "actions": [{"name": action["name"], "arguments": action["arguments"]} for action in criteria["actions"]],
        "outputs": list(criteria["communicate_info"] or ()),
    }


def scenario(given: Mapping[str, Any]) -> str:
    """The user's scenario as text, in tau2's layout.

    >>> print(scenario({"persona": None, "instructions": {
    ...     "domain": "airline", "reason_for_call": "Cancel.", "known_info": None, "unknown_info": None,
    ...     "task_instructions": "Be brief."}}).expandtabs(2))
    Instructions:
      Domain: airline
      Reason for call:
        Cancel.
      Task instructions:
        Be brief.
    """
    asked = given["instructions"]
    lines = [f"Domain: {asked['domain']}", f"Reason for call:\n{indent(asked['reason_for_call'], chr(9))}"]
    for title, field in (("Known info", "known_info"), ("Unknown info", "unknown_info")):
        if asked.get(field) is not None:
            lines.append(f"{title}:\n{indent(asked[field], chr(9))}")
    lines.append(f"Task instructions:\n{indent(asked['task_instructions'], chr(9))}")
    persona = [f"Persona:\n{indent(given['persona'], chr(9))}"] if given.get("persona") else []
    return "\n".join([*persona, "Instructions:", indent("\n".join(lines), "\t")])
