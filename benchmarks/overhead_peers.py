"""One peer's turns with a scripted policy and an environment that costs nothing, timed inside its own process.

``python overhead_peers.py NAME EPISODES TURNS`` prints one JSON line with ``us_per_turn``. It imports nothing of
Polyturn, so that it runs wherever the peer is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ALWAYS = "I guess 8."
HEARD = "Higher. Guess again."


def play_textarena(episodes: int, turns: int) -> None:
    """TextArena's own loop (get_observation, agent, step) over a game of one player that lasts ``turns`` turns; it
    records nothing to disk."""
    import textarena as ta

    class Free(ta.Env):  # type: ignore[misc]
        """One player, the same words after every action, reward 1 after the last."""

        def reset(self, num_players: int, seed: int | None = None) -> None:
            self.state = ta.SinglePlayerState(num_players=num_players, seed=seed, max_turns=turns + 1)
            self.state.reset(game_state={}, player_prompt_function=lambda player_id, game_state: "Guess a number.")
            self.taken = 0

        def step(self, action: str) -> tuple[bool, Any]:
            self.state.add_observation(
                from_id=self.state.current_player_id, message=action, observation_type=ta.ObservationType.PLAYER_ACTION
            )
            self.taken += 1
            if self.taken < turns:
                self.state.add_observation(message=HEARD, observation_type=ta.ObservationType.GAME_MESSAGE)
            else:
                self.state.set_outcome(reward=1.0, reason="done")
            found: tuple[bool, Any] = self.state.step()
            return found

    envs = [ta.wrappers.LLMObservationWrapper(env=Free()) for _ in range(episodes)]
    for env in envs:
        env.reset(num_players=1, seed=0)
    live = envs
    while live:
        going = []
        for env in live:
            env.get_observation()
            done, _ = env.step(action=ALWAYS)
            if not done:
                going.append(env)
        live = going
    assert all(env.close()[0] == {0: 1.0} for env in envs)


def play_inspect(episodes: int, turns: int) -> None:
    """inspect-ai: a task whose solver answers each reply of its mock model, all samples at once, its log on disk."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Target, accuracy, scorer
    from inspect_ai.solver import TaskState, solver

    @solver  # type: ignore[untyped-decorator]
    def guesses() -> Any:
        async def solve(state: TaskState, generate: Any) -> TaskState:
            for turn in range(turns):
                state = await generate(state)
                if turn + 1 < turns:
                    state.messages.append(ChatMessageUser(content=HEARD))
            return state

        return solve

    @scorer(metrics=[accuracy()])  # type: ignore[untyped-decorator]
    def won() -> Any:
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value=1.0)

        return score

    def said(*_: Any) -> ModelOutput:
        output = ModelOutput.from_content("mockllm/model", ALWAYS)
        output.usage = ModelUsage(input_tokens=8, output_tokens=10, total_tokens=18)  # else it counts, and asks the net
        return output

    model = get_model("mockllm/model", custom_outputs=said)
    task = Task(dataset=[Sample(input="Guess a number.") for _ in range(episodes)], solver=guesses(), scorer=won())
    with tempfile.TemporaryDirectory() as folder:
        logs = eval(
            task, model=model, log_dir=folder, max_samples=episodes, max_connections=episodes, display="none",
            log_level="error",
        )
        assert logs[0].status == "success", logs[0].error
        assert all(sum(m.role == "assistant" for m in sample.messages) == turns for sample in logs[0].samples or ())


def play_verifiers(episodes: int, turns: int) -> None:
    """verifiers: an agent whose harness runs in this process, all rollouts at once. Its model calls go through the
    package's interception server, as all of its harnesses must; the client behind that says the same words without a
    network. The traces are written as the package writes them, one JSON line each."""
    import verifiers.v1 as vf
    from verifiers.v1.interception import server

    before = server.resolve_client
    server.resolve_client = lambda config: _saying()
    try:
        with tempfile.TemporaryFile("w") as file:
            for trace in asyncio.run(_rollouts(vf, episodes, turns)):
                assert trace.ok, trace.errors
                file.write(trace.model_dump_json() + "\n")
    finally:
        server.resolve_client = before


def _saying() -> Any:
    """A client of verifiers that answers every request with the same words."""
    from verifiers.v1.clients import Client
    from verifiers.v1.types import AssistantMessage, Response, Usage

    choice = {"index": 0, "message": {"role": "assistant", "content": ALWAYS}, "finish_reason": "stop"}
    raw = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}

    class Says(Client):  # type: ignore[misc]
        """The same reply always."""

        async def get_response(self, *given: Any, **more: Any) -> Any:
            return Response(
                id="x", created=0, model="m", message=AssistantMessage(content=ALWAYS), finish_reason="stop",
                usage=Usage(prompt_tokens=8, completion_tokens=10), raw=raw,
            )

    return Says()


async def _rollouts(vf: Any, episodes: int, turns: int) -> list[Any]:
    """The traces of verifiers, by one agent that all share."""
    import httpx
    from verifiers.v1.runtimes import ProgramResult

    http = httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None), trust_env=False)

    class Guesses(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
        """A dialogue of so many turns."""

        EXECUTES_CODE = False
        NEEDS_CONTAINER = False

        async def launch(self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, *_: Any) -> Any:
            messages = [{"role": "user", "content": "Guess a number."}]
            for _turn in range(turns):
                done = await http.post(
                    f"{endpoint}/chat/completions", json={"model": ctx.model, "messages": messages},
                    headers={"Authorization": f"Bearer {secret}"},
                )
                done.raise_for_status()
                messages += [done.json()["choices"][0]["message"], {"role": "user", "content": HEARD}]
            return ProgramResult(0, "", "")

    client = vf.EvalClientConfig(base_url="http://127.0.0.1:9/v1", api_key_var="NO_KEY_IS_NEEDED")
    config = vf.AgentConfig(
        model="m", client=client, runtime=vf.SubprocessConfig(), harness=vf.HarnessConfig(id="null")
    )
    agent = vf.Agent(config)
    agent.harness = Guesses(agent.harness.config)
    async with http, agent:
        tasks = [vf.Task(vf.TaskData(idx=i, prompt="Guess a number.")) for i in range(episodes)]
        return list(await asyncio.gather(*(agent.run(task) for task in tasks)))


PEERS: dict[str, Callable[[int, int], None]] = {
    "textarena": play_textarena, "inspect": play_inspect, "verifiers": play_verifiers,
}  # fmt: skip


def main(name: str, episodes: int, turns: int) -> None:
    """Times one run after a small one that warms up."""
    os.environ.setdefault("INSPECT_DISPLAY", "none")
    PEERS[name](min(episodes, 20), turns)
    began = time.perf_counter()
    PEERS[name](episodes, turns)
    print(json.dumps({"us_per_turn": (time.perf_counter() - began) * 1e6 / episodes / turns}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
