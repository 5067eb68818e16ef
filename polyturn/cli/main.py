"""``polyturn COMMAND``: chooses the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done; 1 a check found faults; 2 bad input; 3 an environment or a policy failed; 4 the run failed (numbers
that are not finite, a full disk, tokens that may not be trained on, an error in the user's own file); 70 a fault of
Polyturn itself, with traceback; 130 interrupted by ctrl-C, or stopped as somebody asked; 143 ended by SIGTERM. What was
finished before is kept in every case.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from traceback import print_exc

from polyturn.cli.signals import Terminated, end, with_signal
from polyturn.errors import (
    BadInput,
    DeadlinePassed,
    EnvironmentFailed,
    MissingPackage,
    PolicyFailed,
    PolyturnError,
    Stopped,
    UnknownName,
    VerifierFailed,
)

USER_MODULE = "polyturn_user_"
"""How the names of modules made from users' files begin."""
DONE, FOUND, BAD_INPUT, PART_FAILED, RUN_FAILED, FAULT, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 143

COMMANDS = {
    "run": ("run", "run a recipe: train, then print its table"),
    "eval": ("evaluate", "evaluate a policy on an environment or on a recipe's held-out tasks"),
    "compare": ("compare", "compare results of runs, paired by task, from their folders"),
    "play": ("play", "watch episodes of an environment, or take a seat yourself"),
    "study": ("study", "compare the arms of a recipe over seeds"),
    "view": ("view", "show runs in the browser, live and after: curves, episodes, tokens"),
    "ctl": ("control", "pause, resume, checkpoint, stop a run at work, or change its limits"),
    "show": ("show", "show a run or one episode of it in the terminal"),
    "track": ("track", "hand a run's numbers to TensorBoard, trackio, W&B (offline) or MLflow"),
    "audit": ("audit", "check every trained token of a run against what was sampled"),
    "query": ("query", "ask the record of runs in SQL"),
    "export": ("formats", "write a run in the format of others: OpenAI, TRL, inspect, ..."),
    "import": ("formats", "make a run of a file of another format"),
    "methods": ("listing", "list the methods that are carried, with papers"),
    "envs": ("listing", "list the environments, with packages and known scores"),
    "doctor": ("doctor", "what is installed, how fast this machine is, what will fit; why a run stands still"),
    "new": ("scaffold", "write a new environment or recipe that passes its checks"),
    "runs": ("runs", "list run folders, their size, remove one"),
    "chat": ("chat", "talk to the model of a run"),
}
"""Command -> (module of this folder that has ``command(name, arguments) -> exit code``, what it does)."""

HELP = f"""usage: polyturn COMMAND [options]

Train, run, evaluate and diagnose language-model agents that act over many turns.

commands:
{chr(10).join(f"  {name:<9}{text}" for name, (_, text) in COMMANDS.items())}

options:
  --help       this text; polyturn COMMAND --help says more
  --version    the version
  --traceback  show where an error came from (with any command)

examples:
  polyturn run quickstart
  polyturn eval guess_the_number --policy random

exit codes: 0 done, 1 a check found faults, 2 bad input, 3 an environment or policy failed, 4 the run failed,
70 a fault of Polyturn itself, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one command line (default: the process's own)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in given
    given = [word for word in given if word != "--traceback"]
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    before = with_signal(signal.SIGTERM, end)
    try:
        return dispatch(given)
    except KeyboardInterrupt as error:
        say(f"interrupted; what was finished is kept{_notes(error)}")
        return INTERRUPTED
    except Terminated as error:
        say(f"terminated; what was finished is kept{_notes(error)}")
        return TERMINATED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except PolyturnError as error:
        if traceback:
            raise
        hint = "" if "--resume" in str(error) else _notes(error)
        say(str(error) if isinstance(error, Stopped) else f"error: {error}{hint}")
        return exit_code(error)
    except OSError as error:
        if traceback:
            raise
        say(f"error: {error}{_notes(error)}")
        return RUN_FAILED
    except Exception as error:
        print_exc()
        place = users_place(error)
        if place is not None:
            say(f"error in your file, {place}: {type(error).__name__}: {error}")
            return RUN_FAILED
        say("this is a fault of Polyturn itself, not of your input; what was finished is kept")
        return FAULT
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT if stop.code else DONE
    finally:
        with_signal(signal.SIGTERM, before)


def _notes(error: BaseException) -> str:
    """What was noted on an error on its way: how to go on."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def users_place(error: BaseException) -> str | None:
    """``FILE, line N`` of the innermost line of a user's own file that an error passed through; None without one."""
    place = None
    at = error.__traceback__
    while at is not None:
        if str(at.tb_frame.f_globals.get("__name__", "")).startswith(USER_MODULE):
            place = f"{at.tb_frame.f_code.co_filename}, line {at.tb_lineno}"
        at = at.tb_next
    return place


def exit_code(error: PolyturnError) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, Stopped):
        return INTERRUPTED
    if isinstance(error, BadInput | UnknownName | MissingPackage):
        return BAD_INPUT
    if isinstance(error, EnvironmentFailed | PolicyFailed | VerifierFailed | DeadlinePassed):
        return PART_FAILED
    return RUN_FAILED


def dispatch(given: Sequence[str]) -> int:
    """Runs the named command. Raises: UnknownName for a command that does not exist."""
    name, rest = (given[0], list(given[1:])) if given else ("--help", [])
    if name in {"--help", "-h", "help"}:
        print(HELP, end="")
        return DONE
    if name == "--version":
        from importlib.metadata import version

        print(f"polyturn {version('polyturn')}")
        return DONE
    if name not in COMMANDS:
        raise UnknownName("command", name, COMMANDS)
    command: Callable[[str, list[str]], int] = import_module(f"polyturn.cli.{COMMANDS[name][0]}").command
    return command(name, rest)


def say(text: str) -> None:
    """One line to the person at the terminal."""
    print(f"polyturn: {text}", file=sys.stderr)
