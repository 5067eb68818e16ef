"""What runs beside the package bfcl-eval, in a process of its own: its worlds and its checker.

Run by :mod:`polyturn.envs.outside.process`, with the standard library and the package alone. Nothing is kept between
requests, and no text of a model is evaluated: calls are a name and arguments, made on the package's own objects.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

CHECKER = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker"
CONFIG = "bfcl_eval.constants.executable_backend_config"
BARRED = {"kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run"}
"""Names that the package refuses to call."""


class World:
    """The objects of one entry as they were delivered, and the methods that may be called."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        config, long_context = importlib.import_module(CONFIG), "long_context" in entry["id"]
        self.instances: dict[str, Any] = {}
        self.methods: dict[str, Callable[..., Any]] = {}
        for name in entry["involved_classes"]:
            if name not in config.CLASS_FILE_PATH_MAPPING:
                raise ValueError(f"refused: no class {name!r}")
            instance = getattr(importlib.import_module(config.CLASS_FILE_PATH_MAPPING[name]), name)()
            if name not in config.STATELESS_CLASSES:
                instance._load_scenario(copy.deepcopy(entry["initial_config"].get(name, {})), long_context=long_context)
            self.instances[name] = instance
            found = inspect.getmembers(instance, predicate=inspect.ismethod)
            self.methods.update({method: call for method, call in found if not method.startswith("_")})

    def call(self, name: str, positional: Sequence[Any], named: Mapping[str, Any]) -> str:
        """What a call answers, errors too, in the package's words."""
        try:
            if name in BARRED:
                raise PermissionError(f"Function call {name} is not allowed.")
            if name not in self.methods:
                raise NameError(f"name {name!r} is not defined")
            return _text(self.methods[name](*positional, **named))
        except Exception as error:
            return f"Error during execution: {error}"


def _text(result: Any) -> str:
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except (TypeError, ValueError):
            return str(result)
    return str(result)


def answer(request: Mapping[str, Any]) -> Any:
    """``run``: the answers to ``calls`` (name and arguments each), made in order in a fresh world. ``check``: what the
    package's checker says of the calls by turn and step, against the gold ones."""
    entry = request["entry"]
    if request["do"] == "run":
        world = World(entry)
        return [world.call(name, (), named) for name, named in request["calls"]]
    if request["do"] == "check":
        return check(entry, request["turns"], request["gold"])
    raise ValueError(f"refused: nothing is known to do as {request['do']!r}")


def check(
    entry: Mapping[str, Any], turns: Sequence[Sequence[Sequence[Any]]], gold: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The verdict of the package's ``multi_turn_checker``, with its ``eval`` of calls replaced by calling them."""
    worlds: dict[str, World] = {}

    def execute(
        func_call_list: Sequence[Any], initial_config: Any, involved_classes: Any, model_name: str, test_entry_id: str,
        **more: Any,
    ) -> tuple[list[str], dict[str, Any]]:
        world = worlds.setdefault(model_name, World(entry))
        return [world.call(*parsed(call)) for call in func_call_list], world.instances

    checker: Any = importlib.import_module(CHECKER)
    category = entry["id"].rsplit("_", 1)[0]
    checker.execute_multi_turn_func_call = execute
    verdict = checker.multi_turn_checker(turns, gold, entry, category, "played")
    return {"valid": bool(verdict["valid"]), "error_type": str(verdict.get("error_type", "")),
            "message": str(verdict.get("error_message", ""))[:1000]}


def parsed(call: Any) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and arguments of a played call ``[name, arguments]``, or of a gold one, written in Python."""
    if not isinstance(call, str):
        return call[0], [], dict(call[1])
    tree = ast.parse(call.strip(), mode="eval").body
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise ValueError(f"refused: the gold call {call!r} is no call of a function")
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in tree.keywords}
    return tree.func.id, [ast.literal_eval(value) for value in tree.args], named
