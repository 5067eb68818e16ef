"""``polyturn eval``: one policy on an environment, or on the held-out tasks of a recipe."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from polyturn.cli.judges import Verdicts, judge_lines, judged, judges_in
from polyturn.cli.mcp import add_servers, agent_with, armed, offered, servers_of
from polyturn.cli.parse import Parser, check_flags, finite, not_negative, positive, print_json, whole
from polyturn.cli.signals import Terminated, name_folder, stoppable
from polyturn.errors import BadInput

if TYPE_CHECKING:
    from polyturn.cli.policy import Means
    from polyturn.evaluate.benchmark import Result
    from polyturn.progress import Progress
    from polyturn.protocols import Match
    from polyturn.record.write import RunRecorder
    from polyturn.types import Episode

EXAMPLES = (
    "polyturn eval guess_the_number --policy random -n 4", "polyturn eval quickstart --policy base --json",
    "polyturn eval quickstart --policy runs/quickstart-20260101-120000",
    "polyturn eval tic_tac_toe --policy http://localhost:8000/v1 --model Qwen/Qwen3-8B",
    "polyturn eval my_tasks.py --policy http://localhost:8000/v1 --model Qwen/Qwen3-8B --mcp 'uvx mcp-server-time'",
    "polyturn eval --resume runs/eval-tic_tac_toe-20260101-120000",
)
RECIPE = "eval"
"""What stands for a recipe in the folder of an evaluation."""
PLACES = ("runs", "folder", "resume", "json")
"""Flags that say where, not what."""


def command(name: str, arguments: list[str]) -> int:
    """Plays, records, scores and prints the rows."""
    parser = _parser()
    asked, settings = parser.parse_known_args(arguments)
    if asked.resume:
        asked, settings = resumed(asked, arguments)
    elif asked.subject is None:
        raise BadInput("no environment or recipe given; polyturn envs lists them")
    if settings:
        from polyturn.cli.recipe import flags, is_recipe, load

        known = flags(load(asked.subject).settings) if is_recipe(asked.subject) else []
        check_flags(settings, [*known, *parser.flags()])
    try:
        outcome, reports, verdicts = asyncio.run(judge(asked, settings))
    except (KeyboardInterrupt, Terminated, OSError) as error:
        name_folder(error, name, Path(asked.folder) if asked.folder else None)
        raise
    show(asked, outcome, reports, verdicts)
    return 3 if outcome.mixture.n_trials == 0 and outcome.mixture.errors else 0


def _parser() -> Parser:
    parser = Parser("eval", "Evaluate a policy on an environment (name or .py file) or on a recipe's held-out tasks, "
                    "recorded in a run folder. Ends with 3 where every episode broke.", EXAMPLES)
    parser.add_argument("subject", metavar="SUBJECT", nargs="?",
                        help="an environment or a recipe; for a recipe its settings too")
    parser.add_argument("--policy", default="base", help="base, random, null, oracle, a run or model folder, address")
    parser.add_argument("-n", "--trials", type=positive, help="plays of each task (1, or what the recipe says)")
    parser.add_argument("--tasks", type=positive, help="tasks of each environment (all held-out ones)")
    parser.add_argument("--split", help="for an environment: other tasks than the held-out ones, such as train")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="argument of an "
                        "environment, as attack=direct of agentdojo_slack; may be given again")
    parser.add_argument("--judge", action="append", default=[], metavar="FILE", help="a .py file with a function "
                        "judge(episode), whose verdicts are recorded and compared with the score; may be given again")
    parser.add_argument("--retries", type=whole, default=0, help="how often an episode that broke is played again (0)")
    add_sampling(parser)
    add_means(parser)
    add_servers(parser)
    parser.add_argument("--concurrency", type=positive, default=64, help="episodes that run together (64)")
    parser.add_argument("--deterministic", action="store_true", help="same episodes every time; slower")
    parser.add_argument("--runs", default="runs", metavar="FOLDER", help="where run folders are made (runs)")
    parser.add_argument("--folder", metavar="FOLDER", help="this evaluation's own folder, new or empty")
    parser.add_argument("--resume", metavar="RUN", help="play what an evaluation that was broken off still lacks, and "
                        "what broke")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return parser


def resumed(asked: argparse.Namespace, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What an evaluation was begun with. Raises: BadInput for another folder, or where more is asked for."""
    from polyturn.record.run import read_info

    if set(arguments) - {"--resume", asked.resume, "--json"}:
        raise BadInput("--resume takes the evaluation's own settings; leave out all but --json")
    info = read_info(Path(asked.resume))
    if info.recipe != RECIPE:
        raise BadInput(f"{asked.resume} is a run of {info.recipe}, not an evaluation; polyturn run --resume goes "
                       "on with it")
    begun = dict(info.settings)
    flags = [str(flag) for flag in begun.pop("flags")]
    return argparse.Namespace(**{**vars(asked), **begun, "folder": asked.resume}), flags


