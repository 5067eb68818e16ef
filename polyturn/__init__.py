"""Polyturn: train, run, evaluate and diagnose language-model agents that act over many turns.

The nouns and verbs that most scripts need; each is loaded when it is first used, so that ``import polyturn`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyturn.envs import tasks as tasks
    from polyturn.protocols import (
        Agent as Agent, Ask as Ask, Completion as Completion, Context as Context, Curriculum as Curriculum, Env as Env,
        Match as Match, Player as Player, Policy as Policy, Recorder as Recorder, Spec as Spec, Step as Step,
        Suite as Suite, Toolbox as Toolbox, Verifier as Verifier, View as View,
    )
    from polyturn.types import (
        Call as Call, Episode as Episode, Event as Event, Finding as Finding, Group as Group, Limits as Limits,
        Message as Message, Part as Part, Sampling as Sampling, Score as Score, Span as Span, Stop as Stop,
        Task as Task, Tool as Tool, Trajectory as Trajectory, Turn as Turn, assistant as assistant, system as system,
        user as user,
    )
    from polyturn.verbs import evaluate as evaluate, play as play, resume as resume, run as run, train as train

_TYPES = (
    "Call", "Episode", "Event", "Finding", "Group", "Limits", "Message", "Part", "Sampling", "Score", "Span", "Stop",
    "Task", "Tool", "Trajectory", "Turn", "assistant", "system", "user",
)
_PROTOCOLS = (
    "Agent", "Ask", "Completion", "Context", "Curriculum", "Env", "Match", "Player", "Policy", "Recorder", "Spec",
    "Step", "Suite", "Toolbox", "Verifier", "View",
)
_VERBS = ("evaluate", "play", "resume", "run", "train")
_HOMES = {
    **dict.fromkeys(_TYPES, "polyturn.types"), **dict.fromkeys(_PROTOCOLS, "polyturn.protocols"),
    **dict.fromkeys(_VERBS, "polyturn.verbs"),
}
__all__ = sorted([*_HOMES, "tasks"])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return import_module("polyturn.envs.tasks")
    if name not in _HOMES:
        raise AttributeError(f"module 'polyturn' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
