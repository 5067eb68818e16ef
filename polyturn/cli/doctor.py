"""``polyturn doctor``: what is installed, how fast this machine is, what will fit; or who waits for whom in a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyturn.cli.parse import Parser, print_json, table_text

REFERENCE_GFLOPS = 45.0
"""float32 speed of the two busy cores on which the recipes' foreseen times were measured (38 to 47, two threads)."""
EXAMPLES = ("polyturn doctor", "polyturn doctor --json", "polyturn doctor --run runs/quickstart-20260101-120000")


def command(name: str, arguments: list[str]) -> int:
    """0, or 1 where something stands in the way."""
    parser = Parser(name, "What is installed, how fast this machine is, and what will fit; with --run, who waits for "
                    "whom in a run. Ends with 1 where something stands in the way.", EXAMPLES)
    parser.add_argument("--run", metavar="RUN", type=Path, help="a run folder: each seat, environment, sampler, "
                        "learner, verifier and writer that waits, for whom, since when, its deadline; of a run that "
                        "was killed, how it stood last")
    parser.add_argument("--json", action="store_true", help="one object: packages, machine, speed, fits, findings ...; "
                        "with --run: status, waits, threads, findings ...")
    asked = parser.all_known(arguments)
    if asked.run is not None:
        from polyturn.cli.doctor_run import doctor_run

        return doctor_run(asked.run, as_json=asked.json)
    from polyturn.doctor import examine

    found = {**examine(), "quickstart_seconds": quickstart_seconds()}
    if asked.json:
        print_json(found)
    else:
        print(as_text(found))
    return 1 if found["findings"] else 0


def quickstart_seconds() -> float | None:
    """What the quickstart says that it takes; None where it does not."""
    from polyturn.cli.recipe import load, shipped

    recipe = load("quickstart") if "quickstart" in shipped() else None
    if recipe is None or recipe.foresee is None:
        return None
    return float(recipe.foresee(recipe.settings())["seconds"])


def as_text(found: Mapping[str, Any]) -> str:
    """The facts for a reader."""
    from polyturn.progress import duration

    where, quick = found["machine"], found["speed"]
    gib = 2**30
    lines = [
        f"python {where['python']} on {where['system']}, {where['processor']}",
        f"torch {where['torch_build']}: {where['torch_threads']} threads on {where['cores']} cores; devices: "
        + ", ".join(where["devices"]),
        f"memory {where['memory'] / gib:.1f} GiB, {where['memory_free'] / gib:.1f} free; "
        f"disk {where['disk_free'] / gib:.1f} GiB free",
        f"speed {quick['float32']:.0f} GFLOP/s in float32, {quick['bfloat16']:.0f} in bfloat16",
    ]
    if found["quickstart_seconds"]:
        factor = max(1.0, REFERENCE_GFLOPS / quick["float32"])
        lines.append(f"quickstart: about {duration(found['quickstart_seconds'] * factor)}")
    lines += ["", table_text(_packages(found)), "", table_text(_fits(found)), ""]
    lines += [f"! {said['name']}: {said['reason']}" for said in found["findings"]] or ["nothing stands in the way"]
    return "\n".join(lines)


def _packages(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [["package", "installed", "wanted", "for"]]
    for package in found["packages"]:
        mark = package["found"] or "missing"
        note = "" if package["fits"] or package["found"] is None else " (untested)"
        rows.append([package["name"], mark + note, package["wanted"], package["extra"] or "core"])
    return rows


def _fits(found: Mapping[str, Any]) -> list[list[str]]:
    uses = {"sample": "run it", "lora": "train an adapter", "full": "train all of it"}
    rows = [["what fits (weights alone)", *uses.values()]]
    for name, use in found["fits"].items():
        rows.append([f"model of {name}", *("yes" if use[key] else "no" for key in uses)])
    return rows