def add_sampling(parser: Parser) -> None:
    """Flags that say how a model's replies are drawn on an environment; a recipe says that itself."""
    parser.add_argument("--temperature", type=not_negative, default=1.0, help="0 = the most likely token (1)")
    parser.add_argument("--max-tokens", type=positive, default=64, help="longest reply in tokens (64)")
    parser.add_argument("--mask", action="store_true", help="only replies that the rules allow")


def add_means(parser: Parser) -> None:
    """Flags that say how a model is run, here or behind an address."""
    parser.add_argument("--model", default="", help="for an address: the model's name there; for base: a model folder")
    parser.add_argument("--device", default="", help="where a model computes: cpu, cuda, cuda:1, mps (the first GPU, "
                        "else cpu)")
    parser.add_argument("--engine", default="", help="how a model samples here: slots, continuous or plain (the first "
                        "that fits)")
    parser.add_argument("--key-env", default="OPENAI_API_KEY", help="variable that holds the key (OPENAI_API_KEY)")
    parser.add_argument("--spend-limit", type=not_negative, metavar="USD", help="for an address: the most to spend")
    parser.add_argument("--price-prompt", type=not_negative, metavar="USD", help="for a million prompt tokens")
    parser.add_argument("--price-completion", type=not_negative, metavar="USD", help="for a million completion tokens")


def means_of(asked: argparse.Namespace, dtype: str = "float32") -> Means:
    """What these flags say."""
    from polyturn.cli.policy import Means

    return Means(asked.model, dtype, getattr(asked, "deterministic", False), asked.key_env, asked.spend_limit,
                 asked.price_prompt, asked.price_completion, asked.device, asked.engine)


Reports: TypeAlias = Mapping[str, Mapping[str, float]]
"""Environment -> what its suite reports beside the score, for suites that do."""


async def judge(asked: argparse.Namespace, settings: list[str]) -> tuple[Result, Reports, Verdicts]:
    """The result of the asked policy on the asked subject, what suites report and how judges agree; all recorded."""
    from polyturn.cli.policy import check_policy, open_policy, seated
    from polyturn.cli.subject import MAIN, exam_of
    from polyturn.evaluate.benchmark import evaluate
    from polyturn.evaluate.recorded import EVALUATE, played
    from polyturn.progress import make_progress
    from polyturn.rollout.pool import Pool
    from polyturn.types import Sampling

    check_policy(asked.policy)
    servers = servers_of(asked)
    sampling = Sampling(temperature=asked.temperature, max_tokens=asked.max_tokens)
    exam = exam_of(asked.subject, settings, tasks=asked.tasks, trials=asked.trials, sampling=sampling, mask=asked.mask,
                   split=asked.split, options=asked.option)
    judges = judges_in(asked.judge, exam.matches, asked.concurrency)
    before = played(Path(asked.folder)) if asked.resume else {}
    matches = seated(asked.policy, exam.matches, [(int(group.rpartition(".")[2]), trial) for group, trial in before])
    tools = await offered(servers)
    policy = open_policy(asked.policy, means_of(asked, getattr(exam.settings, "dtype", "float32")))
    recorder, pool = recorder_of(asked, settings), Pool(asked.concurrency, asked.retries)
    progress = make_progress(sys.stderr, turns=lambda: recorder.taken)
    recorder.tokenizer(getattr(policy, "chat", None))
    progress.stage(f"eval {asked.subject} with {asked.policy}", sum(m.rollouts for m in matches) - len(before))
    if servers:
        progress.note(f"tools of --mcp: {', '.join(tool.name for tool in tools)}")
        matches = armed(matches, agent_with(servers, sampling, media=recorder.media))
    with recorder:
        try:
            with stoppable(progress.note):
                outcome = await evaluate(matches, {MAIN: policy}, policy=MAIN, label=EVALUATE, recorder=recorder,
                                         pool=pool, finished=_counted(progress), done=before)
                outcome, verdicts = await judged(outcome, judges, matches, recorder)
            found = outcome, reports_of(matches, outcome), verdicts
        finally:
            progress.close()
            await closed(policy)
            for suite in {id(match.suite): match.suite for match in matches}.values():
                await suite.close()
    write_results(Path(recorder.folder), asked, *found)
    return found


