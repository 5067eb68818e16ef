"""More than fifty clean runs: every shipped recipe, every arm, many environments, a tiny model, a few iterations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyturn.audit.report import AuditReport, audit_run
from polyturn.cli.recipe import load, with_values
from polyturn.cli.run import Order, execute
from polyturn.verbs import waited
from tests.policies.tiny import tiny_folder

Named = tuple[str, dict[str, Any]]
MODEL = "a folder"
"""In place of the path of a tiny model, where a recipe cannot make one."""


def arms(recipe: str, small: Mapping[str, Any], **each: Mapping[str, Any]) -> dict[str, Named]:
    return {f"{recipe}-{name}": (recipe, {**small, **more}) for name, more in each.items()}


GROUP: dict[str, Any] = {
    "model": MODEL, "iterations": 3, "groups": 3, "rollouts": 4, "test_tasks": 2, "trials": 1, "max_tokens": 4,
    "lr": 1e-3, "mask": True}
GYM = {"model": "tiny", "groups": 3, "rollouts": 4, "horizons": (2, 3, 5), "every": 1, "env_steps": 90, "test_tasks": 2,
       "lr": 1e-3}
ARCHER = {"model": "tiny", "words": 4, "questions": 4, "env_steps": 60, "episodes": 6, "critic_updates": 2,
          "actor_updates": 2, "batch": 6, "warmup": 1, "lr": 1e-3, "test_tasks": 2}
CODE = {"model": "tiny", "trajectories": 8, "updates": 2, "tokens": 150, "mix": 0.0, "test_tasks": 2, "before_tasks": 1,
        "reply_tokens": 4, "test_most": 6}
DART = {"model": "tiny", "env_steps": 200, "groups": 2, "rollouts": 4, "tasks": 4, "horizon": 4, "lr": 1e-3,
        "warm_lr": 1e-3, "environments": 8, "warm_updates": 2}
EPO = {"model": "tiny", "iterations": 3, "groups": 3, "rollouts": 4, "horizon": 4, "test_tasks": 2, "lr": 1e-3,
       "coefficient": 0.1}
LAB = {"model": "tiny", "brief": True, "branching": "3,2", "sft_updates": 2, "sft_tasks": 2, "sft_lr": 1e-3,
       "iterations": 4, "tasks": 2, "steps": 4, "rollouts": 4, "lr": 1e-3, "max_tokens": 6, "test_tasks": 2}
GAIN = {"model": "tiny", "people": 4, "fresh": True, "listed": True, "steps": 3, "warm_updates": 1, "iterations": 3,
        "groups": 3, "rollouts": 4, "test_tasks": 2, "lr": 1e-3, "warm_lr": 1e-3}
MEMORY = {"model": "tiny", "warm_updates": 4, "warm_episodes": 2, "iterations": 3, "groups": 2, "rollouts": 4,
          "test_tasks": 1, "warm_lr": 1e-3, "max_tokens": 8}
MUA = {"model": "tiny", "warm_updates": 4, "warm_episodes": 4, "iterations": 3, "groups": 2, "rollouts": 4,
       "test_tasks": 2, "trials": 1, "max_tokens": 8, "lr": 1e-3}
PREFER = {"model": "tiny", "steps": 1, "sft_updates": 4, "sft_episodes": 8, "sft_lr": 3e-3, "rounds": 2, "prompts": 6,
          "samples": 4, "pairs": 2, "test_tasks": 2, "lr": 1e-3}
QUICK = {"model": MODEL, "warm_updates": 2, "warm_episodes": 2, "iterations": 3, "groups": 2, "rollouts": 4,
         "test_tasks": 2, "trials": 1, "warm_lr": 1e-3, "lr": 1e-3}
SPIRAL = {"model": "tiny", "iterations": 3, "batch": 6, "warm_updates": 1, "measure_every": 3, "test_games": 4,
          "mask": True, "rules": False, "lr": 1e-3}
SUPO = {"model": "tiny", "warm_updates": 4, "warm_episodes": 4, "iterations": 3, "groups": 2, "rollouts": 4,
        "test_tasks": 2, "warm_lr": 1e-3, "parts": 4, "steps": 8}

RUNS: dict[str, Named] = {
    **arms("group_rl", GROUP, guess={"environment": "guess_the_number"}, noughts={"environment": "tic_tac_toe"},
           kuhn={"environment": "kuhn_poker"}, kuhn_alone={"environment": "kuhn_poker_vs_random"},
           many={"environment": "tic_tac_toe", "rollouts": 8}, pairs={"environment": "kuhn_poker", "rollouts": 2},
           told={"environment": "guess_the_number", "system": "Guess.", "seed": 2},
           warm={"environment": "tic_tac_toe", "warm_updates": 2},
           lora={"environment": "tic_tac_toe", "lora": 4}, cool={"environment": "guess_the_number", "temperature": 0.7},
           unmasked={"environment": "tic_tac_toe", "mask": False, "warm_updates": 2, "warm_lr": 1e-3, "seed": 1}),
    **arms("agentgym_rl", GYM, scaled={}, short={"arm": "short"}, long={"arm": "long"}, rloo={"estimator": "rloo"},
           plus={"estimator": "reinforce_plus_plus"}, gae={"estimator": "gae"}, warm={"warm_updates": 1},
           no_kl={"kl": 0.0}),
    **arms("archer", ARCHER, archer={}, reinforce={"arm": "reinforce"}, no_replay={"arm": "no_replay"},
           no_v={"arm": "no_v"}, baseline={"baseline": True}, imitate={"imitate": 2}),
    **arms("codeact", CODE, text={"arm": "text"}, json={"arm": "json"}, code={}),
    **arms("context_drift", {"model": "tiny", "conversations": 2, "turns": 4, "reply_tokens": 5, "at": "3"},
           warm={"warm_updates": 3}),
    **arms("dart", DART, dart={"by_ticket": True}, no_pool={"arm": "no_pool"},
           plain={"arm": "plain", "kl": 0.0, "rollouts": 12, "horizon": 8, "env_steps": 400, "warm_updates": 6}),
    **arms("epo", EPO, none={"arm": "none", "warm_updates": 1}, bonus={"arm": "bonus", "warm_updates": 1},
           hinge={"arm": "hinge", "scope": "turn"}, phase={"arm": "hinge_phase", "high": 0.6},
           official={"arm": "official", "environment": "crafting"}),
    **arms("gui_exploration_lab", LAB, sft={"arm": "sft"}, st_rl={"arm": "st_rl"}, mt_rl={}),
    **arms("igpo", GAIN, igpo={}, joint={"arm": "igpo_joint"}, log={"arm": "igpo_log"}, grpo={"arm": "grpo"},
           late={"gamma": 0.95, "kl": 0.0}),
    **arms("mem1", MEMORY, mem1={}, full={"arm": "full"}),
    **arms("mua_rl", MUA, live={}, fixed={"arm": "fixed", "kl": 0.0}, sft={"arm": "sft"}, user={"user": "model"}),
    **arms("multi_turn_preference", PREFER, m_dpo={"nll": 0.1}, m_kto={"arm": "m_kto", "renew": False},
           single={"arm": "single_turn_dpo"}, filtered={"arm": "filtered_sft"}),
    **arms("quickstart", QUICK, plain={}, control={"control": True}),
    **arms("spiral", SPIRAL, spiral={}, raw={"arm": "raw"}, blind={"arm": "seat_blind"}, late={"gamma": 0.9}),
    **arms("supo", SUPO, supo={}, unmasked={"arm": "unmasked"}, frozen={"arm": "frozen"},
           truncation={"arm": "truncation"}, finished={"statistics": "finished"}),
}


def clean_run(name: str, folder: Path) -> AuditReport:
    """Makes a clean run and audits it."""
    recipe, settings = RUNS[name]
    given = {**settings, "model": str(tiny_folder(folder / "model"))} if settings["model"] == MODEL else settings
    found = load(recipe)
    order = Order(found, recipe, with_values(found, given), folder / "run", deterministic=True)
    waited(execute(order, quiet=True))
    return audit_run(folder / "run")
