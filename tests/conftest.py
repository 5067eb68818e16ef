"""Rules for the whole suite: tests may be coroutines, and a skip must be allowed in ``skips.txt`` or the run is red."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SKIPS = Path(__file__).parent / "skips.txt"


def allowed_skips(text: str) -> dict[str, str]:
    """Test id -> reason, from lines ``<test id> : <reason>``; ``#`` begins a comment."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pairs = [line.split(" : ", 1) for line in lines if line]
    bad = [pair[0] for pair in pairs if len(pair) != 2]
    if bad:
        raise pytest.UsageError(f"skips.txt: no reason (' : ' and a text) after {bad}")
    return {name.strip(): reason.strip() for name, reason in pairs}


class SkipGuard:
    """Counts skipped and expected-to-fail tests; the run fails if one of them is not allowed."""

    def __init__(self, allowed: dict[str, str]) -> None:
        self.allowed = allowed
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.skipped.append(report.nodeid)

    def forbidden(self) -> list[str]:
        return sorted(set(self.skipped) - self.allowed.keys())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.forbidden() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name in self.forbidden():
            text = f"SKIPPED WITHOUT LEAVE {name}: mend it or allow it in tests/skips.txt"
            terminalreporter.write_line(text, red=True)


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the tests in the background ignores ctrl-C for them and for every child that they press it in.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(SkipGuard(allowed_skips(SKIPS.read_text())), "skip-guard")


def as_plain(test: Callable[..., Any]) -> Callable[..., None]:
    """A coroutine test as a plain function, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[Any]:
    """Runs ``async def`` tests, also under ``hypothesis.given``, with no plugin."""
    inner = getattr(pyfuncitem.obj, "hypothesis", None)
    if inner is not None and inspect.iscoroutinefunction(inner.inner_test):
        inner.inner_test = as_plain(inner.inner_test)
    elif inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = as_plain(pyfuncitem.obj)
    return (yield)
