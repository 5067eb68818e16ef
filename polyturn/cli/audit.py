"""``polyturn audit RUN``: every trained token checked against what was sampled."""

from __future__ import annotations

from polyturn.cli.parse import Parser, print_json

EXAMPLES = ("polyturn audit runs/quickstart-20260101-120000", "polyturn audit runs/quickstart-20260101-120000 --json")
MOST_SHOWN = 20


def command(name: str, arguments: list[str]) -> int:
    """0, or 1 where a fault was found."""
    parser = Parser(name, "Check that every trained token was sampled, once, by the seat and policy that learned from "
                    "it. Ends with 1 where one was not.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--json", action="store_true", help="one object: tokens, paths, faults, waivers, unchecked")
    asked = parser.all_known(arguments)
    from polyturn.audit import audit_run

    report = audit_run(asked.run)
    if asked.json:
        print_json(report.as_json())
        return 1 if report.faults else 0
    print(f"{report.tokens} trained tokens on {report.paths} paths: {len(report.faults)} faults")
    for fault in report.faults[:MOST_SHOWN]:
        where = ", ".join(f"{key} {value}" for key, value in fault.target.items())
        print(f"! {fault.name} ({where}): {fault.reason}; found {fault.value}")
    if len(report.faults) > MOST_SHOWN:
        print(f"... and {len(report.faults) - MOST_SHOWN} more; --json lists them all")
    for waiver, tokens in report.waivers.items():
        print(f"waived by {waiver}: {tokens} tokens")
    for what in report.unchecked:
        print(f"not checked: {what}")
    return 1 if report.faults else 0
