"""``polyturn track RUN --to TRACKER``: hands a run's numbers to TensorBoard, trackio, Weights & Biases or MLflow."""

from __future__ import annotations

from polyturn.cli.parse import Parser, print_json

EXAMPLES = (
    "polyturn track runs/quickstart-20260101-120000 --to tensorboard",
    "polyturn track runs/quickstart-20260101-120000 --to wandb --follow",
    "polyturn track runs/quickstart-20260101-120000 --to mlflow --out http://127.0.0.1:5000",
)


def command(name: str, arguments: list[str]) -> int:
    """Hands on what there is, or with ``--follow`` what comes."""
    from polyturn.record.trackers import TRACKERS, export

    parser = Parser(name, "Copy a run's metrics into another tracker's own format, in a folder. Nothing is sent "
                    "anywhere.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--to", required=True, metavar="TRACKER", help=", ".join(TRACKERS))
    parser.add_argument("--out", default="", metavar="PLACE",
                        help="folder, for mlflow also a server (RUN/trackers/TRACKER)")
    parser.add_argument("--project", default="polyturn", help="the project that it is filed under (polyturn)")
    parser.add_argument("--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.all_known(arguments)
    count = export(asked.run, asked.to, out=asked.out, project=asked.project, follow=asked.follow)
    place = asked.out or f"{asked.run}/trackers/{asked.to}"
    if asked.json:
        print_json({"rows": count, "to": asked.to, "place": place})
    else:
        print(f"{count} rows of metrics to {asked.to} in {place}")
    return 0
