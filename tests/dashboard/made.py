"""Runs to look at: groups of two episodes that part ways, with pictures, a rewritten context, tokens and credit."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from polyturn.record.write import RunRecorder, open_run
from polyturn.types import (
    Call,
    Episode,
    Event,
    Message,
    Part,
    PolicyInfo,
    Score,
    Span,
    Stop,
    Task,
    Trajectory,
    Turn,
    Usage,
    assistant,
    system,
    user,
)

WORDS = ("<end>", "guess", "too", "low", "high", "I", "say", "eight", "twelve", "ten", "You", "won", "play", "a",
         "game", "?")
RULE = json.dumps({
    "advantage": "group_standardised(channels=('score'))", "weighting": "token_mean", "proportional": True,
    "loss": "policy_gradient(clip_low=0.2, clip_high=0.2)", "clip": {"clip_low": 0.2, "clip_high": 0.2}, "updates": 2})
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a730000001049444154789c63f8cfc0f01f0c18208400"
    "4bd806fad3a6d2f70000000049454e44ae426082")


def tokenizer() -> Any:
    """One id a word; decoding joins them by spaces."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {("▁" if i else "") + word: i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    made.decoder = decoders.Metaspace()
    return made


def keep_tokenizer(folder: Path) -> str:
    """Puts it where a run keeps its own; its hash."""
    (folder / "tokenizers").mkdir(parents=True, exist_ok=True)
    known = json.loads(tokenizer().to_str())
    (folder / "tokenizers" / "words.json").write_text(json.dumps(known))
    rest = {name: value for name, value in known.items() if name not in ("truncation", "padding")}
    return sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def ids(*words: str) -> Any:
    return np.array([WORDS.index(word) for word in words], np.int32)


def episode(trial: int, tokenizer_sha256: str, picture: str, *, iteration: int = 0, won: bool = True) -> Episode:
    """Two guesses by one seat; the second differs by trial, and before the third the context is rewritten."""
    second = "twelve" if won else "ten"
    spans = (
        Span(-1, ids("play", "a", "game", "guess")),
        Span(0, ids("I", "say", "eight", "<end>"), True, np.array([-0.1, -0.2, -1.5, -0.01]), iteration),
        Span(1, ids("too", "low")),
        Span(2, ids("I", "say", second, "<end>"), True, np.array([-0.1, -0.2, -2.5, -0.01]), iteration),
        Span(0, ids("too", "high", "?")),
        Span(4, ids("I", "say", "ten", "<end>"), True, np.array([-0.3, -0.2, -0.5, -0.01]), iteration),
    )
    messages: tuple[Message, ...] = (
        system("Play a game", id="s"),
        Message("user", (Part("text", "Guess"), Part("image", media=picture, mime="image/png")), id="u0"),
        assistant("I say eight", id="a0"), user("Too low", id="u1"),
        assistant(f"I say {second}", id="a1", calls=(Call("c1", "guess", {"number": 12}, '{"number": 12}'),)),
        user("<b>Too</b> high?", id="u2"), assistant("I say ten", id="a2"),
    )
    turns = (
        Turn(0, "agent", "main", (0, 1), 2, (1,), step=0, usage=Usage(4, 0, 4), started=1.0, ended=1.2),
        Turn(2, "agent", "main", (0, 1, 2, 3), 4, (3,), step=1, usage=Usage(10, 8, 4), started=1.2, ended=1.5),
        Turn(4, "agent", "main", (0, 5), 6, (5,), step=2, usage=Usage(7, 4, 4), started=1.5, ended=1.9,
             rewards={"win": float(won)}),
    )
    host = Trajectory("host", "script", None, (system("You are the host", id="h"), assistant("You won", id="h0")),
                      (Turn(5, "host", "script", (0,), 1, (), step=2, started=1.9, ended=2.0),), ())
    name = f"learn.{iteration}.0.{trial}"
    return Episode(
        name, Task("guess-1", "guessing", {"secret": 10}), 77, f"learn.{iteration}.0", trial, iteration=iteration,
        train=frozenset({"agent"}), cast={
            "agent": PolicyInfo("main", "model", iteration, tokenizer_sha256=tokenizer_sha256),
            "host": PolicyInfo("script")},
        trajectories=(Trajectory("agent", "main", None, messages, turns, spans, Stop("done", "guessed")), host),
        events=(Event(3, "tool", "agent", {"name": "guess", "good": True}),
                Event(6, "reward", "agent", {"channel": "win", "value": float(won)})),
        final={"won": won}, stop=Stop("done", "guessed" if won else "gave up"), started=1.0, ended=2.0,
    )


