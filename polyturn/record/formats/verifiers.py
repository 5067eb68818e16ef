"""verifiers, trace version 1 (``traces.jsonl``): one trace an agent, its messages a graph of nodes with their tokens.

A node adds one message and its tokens to the path that its parent ends. Paths of our token tree become paths of nodes:
where a context was rendered anew, the graph branches as the tree does. What a node sampled is masked as such, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polyturn.errors import BadInput
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store, call_from, message_of
from polyturn.record.formats.check import Field
from polyturn.record.formats.dialogue import identity, shown
from polyturn.record.formats.verifiers_nodes import Graph, grown
from polyturn.types import (
    Episode,
    Message,
    PolicyInfo,
    Sampling,
    Score,
    Stop,
    Task,
    Tool,
    Trajectory,
    Turn,
    Usage,
)

NAME = "verifiers"
_FINISH: Mapping[str, Any] = {"stop": "stop", "length": "length", "tool_calls": "tool"}
_FINISHED = {"stop": "stop", "length": "length", "tool": "tool_calls", "budget": "length"}


def episodes(record: Field, store: Store) -> list[Episode]:
    """The one episode of a trace: its nodes are the messages, its rewards the parts of one score."""
    if record.value.get("version", 1) != 1 if isinstance(record.value, dict) else True:
        raise BadInput(f"{record.where}: expected a trace of version 1")
    agent, task, data = record["agent"], record["task"], record["task"]["data"].object()
    name = agent.get("name")
    seat = ("agent" if name is None else name.text()).replace("/", "-") or "agent"
    calls = _calls(record)
    policy = next((call["model"].text() for call in calls.values() if call.get("model") is not None), NAME)
    trajectory, shape = _trajectory(record, (seat, policy), calls, store)
    whole = not isinstance(data.get("payload"), dict)
    key = task.get("key") or task["data"].get("id")
    known = Task(identity(data) if key is None else key.text(), task["type"].text(), data if whole else data["payload"])
    score, stop = _score(record.get("rewards")), _stop(record)
    trainable = agent.get("trainable")
    trace_id = record.get("id")
    begun = record.get("timing")
    start = None if begun is None else begun.get("start")
    return [Episode(
        identity(record.value) if trace_id is None else trace_id.text(), known, 0,
        train=frozenset() if trainable is not None and not trainable.flag() else frozenset({seat}),
        cast={seat: PolicyInfo(policy, "model" if trajectory.spans else "endpoint")}, trajectories=(trajectory,),
        stop=stop, error=stop.reason if stop.kind == "error" else None,
        scores={} if score is None else {NAME: {seat: score}}, started=0.0 if start is None else start.number(),
        source={"format": NAME, "graph": shape, **({"data": "whole"} if whole else {})},
    )]


def _calls(record: Field) -> dict[int, Field]:
    """Node -> the call that wrote it."""
    given = record.get("calls")
    found: dict[int, Field] = {}
    for call in [] if given is None else given.items():
        node = call.get("node")
        if node is not None:
            found[node.whole()] = call
    return found


def _trajectory(
    record: Field, who: tuple[str, str], calls: Mapping[int, Field], store: Store
) -> tuple[Trajectory, dict[str, Any]]:
    graph = Graph(who)
    turns: list[Turn] = []
    info = record.get("info")
    paid = {} if info is None else info.object().get("turn_rewards", {})
    for number, node in enumerate(record["nodes"].items()):
        parent = node.get("parent")
        above = -1 if parent is None else parent.whole()
        if not -1 <= above < number:
            raise BadInput(f"{node.where}.parent: is {above}; expected null or a node before it, 0 to {number - 1}")
        sampled = node.get("sampled")
        own = graph.add(node, above, _message(node["message"], number, store), sampled is not None and sampled.flag())
        if own is not None:
            at = len(turns)
            turns.append(_turn(Turn(at, *who, graph.path(above), number, own, step=at), calls.get(number),
                               paid.get(str(number), {}) if isinstance(paid, dict) else {}))
    if not graph.messages:
        raise BadInput(f"{record.where}.nodes: is empty; expected a node")
    return Trajectory(*who, None, tuple(graph.messages), tuple(turns), tuple(graph.spans),
                      tools=_tools(record.get("tools"))), graph.shape()


def _message(given: Field, number: int, store: Store) -> Message:
    """A message; its calls have name and arguments beside their id, not under ``function``."""
    flat = given.get("tool_calls")
    plain = Field({key: value for key, value in given.object().items() if key != "tool_calls"}, given.where)
    calls = tuple(call_from(call["id"].text(), call["name"].text(), call["arguments"].text(), call.where)
                  for call in ([] if flat is None else flat.items()))
    message = message_of(plain, number, store)
    return message.edited(calls=calls) if calls else message


def _tools(given: Field | None) -> tuple[Tool, ...]:
    found = []
    for tool in [] if given is None else given.items():
        description, parameters = tool.get("description"), tool.get("parameters")
        found.append(Tool(tool["name"].text(), "" if description is None else description.text(),
                          {} if parameters is None else parameters.object()))
    return tuple(found)


def _turn(turn: Turn, call: Field | None, paid: Any) -> Turn:
    """The turn with what is said of its call: why it ended, when, what it used and how it was sampled."""
    rewards = {str(k): float(v) for k, v in paid.items()} if isinstance(paid, dict) else {}
    if call is None:
        return Turn(turn.at, turn.seat, turn.policy, turn.prompt, turn.reply, turn.spans, step=turn.step,
                    rewards=rewards)
    finish, usage, time, drawn = (call.get(name) for name in ("finish_reason", "usage", "time", "sampling"))
    cached, cost = (None, None) if usage is None else (usage.get("cached_input_tokens"), usage.get("cost"))
    hits = 0 if cached is None else cached.whole()
    used = Usage() if usage is None else Usage(
        usage["prompt_tokens"].whole() + hits, hits, usage["completion_tokens"].whole(),
        None if cost is None else cost.number())
    return Turn(
        turn.at, turn.seat, turn.policy, turn.prompt, turn.reply, turn.spans,
        "stop" if finish is None else finish.one_of(_FINISH), step=turn.step, usage=used, sampling=_sampling(drawn),
        started=0.0 if time is None else time["start"].number(), ended=0.0 if time is None else time["end"].number(),
        rewards=rewards,
    )


def _sampling(given: Field | None) -> Sampling:
    if given is None:
        return Sampling()
    found: dict[str, Any] = {name: value.number() for name in ("temperature", "top_p")
                             if (value := given.get(name)) is not None}
    most = given.get("max_tokens")
    if most is not None:
        found["max_tokens"] = most.whole()
    try:
        return Sampling(**found)
    except ValueError as error:
        raise BadInput(f"{given.where}: {error}") from None


def _score(given: Field | None) -> Score | None:
    """The weighted sum of the rewards, each a part; None where nothing was scored."""
    parts, total = {}, 0.0
    for name in {} if given is None else given.object():
        reward = given.get(name) if given is not None else None
        if reward is not None:
            weight = reward.get("weight")
            parts[name] = reward["score"].number()
            total += parts[name] * (1.0 if weight is None else weight.number())
    return Score(total, parts=parts) if parts else None


def _stop(record: Field) -> Stop:
    errors, why, late = record.get("errors"), record.get("stop_condition"), record.get("is_timeout")
    reason = "" if why is None else why.text()
    if errors is not None and errors.items():
        return Stop("error", errors.items()[-1]["message"].text() or reason or "error")
    return Stop("budget" if late is not None and late.flag() else "done", reason)


# ---------------------------------------------------------------- out


def records(group: Sequence[Episode], give: Give) -> Iterator[Any]:
    """One trace a trajectory."""
    for episode in group:
        for trajectory in shown(episode, give.seats):
            yield _trace(episode, trajectory, give.store)


def _trace(episode: Episode, trajectory: Trajectory, store: Store) -> dict[str, Any]:
    source = episode.source or {}
    imported = source.get("format") == NAME
    nodes, places = grown(trajectory, store, source.get("graph", {}) if imported else {})
    payload: Any = dict(episode.task.payload)
    data = payload if source.get("data") == "whole" else {"id": episode.task.id, "payload": payload}
    paid = {str(places[turn.at]): dict(turn.rewards) for turn in trajectory.turns
            if turn.rewards and turn.at in places}
    root = trajectory.seat.split("/")[0]
    error = episode.error if episode.stop.kind == "error" else None
    trained = not episode.train or root in episode.train
    return {
        "version": 1, "id": episode.id if imported else f"{episode.id}:{trajectory.seat}:{trajectory.policy}",
        "task": {"type": episode.task.family, "data": data, "key": episode.task.id},
        "agent": {"config": {}, "name": trajectory.seat.replace("/", "-"),
                  "trainable": trained if not imported else bool(episode.train)},
        "tools": [{"type": "function", "name": tool.name, "description": tool.description,
                   "parameters": dict(tool.parameters)} for tool in trajectory.tools],
        "nodes": nodes,
        "calls": [_call(turn, places[turn.at]) for turn in trajectory.turns if turn.at in places],
        "rewards": _rewards(episode, root), "metrics": {}, "info": {"turn_rewards": paid} if paid else {},
        "is_completed": episode.stop.kind != "error", "ok": error is None,
        "stop_condition": episode.stop.reason or episode.stop.kind, "is_timeout": episode.stop.kind == "budget",
        "errors": [] if error is None else [{"type": "Error", "message": error}],
        "timing": {"start": episode.started},
    }


def _rewards(episode: Episode, seat: str) -> dict[str, Any]:
    """What each verifier gave; of an imported trace its own rewards. None = abstained."""
    found: dict[str, Any] = {}
    for verifier, by_seat in episode.scores.items():
        score = by_seat.get(seat)
        if score is not None and verifier == NAME and score.parts:
            found |= {name: {"score": value, "weight": 1.0} for name, value in score.parts.items()}
        elif score is not None:
            found[verifier] = None if score.value is None else {"score": score.value, "weight": 1.0}
    return found


def _call(turn: Turn, node: int) -> dict[str, Any]:
    usage, sampling = turn.usage, turn.sampling
    used: dict[str, Any] = {"prompt_tokens": usage.prompt_tokens - usage.cached_tokens,
                            "completion_tokens": usage.completion_tokens, "cached_input_tokens": usage.cached_tokens}
    return {
        "node": node, "model": turn.policy, "finish_reason": _FINISHED.get(turn.finish),
        "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens},
        "usage": used if usage.cost_usd is None else {**used, "cost": usage.cost_usd},
        "time": {"start": turn.started, "end": turn.ended},
    }