def _counted(progress: Progress) -> Callable[[Episode], None]:
    """What shows each episode as it ends, with its number."""
    done = iter(range(sys.maxsize))

    def finished(episode: Episode) -> None:
        progress.sample(episode)
        progress.iteration(next(done), {})

    return finished


def recorder_of(asked: argparse.Namespace, flags: Sequence[str]) -> RunRecorder:
    """A recorder on the folder that was asked for, or a new one, which then stands in ``asked``."""
    from polyturn.cli.run import unused
    from polyturn.record.write import open_run

    if asked.resume:
        return open_run(asked.folder, resume=True)
    named = f"{RECIPE}-{Path(asked.subject).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(asked.folder) if asked.folder else unused(Path(asked.runs) / named)
    settings = {name: value for name, value in vars(asked).items() if name not in PLACES}
    asked.folder = str(folder)
    return open_run(folder, recipe=RECIPE, settings={**settings, "flags": list(flags)},
                    seeds={"deterministic": asked.deterministic})


def write_results(
    folder: Path, asked: argparse.Namespace, outcome: Result, reports: Reports, verdicts: Verdicts
) -> None:
    """``results.json``: what ``--json`` prints."""
    import json

    from polyturn.record.run import write_whole

    text = json.dumps(finite(as_object(asked, outcome, reports, verdicts)), ensure_ascii=False, sort_keys=True)
    write_whole(folder / "results.json", f"{text}\n".encode())


def as_object(asked: argparse.Namespace, outcome: Result, reports: Reports, verdicts: Verdicts) -> dict[str, Any]:
    """The outcome as JSON values."""
    from polyturn.evaluate.tables import as_json

    more = {**({"reports": reports} if reports else {}), **({"judges": verdicts} if verdicts else {})}
    return {"subject": asked.subject, "policy": asked.policy, **as_json(outcome), **more}


def reports_of(matches: Sequence[Match], outcome: Result) -> Reports:
    """What each suite that has a ``report`` says of its own groups."""
    found = {}
    for suite in {id(match.suite): match.suite for match in matches}.values():
        report = getattr(suite, "report", None)
        if report is not None:
            own = [group for match, group in zip(matches, outcome.groups, strict=True) if match.suite is suite]
            found[suite.spec.name] = dict(report(own))
    return found


async def closed(policy: Any) -> None:
    """Closes a policy that can be closed, whether its ``close`` is a coroutine or not."""
    close = getattr(policy, "close", None)
    waiting = close() if close is not None else None
    if waiting is not None:
        await waiting


def show(asked: argparse.Namespace, outcome: Result, reports: Reports, verdicts: Verdicts) -> None:
    """Prints the rows and reports, as tables or as one JSON object."""
    from polyturn.evaluate.tables import as_text, cells, cost_cells, left_out, pass_cells

    if asked.json:
        print_json({**as_object(asked, outcome, reports, verdicts), "run": asked.folder})
        return
    table = {asked.policy: outcome}
    print("\n\n".join(as_text(rows) for rows in (cells(table), pass_cells(table), cost_cells(table)) if rows))
    for line in left_out(table):
        print(line)
    for line in judge_lines(asked.subject, verdicts):
        print(line)
    print(f"run folder: {asked.folder}")
    for name, values in reports.items():
        print(f"{name}: " + ", ".join(f"{part} {value:.3g}" for part, value in values.items()))
