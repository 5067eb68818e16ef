"""Who is judged: ``base``, ``random``, ``null``, ``oracle``, a run or model folder, or a server's address."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from polyturn.agents.chat import AnswerAgent
from polyturn.cli.subject import MAIN
from polyturn.errors import BadInput, UnknownName
from polyturn.protocols import Agent, Answer, Match, Player, Policy
from polyturn.types import Seat

WORDS = ("base", "random", "null", "oracle")
MODEL_FILES = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Means:
    """How a model is run, here or on a server: numbers, key, money."""

    model: str = ""
    """The name that a server knows its model by; for ``base``, a model folder in place of the embedded model."""
    dtype: str = "float32"
    deterministic: bool = False
    key_env: str = "OPENAI_API_KEY"
    spend_limit_usd: float | None = None
    price_prompt: float | None = None
    """US dollars for a million prompt tokens."""
    price_completion: float | None = None
    device: str = ""
    """Of a model that runs here; empty = the first GPU, else the processor."""
    engine: str = ""
    """Of a model that runs here: how it samples; empty = the first engine that fits."""


def check_policy(policy: str) -> None:
    """Raises UnknownName or BadInput for a text that names no policy."""
    if policy in WORDS or policy.startswith(("http://", "https://")):
        return
    if not Path(policy).exists() and "/" not in policy:
        raise UnknownName("policy", policy, WORDS)
    model_folder(Path(policy))


def model_folder(folder: Path) -> Path:
    """The folder itself if it holds a model; of a run the stage that its results name as ``model`` (a control that came
    after it is not what was learned), else the newest.

    Raises: BadInput with what was looked for.
    """
    if any((folder / name).is_file() for name in MODEL_FILES):
        return folder
    kept = [path.parent for name in MODEL_FILES for path in folder.glob(f"checkpoints/*/{name}")]
    stages = [path for path in kept if not path.name.endswith("-best")]
    if not stages:
        what = "has no finished stage under checkpoints/" if (folder / "run.json").is_file() else "holds no model"
        there = "" if folder.exists() else " (it does not exist)"
        raise BadInput(f"{folder} {what}{there}; expected a folder with {' or '.join(MODEL_FILES)}, or a run folder "
                       "with one of its checkpoints done")
    named = [path for path in stages if path.name == _named(folder)]
    return max(named or stages, key=lambda path: path.stat().st_mtime)


def _named(folder: Path) -> str | None:
    """The stage that a run's results name as its model."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error})") from None
    named = results.get("model") if isinstance(results, dict) else None
    return named if isinstance(named, str) else None


def open_policy(policy: str, means: Means = Means()) -> Policy:
    """The policy of this name, ready to sample, under the name ``main``."""
    check_policy(policy)
    if policy in ("random", "null", "oracle") or policy.startswith(("http://", "https://")):
        for flag, given in (("--device", means.device), ("--engine", means.engine)):
            if given:
                raise BadInput(f"{flag} {given} would do nothing: no model of policy {policy} computes here")
    if policy in ("random", "null", "oracle"):
        from polyturn.policies.dictated import Dictated

        return Dictated(name=MAIN)
    if policy.startswith(("http://", "https://")):
        return _on_server(policy, means)
    from polyturn.policies.local import Local

    folder = (Path(means.model) if means.model else None) if policy == "base" else model_folder(Path(policy))
    dtype: Any = "float32" if means.deterministic else means.dtype
    engine: Any = means.engine
    return Local.load(folder, name=MAIN, dtype=dtype, deterministic=means.deterministic, device=means.device,
                      engine=engine)


def _on_server(address: str, server: Means) -> Policy:
    from polyturn.policies.endpoint import Endpoint, Prices

    if not server.model:
        raise BadInput(f"--policy {address} needs --model: the name that the server knows its model by")
    if (server.price_prompt is None) != (server.price_completion is None):
        raise BadInput("give both --price-prompt and --price-completion, or neither")
    prices = None
    if server.price_prompt is not None and server.price_completion is not None:
        prices = Prices(server.price_prompt, server.price_completion)
    return Endpoint(address, server.model, name=MAIN, key_env=server.key_env, prices=prices,
                    spend_limit_usd=server.spend_limit_usd)


def seated(policy: str, matches: Sequence[Match], done: Collection[tuple[int, int]] = ()) -> list[Match]:
    """The matches with the judged policy in its seats: scripted players for ``random``, ``null`` and ``oracle``.

    ``done`` = (place of the match, trial) of what will not be played, so that the other trials draw what they would.
    """
    if policy not in ("random", "null", "oracle"):
        return list(matches)
    return [_scripted(policy, match, [t for i, t in done if i == place]) for place, match in enumerate(matches)]


def _scripted(policy: str, match: Match, done: Collection[int]) -> Match:
    cast = dict(match.cast)
    for seat, player in match.cast.items():
        if player.policy == MAIN:
            cast[seat] = Player(_agents(policy, match, seat, done), MAIN)
    return replace(match, cast=cast)


def _agents(policy: str, match: Match, seat: Seat, done: Collection[int]) -> Callable[[], Agent]:
    trials: Iterator[int] = (trial for trial in count() if trial not in done)
    answer_of(policy, match, seat, 0)
    return lambda: AnswerAgent(answer_of(policy, match, seat, next(trials)))


def answer_of(policy: str, match: Match, seat: Seat, trial: int) -> Answer:
    """The scripted player for one seat of one episode. Raises: BadInput where the suite has none."""
    from polyturn.envs.answers import null_answer, random_answer
    from polyturn.seeds import derive

    if policy == "random":
        return random_answer(match.task, derive("random", match.seed, trial), seat)
    own: Callable[..., Answer] | None = getattr(match.suite, policy, None)
    if own is None:
        if policy == "null":
            return null_answer
        raise BadInput(f"{match.suite.spec.name} has no {policy}: the suite gives no scripted solver")
    return own(match.task)
