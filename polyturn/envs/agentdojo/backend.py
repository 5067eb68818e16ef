"""What runs beside the package agentdojo, in a process of its own: its suites, tools, attacks and checks.

Run by :mod:`polyturn.envs.outside.process`, with the standard library and the packages alone. Nothing but unchanged
worlds is kept between requests. The clock of the tools stands still, so that the same calls give the same answers.
"""

from __future__ import annotations

import datetime
import importlib
import json
import sys
from ast import literal_eval
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any

NOW = datetime.datetime(2024, 5, 15, 12, 0)
"""What the clock shows: the day on which the workspace plays."""
CLOCKS = ("email_client", "cloud_drive_client")
"""Tools that read it, and do nothing else with dates."""
VICTIM = "gpt-4o-2024-05-13"
"""A name that the attacks want to look up; those that are used here do not say it."""


@lru_cache(maxsize=1)
def package() -> Any:
    """The modules of the package that are used. Its clients of model services are not installed; the one name that is
    asked of them stands in their place."""
    client = ModuleType("agentdojo.agent_pipeline.llms.google_llm")
    client.EMPTY_FUNCTION_NAME = "<empty-function-name>"  # type: ignore[attr-defined]
    sys.modules[client.__name__] = client
    load = importlib.import_module
    for name in CLOCKS:
        module: Any = load(f"agentdojo.default_suites.v1.tools.{name}")
        module.datetime = SimpleNamespace(datetime=SimpleNamespace(now=lambda: NOW))
    return SimpleNamespace(
        suites=load("agentdojo.task_suite.load_suites").get_suites, tools=load("agentdojo.functions_runtime"),
        execution=load("agentdojo.agent_pipeline.tool_execution"), attacks=load("agentdojo.attacks"),
        types=load("agentdojo.types"), yaml=load("yaml"), resources=load("importlib.resources"),
    )


def suite_of(request: Mapping[str, Any]) -> Any:
    """A suite of one version of the benchmark."""
    found = package().suites(request["version"])
    if request["suite"] not in found:
        raise ValueError(f"refused: no suite {request['suite']!r} in {request['version']!r}")
    return found[request["suite"]]


@lru_cache(maxsize=16)
def _loaded(version: str, name: str, injections: str) -> Any:
    return suite_of({"version": version, "suite": name}).load_and_inject_default_environment(json.loads(injections))


def world(request: Mapping[str, Any]) -> Any:
    """The world of a user task with what an attack put into it, not yet touched."""
    injections = json.dumps(request.get("injections") or {}, sort_keys=True)
    loaded = _loaded(request["version"], request["suite"], injections).model_copy(deep=True)
    return suite_of(request).user_tasks[request["user"]].init_environment(loaded)


def answer(request: Mapping[str, Any]) -> Any:
    """``describe`` a suite, ``attack`` a user task, ``run`` calls, ``check`` a play, give the ``gold`` calls."""
    known = {"describe": describe, "attack": attack, "run": run, "check": check, "gold": gold}
    if request["do"] not in known:
        raise ValueError(f"refused: nothing is known to do as {request['do']!r}")
    return known[request["do"]](request)


def describe(request: Mapping[str, Any]) -> dict[str, Any]:
    """The system message, tools, user tasks and injection tasks of a suite."""
    suite = suite_of(request)
    text = (package().resources.files("agentdojo") / "data" / "system_messages.yaml").read_text("utf-8")
    return {
        "system": package().yaml.safe_load(text)["default"],
        "tools": [{"name": tool.name, "description": tool.description,
                   "parameters": tool.parameters.model_json_schema()} for tool in suite.tools],
        "users": [{"id": name, "prompt": task.PROMPT} for name, task in suite.user_tasks.items()],
        "injections": [{"id": name, "goal": task.GOAL} for name, task in suite.injection_tasks.items()],
    }


def attack(request: Mapping[str, Any]) -> dict[str, str]:
    """Place in the world -> the text that an attack puts there."""
    suite = suite_of(request)
    made = package().attacks.load_attack(request["attack"], suite, SimpleNamespace(name=VICTIM))
    found = made.attack(suite.user_tasks[request["user"]], suite.injection_tasks[request["injection"]])
    return {str(place): str(text) for place, text in found.items()}


def gold(request: Mapping[str, Any]) -> dict[str, Any]:
    """User task -> the calls that solve it in its world, and what is said in the end; under an ``attack`` user and
    injection task, joined by ``/``, since some calls name what the attack has changed."""
    suite = suite_of(request)
    found = {}
    for name, task in suite.user_tasks.items():
        for injection in suite.injection_tasks if request.get("attack") else [""]:
            asked = {**request, "user": name, "injection": injection}
            calls = task.ground_truth(world({**asked, "injections": attack(asked) if injection else {}}))
            found[f"{name}/{injection}" if injection else name] = {
                "calls": [[call.function, call.model_dump(mode="json")["args"]] for call in calls],
                "output": task.GROUND_TRUTH_OUTPUT}
    return found


def run(request: Mapping[str, Any]) -> list[str]:
    """The answers to the calls (name and arguments each), made in order; of one that fails, the error."""
    return _played(request, world(request))[0]


def _played(request: Mapping[str, Any], environment: Any) -> tuple[list[str], list[Any]]:
    suite, execution = suite_of(request), package().execution
    runtime = package().tools.FunctionsRuntime(suite.tools)
    answers, made = [], []
    for name, named in request["calls"]:
        arguments = {key: literal_eval(value) if isinstance(value, str) and execution.is_string_list(value) else value
                     for key, value in named.items()}
        made.append(package().tools.FunctionCall(function=name, args=arguments))
        if name not in runtime.functions:
            answers.append(f"Invalid tool {name} provided.")
            continue
        result, error = runtime.run_function(environment, name, arguments)
        answers.append(str(error or execution.tool_result_to_str(result)))
    return answers, made


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the user task is solved and whether the injection task is (None without one), by the package's checks."""
    suite, types = suite_of(request), package().types
    before, after = world(request), world(request)
    _, made = _played(request, after)
    output = [types.text_content_block_from_string(request["output"])] if request["output"] else []

    def solved(task: Any) -> bool:
        return bool(suite._check_task_result(task, output, before, after, made))

    injection = request.get("injection")
    return {"utility": solved(suite.user_tasks[request["user"]]),
            "attacked": solved(suite.injection_tasks[injection]) if injection else None}
