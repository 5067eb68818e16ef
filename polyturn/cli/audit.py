"""``polyturn audit RUN``: every trained token checked, every update searched for silent faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyturn.cli.parse import Parser, print_json

if TYPE_CHECKING:
    from polyturn.audit.report import AuditReport
    from polyturn.types import Finding

EXAMPLES = ("polyturn audit runs/quickstart-20260101-120000", "polyturn audit runs/quickstart-20260101-120000 --checks",
            "polyturn audit runs/quickstart-20260101-120000 --json")
MOST_SHOWN = 2
"""Faults of one kind."""


def command(name: str, arguments: list[str]) -> int:
    """0, or 1 where a fault was found."""
    parser = Parser(name, "Check that every trained token was sampled, once, by the seat and policy that learned from "
                    "it, and search every update for the silent faults of a learning signal. Ends with 1 where there "
                    "is one.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--checks", action="store_true", help="also list every check and what it found")
    parser.add_argument("--json", action="store_true",
                        help="one object: tokens, paths, updates, faults, checks, waivers, signal, unchecked")
    asked = parser.all_known(arguments)
    from polyturn.audit.report import audit_run

    report = audit_run(asked.run)
    if asked.json:
        print_json(report.as_json())
    else:
        print("\n".join(lines(report, checks=asked.checks)))
    return 1 if report.faults else 0


def lines(report: AuditReport, *, checks: bool = False) -> list[str]:
    """The report as text."""
    from polyturn.audit.detectors import LOOKS_FOR

    said = [f"{report.tokens} trained tokens on {report.paths} paths, {report.updates} updates: "
            f"{len(report.faults)} faults"]
    by_name: dict[str, list[Finding]] = {}
    for fault in report.faults:
        by_name.setdefault(fault.name, []).append(fault)
    for name, alike in by_name.items():
        said += [f"! {name} ({_where(fault)}): {fault.reason}; found {fault.value}" for fault in alike[:MOST_SHOWN]]
        if len(alike) > MOST_SHOWN:
            said.append(f"  ... and {len(alike) - MOST_SHOWN} more of {name}; --json lists them all")
    if checks:
        said += [f"{'!' if report.checks[check] else 'ok':<2} {check:<22} {what}" + (
            f": {report.checks[check]}" if report.checks[check] else "") for check, what in LOOKS_FOR.items()]
    said += [f"{stage or 'training'}: {equal} of {groups} groups all scored alike and taught nothing"
             for stage, (equal, groups) in report.signal.items() if equal]
    said += [f"waived by {waiver}: {tokens} tokens" for waiver, tokens in report.waivers.items()]
    return said + [f"not checked: {what}" for what in report.unchecked]


def _where(fault: Finding) -> str:
    return ", ".join(f"{key} {value}" for key, value in fault.target.items())
