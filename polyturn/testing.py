"""Conformance checks for what you bring: each plays your part and says what is broken and where to look.

``await check_suite(suite)``, ``await check_env(make)``, ``await check_policy(policy)``,
``await check_context(context)``, ``await check_agent(make)``, ``check_advantage(advantage)``, ``check_loss(loss)``.
All raise :class:`CheckFailed`.

>>> import asyncio
>>> from polyturn.programs import Table, as_env
>>> from polyturn.types import Task
>>> async def echo(task: Task, seed: int, table: Table) -> dict[str, str]:
...     reply = await table.ask("agent", "Say something.")
...     return {"said": reply.text}
>>> asyncio.run(check_env(lambda: as_env(echo)(Task("t", "echo"), 0)))
"""

from __future__ import annotations

from polyturn.conformance.credit import check_advantage, check_loss, made_groups, made_turns
from polyturn.conformance.env import check_env
from polyturn.conformance.failed import CheckFailed
from polyturn.conformance.models import Counted, check_agent, check_context, check_policy
from polyturn.conformance.suite import check_suite

__all__ = [
    "CheckFailed", "Counted", "check_advantage", "check_agent", "check_context", "check_env", "check_loss",
    "check_policy", "check_suite", "made_groups", "made_turns",
]
