"""What runs beside the package minigrid, in a process of its own: its levels and its bot.

Run by :mod:`polyturn.envs.outside.process`, with the standard library and the packages alone. What a request answers
follows from its seed and actions; worlds that were reached lately are kept, so that one more action is one more step.
Nothing is drawn, so that pygame is not needed.
"""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

REACHED: OrderedDict[tuple[str, int, tuple[int, ...]], dict[str, Any]] = OrderedDict()
"""Level, seed and actions -> the world reached by them; taken out when it goes on."""
MOST_REACHED = 128


@lru_cache(maxsize=1)
def gymnasium() -> Any:
    """Gymnasium, with the levels registered."""
    for name in ("pygame", "pygame.freetype"):
        sys.modules[name] = ModuleType(name)
    importlib.import_module("minigrid")
    return importlib.import_module("gymnasium")


def levels() -> list[str]:
    """The names of all levels."""
    return sorted(name for name in gymnasium().registry if name.startswith(("BabyAI-", "MiniGrid-")))


def answer(request: Mapping[str, Any]) -> Any:
    """``levels``; ``play``: what is seen after ``actions``; ``solve``: the bot's actions, None where it fails."""
    if request["do"] == "levels":
        return levels()
    if request["level"] not in levels():
        raise ValueError(f"refused: no level {request['level']!r}")
    if request["do"] == "play":
        return play(request["level"], request["seed"], tuple(request["actions"]))
    if request["do"] == "solve":
        return solve(begun(request["level"], request["seed"])["env"])
    raise ValueError(f"refused: nothing is known to do as {request['do']!r}")


def begun(level: str, seed: int) -> dict[str, Any]:
    """A world before the first action."""
    env = gymnasium().make(level).unwrapped
    seen, _ = env.reset(seed=seed)
    return {"env": env, "last": (seen, 0.0, False, False, {})}


def play(level: str, seed: int, actions: tuple[int, ...]) -> dict[str, Any]:
    """What is seen in the end, what is carried, what the last action earned, and whether it is over."""
    world = REACHED.pop((level, seed, actions[:-1]), None) if actions else None
    todo = actions[-1:] if world else actions
    world = world or begun(level, seed)
    env = world["env"]
    for action in todo:
        if world["last"][2] or world["last"][3]:
            raise ValueError("refused: an action after the end")
        world["last"] = env.step(action)
    REACHED[level, seed, actions] = world
    if len(REACHED) > MOST_REACHED:
        REACHED.popitem(last=False)
    seen, reward, terminated, truncated, _ = world["last"]
    held = env.carrying
    return {
        "mission": str(seen["mission"]), "image": seen["image"].tolist(), "direction": int(seen["direction"]),
        "carrying": None if held is None else f"{held.color} {held.type}", "reward": float(reward),
        "terminated": bool(terminated), "truncated": bool(truncated), "max_steps": int(env.max_steps),
    }


def solve(env: Any) -> list[int] | None:
    """The bot's actions to the end; None where it gives up or fails."""
    bot: Any = None
    actions: list[int] = []
    action, reward, over = None, 0.0, False
    try:
        bot = importlib.import_module("minigrid.utils.baby_ai_bot").BabyAIBot(env)
        while not over:
            action = bot.replan(action)
            actions.append(int(action))
            _, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    except Exception as error:
        print(f"the bot failed: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return actions if reward > 0 else None
