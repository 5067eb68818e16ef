"""``polyturn compare``: results read from run folders, side by side, with paired differences."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyturn.cli.parse import Parser, print_json
from polyturn.errors import BadInput

if TYPE_CHECKING:
    from polyturn.evaluate.compare import Paired
    from polyturn.evaluate.recorded import Recorded

EXAMPLES = (
    "polyturn compare runs/eval-a runs/eval-b", "polyturn compare runs/quickstart-20260101-120000 --picture table.svg",
    "polyturn compare runs/sft:after runs/rl:after --baseline sft --json",
)


def command(name: str, arguments: list[str]) -> int:
    """Reads, compares and prints; nothing is played."""
    asked = _parser().all_known(arguments)
    found = read(asked)
    if asked.json:
        print_json(as_json(found, asked))
    else:
        print(text(found, asked))
    if asked.picture:
        from polyturn.evaluate.compare_plot import plot

        picture = plot(_table(found), differences(found, asked), baseline(found, asked))
        Path(asked.picture).write_text(picture, "utf-8")
    return 0


def _parser() -> Parser:
    parser = Parser("compare", "Compare what runs played without learning from it: evaluations, and the ratings inside "
                    "training runs. Differences are paired by task; p-values are corrected by Holm's rule.", EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or RUN:LABEL for one of its ratings")
    parser.add_argument("--baseline", help="the result that the others are compared with (the first)")
    parser.add_argument("--policy", default="main", help="the policy that is rated, by its name in the record (main)")
    parser.add_argument("--verifier", help="the score that is read, where there are several")
    parser.add_argument("--truth", metavar="VERIFIER", help="scores that are labels: says how good --verifier is, and "
                        "corrects its rate")
    parser.add_argument("--picture", metavar="FILE", help="write the picture, as SVG")
    parser.add_argument("--json", action="store_true", help="one object: results with what they were made of, "
                        "differences, notes")
    return parser


def read(asked: argparse.Namespace) -> dict[str, Recorded]:
    """Name -> result of each run asked for, in order. Raises: BadInput for the same one twice."""
    from polyturn.evaluate.recorded import EVALUATE, read_results

    if asked.truth and not asked.verifier:
        raise BadInput("--truth needs --verifier: the judge that is measured against the labels")
    folders = [_split(run) for run in asked.runs]
    alike = len({folder.name for folder, _ in folders}) < len({folder for folder, _ in folders})
    found: dict[str, Recorded] = {}
    for folder, label in folders:
        each = read_results(folder, label=label, policy=asked.policy, verifier=asked.verifier, truth=asked.truth)
        short = str(folder) if alike else folder.resolve().name
        for part, recorded in each.items():
            name = short if part == EVALUATE and len(each) == 1 else f"{short}:{part}"
            if name in found:
                raise BadInput(f"{name} is given twice")
            found[name] = recorded
    return found


def _split(run: str) -> tuple[Path, str | None]:
    """Folder and label of ``RUN`` or ``RUN:LABEL``."""
    folder, colon, label = run.rpartition(":")
    return (Path(folder), label) if colon and not Path(run).exists() else (Path(run), None)


def _table(found: Mapping[str, Recorded]) -> dict[str, Any]:
    return {name: recorded.result for name, recorded in found.items()}


def baseline(found: Mapping[str, Recorded], asked: argparse.Namespace) -> str:
    """The name of the result that the others are compared with."""
    return str(asked.baseline or next(iter(found)))


def differences(found: Mapping[str, Recorded], asked: argparse.Namespace) -> dict[str, Paired]:
    """The others' differences to the baseline."""
    from polyturn.evaluate.compare import against

    return against(_table(found), baseline(found, asked))


def as_json(found: Mapping[str, Recorded], asked: argparse.Namespace) -> dict[str, Any]:
    """All of it as JSON values."""
    from polyturn.evaluate import tables

    gaps = differences(found, asked)
    return {
        "baseline": baseline(found, asked), "notes": notes(found, gaps),
        "results": {name: {**tables.as_json(one.result), "facts": dict(one.facts), "judges": dict(one.judges)}
                    for name, one in found.items()},
        "differences": {name: tables.as_json(gap) for name, gap in gaps.items()},
    }


def text(found: Mapping[str, Recorded], asked: argparse.Namespace) -> str:
    """All of it for people."""
    from polyturn.evaluate import tables
    from polyturn.evaluate.compare_plot import bar

    table, gaps, first = _table(found), differences(found, asked), baseline(found, asked)
    bounded = all(one.result.mixture.bounded for one in found.values())
    rows = tables.cells(table)
    if bounded:
        rows = [[*line, drawn] for line, drawn in zip(
            rows, ["0           mixture         1", *(f"  {bar(one.mixture.estimate)}  " for one in table.values())],
            strict=True)]
    blocks = [tables.as_text(rows)]
    blocks += [tables.as_text(cells) for cells in (tables.pass_cells(table), tables.cost_cells(table)) if cells]
    if gaps:
        titled = {f"{name} - {first}": gap for name, gap in gaps.items()}
        rows = tables.paired_cells(titled)
        if bounded:
            rows = [[*line, drawn] for line, drawn in zip(
                rows, ["-1         mixture          1",
                       *(f"  {bar(gap.mixture.estimate, (-1.0, 1.0))}  " for gap in gaps.values())], strict=True)]
        blocks.append(tables.as_text(rows))
    blocks += [judges_text(name, one.judges) for name, one in found.items() if one.judges]
    said = notes(found, gaps)
    return "\n\n".join([*blocks, *(["\n".join(said)] if said else [])])


def notes(found: Mapping[str, Recorded], gaps: Mapping[str, Paired]) -> list[str]:
    """What a reader has to know before believing a difference."""
    from polyturn.evaluate.tables import left_out

    lines = left_out(_table(found))
    lines += [f"{name}: {gap.mixture.unpaired} tasks are left out of the difference; only one side has a score, or "
              "they were played in other worlds (other seeds)" for name, gap in gaps.items() if gap.mixture.unpaired]
    for what, key in (("sampling settings", "sampling"), ("code", "code_sha256"), ("verifiers", "verifiers")):
        kinds: list[Any] = [one.facts[key] for one in found.values()]
        if any(kind != kinds[0] for kind in kinds):
            lines.append(f"the results differ in their {what}: see facts.{key} with --json")
    return lines


def judges_text(name: str, judges: Mapping[str, Any]) -> str:
    """How verifiers agree, as a table and a line."""
    from polyturn.evaluate.tables import as_text

    rows = [[f"judges of {name}", "items", "agree", "kappa", "AC1", "abstained"]]
    for pair, one in judges["pairs"].items():
        rows.append([pair, str(one["items"]), f"{one['raw']:.2f} [{one['low']:.2f}, {one['high']:.2f}]",
                     f"{one['kappa']:.2f}", f"{one['ac1']:.2f}", "/".join(map(str, one["abstained"]))])
    lines = [as_text(rows), f"Krippendorff's alpha {judges['alpha']:.2f}"]
    if "corrected" in judges:
        lines.append("against the labels: sensitivity {sensitivity:.2f}, specificity {specificity:.2f}; rate "
                     "{observed:.2f}, corrected {rate:.2f} [{low:.2f}, {high:.2f}]".format(**judges["corrected"]))
    return "\n".join(lines)
