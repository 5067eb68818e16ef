"""Errors that say what came, what was expected and what to do. Each also is the builtin that it specialises."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyturn.types import Trajectory


class PolyturnError(Exception):
    """The root: everything that Polyturn raises on purpose."""


class BadInput(PolyturnError, ValueError):
    """Something the user gave cannot be used."""


class UnknownName(PolyturnError, LookupError):
    """A name that does not exist, with the nearest one that does."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"no {what} named {name!r}; {hint}known: {', '.join(names) or 'none'}")


class BudgetSpent(PolyturnError, RuntimeError):
    """A seat has used up a limit; everything sampled so far is kept."""


class EnvironmentFailed(PolyturnError, RuntimeError):
    """An environment raised, hung or broke its protocol: the episode is an error, never a zero."""


class PolicyFailed(PolyturnError, RuntimeError):
    """A policy could not answer: an endpoint that is down, a model that gave numbers that are not finite."""


class WorkerLost(PolyturnError, RuntimeError):
    """A worker ended or hung before its episode did: how that ends is unknown, and it is to be played again."""

    trajectories: tuple[Trajectory, ...] = ()
    """What was said in the episode before, as it was recorded."""


class VerifierFailed(PolyturnError, RuntimeError):
    """A verifier could not score any episode it was shown; one that it could not score among others is lost alone."""


class LearnerFailed(PolyturnError, RuntimeError):
    """A process of a learner that runs on several ended, hung, or answered something else than it was asked."""


class DeadlinePassed(PolyturnError, TimeoutError):
    """A wait took longer than it may; the message says who waited for whom."""


class NotTrainable(PolyturnError, ValueError):
    """Tokens that cannot be proved to be sampled by the policy that is to learn from them."""


class NotFinite(PolyturnError, ArithmeticError):
    """A reward, loss, gradient or weight came out as NaN or infinite."""


class Stopped(PolyturnError, RuntimeError):
    """Somebody asked a run at work to stop, and it did, with a checkpoint."""


class NotIsolated(PolyturnError, RuntimeError):
    """This machine cannot isolate untrusted code as well as was asked for; the message says what to install."""


def first_of(error: BaseException) -> BaseException:
    """The error itself, or the first one inside a group of them, as tasks that ran together raise it.

    >>> first_of(ExceptionGroup("tasks", [ExceptionGroup("more", [KeyError("a")]), ValueError("b")]))
    KeyError('a')
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class MissingPackage(PolyturnError, ImportError):
    """An optional package is not installed; the message names the command that installs it."""

    def __init__(self, package: str, extra: str = "", *, command: str = "") -> None:
        """``command`` installs it where no extra of Polyturn does."""
        command = command or f"pip install 'polyturn[{extra}]'"
        super().__init__(f"{package} is not installed; install it with: {command}")