def live(played: Episode, recorder: RunRecorder) -> None:
    """Records the turns as they would be sampled: each with the messages and spans that are new."""
    for trajectory in played.trajectories:
        messages: set[int] = set()
        spans: set[int] = set()
        for turn in trajectory.turns:
            path = {index for span in turn.spans for index in trajectory.path(span)} - spans
            fresh = {*turn.prompt, turn.reply} - messages
            recorder.turn(played.id, replace(turn, rewards={}), {i: trajectory.messages[i] for i in fresh},
                          {i: trajectory.spans[i] for i in path})
            messages |= fresh
            spans |= path


def iteration(recorder: RunRecorder, i: int, tokenizer_sha256: str, picture: str) -> None:
    """A group of two, its scores, credit and metrics."""
    for trial in (0, 1):
        played = episode(trial, tokenizer_sha256, picture, iteration=i, won=trial == 0)
        live(played, recorder)
        recorder.episode(played)
        recorder.scores("score", {played.id: {"agent": Score(1.0 - trial, trial == 0)}})
        sign = 1.0 - 2 * trial
        recorder.credit(i, [{
            "episode": played.id, "seat": "agent", "policy": "main", "at": turn.at, "span": turn.spans[0],
            "stage": "learn", "waiver": "", "version": i, "advantage": np.full(4, sign),
            "weight": np.array([1 / 24] * 3 + [0.0]),
            "old": played.trajectories[0].spans[turn.spans[0]].logprobs + np.array([0.0, 0.001, -0.002, 0.0]),
            "behavior": played.trajectories[0].spans[turn.spans[0]].logprobs, "reference": None,
            "entropy": np.array([0.5, 0.6, 1.9, 0.1]), "clipped": np.array([False, False, True, False]),
            "present": played.trajectories[0].spans[turn.spans[0]].logprobs + np.array([0.1, 0.1, 0.3, 0.0]),
            "push": np.array([-sign / 24 * np.exp(0.1), -sign / 24 * np.exp(0.099), 0.0, np.nan]),
            "rule_json": RULE, "steps_json": json.dumps([
                {"stage": "channels", "out": 1.0 - trial, "paid score": 1.0 - trial},
                {"stage": "normalise", "out": sign, "value": 1.0 - trial, "centre": 0.5, "divisor": 0.5, "count": 2.0,
                 "key": ["group", "seat"], "unit": "rollout", "by": "mean", "scale": "population", "epsilon": 1e-06},
                {"stage": "inherit", "out": sign, "root": "agent"}]),
        } for turn in played.trajectories[0].turns])
    recorder.metrics(i, {"score/guessing": 0.5, "learner/loss": 1.0 / (i + 1)}, stage="learn")


def made_run(folder: Path, *, iterations: int = 3, seed: int = 0, close: bool = True) -> RunRecorder:
    """A run of some iterations; left open where ``close`` is False."""
    recorder = open_run(folder, recipe="guess", text="async def main(): ...\n", settings={"seed": seed, "lr": 0.1},
                        seeds={"seed": seed})
    known, picture = keep_tokenizer(folder), recorder.media.put(PNG)
    for i in range(iterations):
        iteration(recorder, i, known, picture)
        recorder.commit(f"learn:{i + 1}")
    if close:
        recorder.close()
    return recorder
