"""``polyturn show RUN [EPISODE]``: a run, its episodes, and one episode with its tokens, in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from polyturn.cli.parse import Parser, positive, print_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from polyturn.dashboard.watch import Watched
    from polyturn.record.index import Index

EXAMPLES = (
    "polyturn show runs/quickstart-20260101-120000",
    "polyturn show runs/quickstart-20260101-120000 --where 'score < 0.5 and turns > 2' --sort score",
    "polyturn show runs/quickstart-20260101-120000 stage2.14.3.0 --colour advantage",
    "polyturn show runs/quickstart-20260101-120000 stage2.14.3.0 --turn 4",
)
COLOURS = ("advantage", "logprob", "gap", "mask", "none")
Rows: TypeAlias = Mapping[tuple[str, str, int], Mapping[str, Any]]
"""(seat, policy, span) -> its last row of credit."""
FILTERS = ("text", "stage", "iteration", "family", "stop")


def command(name: str, arguments: list[str]) -> int:
    """Prints one view."""
    asked = _parser(name).all_known(arguments)
    from pathlib import Path

    from polyturn.dashboard.watch import Watched
    from polyturn.record.index import Index

    watched = Watched(Path(asked.run), Index(asked.run))
    watched.progress = watched.index.update()
    if asked.episode is not None:
        return _episode(watched, asked)
    return _run(watched, asked)


def _parser(name: str) -> Parser:
    parser = Parser(name, "Show a run, or one episode of it, in the terminal.", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("episode", nargs="?", metavar="EPISODE", help="an episode's id, or <attempt>.<play>")
    parser.add_argument("--count", type=positive, default=12, help="episodes to list (12)")
    parser.add_argument("--sort", default="-offset", metavar="COLUMN", help="by what; -COLUMN = the largest first")
    parser.add_argument("--where", default="", metavar="SQL", help="a condition over the columns of --json")
    for filtered in FILTERS:
        parser.add_argument(f"--{filtered}", default="", help=f"only episodes with this {filtered}")
    parser.add_argument("--turn", type=int, metavar="AT", help="of an episode, one turn with the numbers of each token")
    parser.add_argument("--colour", choices=COLOURS, default="advantage", help="what colours the tokens (advantage)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


# ---------------------------------------------------------------- a run


def _run(watched: Watched, asked: argparse.Namespace) -> int:
    from polyturn.dashboard import query
    from polyturn.dashboard.overview import run_view

    filters = {name: getattr(asked, name) for name in (*FILTERS, "where")}
    page = query.page(watched.index, filters, count=asked.count, sort=asked.sort)
    view = run_view(watched.folder.name, watched)
    if asked.json:
        print_json({"run": {name: value for name, value in view.items() if name != "text"}, "episodes": page})
        return 0
    console = _console()
    console.print(_headline(view))
    if not any(filters.values()):
        console.print(_stages(view["stages"]))
        for line in _curves(watched.index):
            console.print(line)
    console.print(_episodes(page))
    return 0


def _headline(view: Mapping[str, Any]) -> Text:
    from rich.text import Text

    from polyturn.progress import duration

    colour = {"finished": "green", "running": "cyan", "failed": "red", "killed": "red"}.get(view["status"], "yellow")
    line = Text.assemble((view["recipe"] or "run", "bold"), " ", (view["status"], colour), (f"  {view['id']}", "dim"))
    line.append(f"\n{duration(view['seconds'])} · {view['iterations']:,} iterations · {view['episodes']:,} episodes · "
                f"{view['turns'] or 0:,} turns · {view['tokens'] or 0:,} sampled tokens")
    reason = view["attempt_list"][-1]["reason"] if view["attempt_list"] else ""
    if reason:
        line.append(f"\n{reason}", "red")
    if view["progress"]["damaged"]:
        line.append(f"\n{view['progress']['damaged']} lines of the record are damaged and passed over", "red")
    return line


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], shrinks: Sequence[str] = ()) -> Any:
    """A table of texts; where the terminal is narrow, the named columns are cut first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        width = None if name in shrinks else max(len(name), *(len(row[number]) for row in rows), 0)
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True, overflow="ellipsis",
                         min_width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _stages(stages: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows = [[stage["stage"], str(stage["iterations"] or ""), f"{stage['episodes']:,}", _number(stage["mean"]),
             str(stage["truncated"] or ""), str(stage["errors"] or "")] for stage in stages]
    found: RenderableType = _table(("stage", "iterations", "episodes", "mean score", "cut", "failed"), rows)
    return found


def _curves(index: Index) -> Iterator[Text]:
    from rich.text import Text

    from polyturn.dashboard import query
    from polyturn.progress import sparkline

    for curve in query.curves(index):
        points = [point for part in curve["parts"] for point in part["points"]]
        low, high = (min(p[1] for p in points), max(p[1] for p in points))
        room = (high - low) or 1.0
        drawn = sparkline([(p[1] - low) / room for p in points], width=48)
        last = points[-1]
        within = "" if last[2] is None else f" ({last[2]:.2f} to {last[3]:.2f})"
        name = " ".join(filter(None, (curve["family"], curve["seat"])))
        yield Text.assemble((f"{name}  ", "bold"), (drawn, "cyan"), f"  {last[1]:.3f}{within}")


def _episodes(page: Mapping[str, Any]) -> RenderableType:
    rows = []
    for row in page["rows"]:
        ended = row["stop"] + (f": {row['error'] or row['reason']}" if row["error"] or row["reason"] else "")
        rows.append([row["id"], row["task"], ended, _number(row["score"]), str(row["turns"]), str(row["tokens"])])
    table = _table(("episode", "task", "ended", "score", "turns", "tokens"), rows, ("task", "ended"))
    table.caption = f"{len(page['rows'])} of {page['total']:,} episodes"
    if page.get("searched", 1.0) < 1:
        table.caption += f"; {100 * page['searched']:.0f} % of the record was searched in the time there is"
    found: RenderableType = table
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# ---------------------------------------------------------------- an episode


def _episode(watched: Watched, asked: argparse.Namespace) -> int:
    from polyturn.dashboard.episode import episode_view

    view = episode_view(watched.folder, watched.index, asked.episode)
    if asked.json:
        print_json(view)
        return 0
    console = _console()
    console.print(_episode_head(view))
    for block in _dialogue(view, asked.colour, asked.turn):
        console.print(block)
    return 0


def _episode_head(view: Mapping[str, Any]) -> Text:
    from rich.text import Text

    episode, row = view["episode"], view["row"]
    title = (episode["task"]["id"] or episode["id"], "bold")
    line = Text.assemble(title, (f"  {episode['id']}  play {view['key']}", "dim"))
    stop = episode["stop"]
    line.append(f"\n{stop['kind']}{': ' + stop['reason'] if stop['reason'] else ''}")
    if row is not None and row["score"] is not None:
        line.append(f" · score {_number(row['score'])}")
    scores = [_number(member["score"]) for member in view["members"]]
    if len(scores) > 1:
        line.append(f" · group {', '.join(scores)}")
    if episode["error"]:
        line.append(f"\n{episode['error']}", "red")
    return line


def _dialogue(view: Mapping[str, Any], colour: str, only: int | None) -> Iterator[RenderableType]:
    """What each seat was told and wrote, in the order of play, events between."""
    from rich.text import Text

    episode = view["episode"]
    rows = {(row["seat"], row["policy"], row["span"]): row for row in view["credit"]}
    seen: set[tuple[int, int]] = set()
    order = sorted((turn["at"], t, turn) for t, trajectory in enumerate(episode["trajectories"])
                   for turn in trajectory["turns"])
    events = sorted(episode["events"], key=lambda event: int(event["at"]))
    for at, t, turn in order:
        while events and events[0]["at"] < at:
            yield from _event(events.pop(0), only)
        trajectory = episode["trajectories"][t]
        for index in (*turn["prompt"], turn["reply"]):
            fresh = (t, index) not in seen
            seen.add((t, index))
            if fresh and index != turn["reply"] and only in (None, at):
                yield _message(trajectory["messages"][index], trajectory["seat"])
        if only in (None, at):
            yield from _reply(view, (t, turn), rows, colour, numbers=only is not None)
    for event in events:
        yield from _event(event, only)
    if not order:
        yield Text("no turn was taken", "dim")


def _event(event: Mapping[str, Any], only: int | None) -> Iterator[Text]:
    from rich.text import Text

    if only is None:
        content = ", ".join(f"{key} {value}" for key, value in orjson.loads(event["content_json"]).items())
        style = "red" if event["kind"] == "invalid" else "dim"
        yield Text(f"  · {event['kind']} {event['seat'] or ''} {_safe(content[:160])}", style)


def _words(message: Mapping[str, Any]) -> str:
    parts = [part["text"] if part["kind"] in ("text", "reasoning") else f"[{part['kind']} {(part['media'] or '')[:12]}]"
             for part in message["parts"]]
    return "".join(parts) + "".join(f"\n→ {call['name']}({call['raw']})" for call in message["calls"]) or "(empty)"


def _safe(text: str) -> str:
    """Without control characters: a record must not move the cursor."""
    return "".join(c if (c >= " " and c != "\x7f") or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _message(message: Mapping[str, Any], seat: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    origin = "" if message["origin"] in ("env", "policy", message["role"]) else f", {message['origin']}"
    head = Text(f"{message['role']}{origin} to {seat}\n", "dim")
    return Padding(head.append(_safe(_words(message)), "default"), (0, 0, 1, 0))


def _reply(
    view: Mapping[str, Any], where: tuple[int, Mapping[str, Any]], rows: Rows, colour: str, *, numbers: bool,
) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    t, turn = where
    trajectory = view["episode"]["trajectories"][t]
    tokens = [token for span in turn["spans"] for token in _tokens(view, t, span, rows)]
    note = " · ".join(_notes(turn, len(tokens)))
    block = Text.assemble((f"{trajectory['seat']}", "bold cyan"), (f"  turn {turn['at']} · {note}\n", "dim"))
    if tokens and all(token["text"] is not None for token in tokens):
        for token in tokens:
            block.append(_safe(token["text"]), _style(token, colour, _scale(rows)))
    else:
        block.append(_safe(_words(trajectory["messages"][turn["reply"]])))
    for channel, value in turn["rewards"].items():
        block.append(f"\n{channel} {value:+.3g}", "green" if value >= 0 else "red")
    yield Padding(block, (0, 0, 1, 2))
    if numbers and tokens:
        yield _numbers(tokens)


def _notes(turn: Mapping[str, Any], tokens: int) -> Iterator[str]:
    """What is unusual about a turn, and its length."""
    if turn["purpose"] != "act":
        yield turn["purpose"]
    if turn["branch"]:
        yield f"branch {turn['branch']}"
    if turn["dropped"]:
        yield f"taken back: {turn['dropped']}"
    if turn["finish"] != "stop":
        yield turn["finish"]
    yield f"{tokens} tokens"


def _tokens(view: Mapping[str, Any], t: int, index: int, rows: Rows) -> Iterator[dict[str, Any]]:
    trajectory = view["episode"]["trajectories"][t]
    span, texts = trajectory["spans"][index], view["spelled"][t][index]
    row = rows.get((trajectory["seat"], trajectory["policy"], index), {})
    for i, token in enumerate(span["ids"]):
        known = {name: row[name][i] if row.get(name) is not None else None
                 for name in ("advantage", "weight", "old", "reference", "entropy", "clipped")}
        yield {"id": token, "text": None if texts is None else texts[i],
               "logprob": None if span["logprobs"] is None else span["logprobs"][i], **known}


def _scale(rows: Rows) -> float:
    values = [abs(a) for row in rows.values() for a, w in zip(row["advantage"], row["weight"], strict=True) if w and a]
    return max(values, default=1.0)


def _style(token: Mapping[str, Any], colour: str, scale: float) -> str:
    """The colour of a token: blue better than expected, orange worse, as in the browser."""
    value, hue = None, ("37;99;201", "217;115;13")
    if colour == "advantage" and token["weight"]:
        value = token["advantage"] / scale if token["advantage"] is not None else None
    elif colour == "logprob" and token["logprob"] is not None:
        value, hue = min(1.0, -token["logprob"] / 6), ("134;70;196",) * 2
    elif colour == "gap" and token["old"] is not None and token["logprob"] is not None:
        value = max(-1.0, min(1.0, (token["old"] - token["logprob"]) * 100))
    elif colour == "mask" and token["weight"]:
        value, hue = 0.6, ("23;135;95",) * 2
    if value is None:
        return "" if colour == "none" else "dim"
    depth = min(1.0, abs(value)) * 0.85
    if depth < 0.02:
        return ""
    strong = [int(part) for part in hue[int(value < 0)].split(";")]
    mixed = ",".join(str(round(depth * part)) for part in strong)
    return f"white on rgb({mixed})"


def _numbers(tokens: Sequence[Mapping[str, Any]]) -> RenderableType:
    rows = []
    for token in tokens:
        gap = None if token["old"] is None or token["logprob"] is None else token["old"] - token["logprob"]
        shown = "–" if token["text"] is None else repr(token["text"])
        clip = {None: "–", False: "", True: "yes"}[token["clipped"]]
        rows.append([shown, str(token["id"]), _number(token["logprob"]), _number(token["old"]), _number(gap),
                     *(_number(token[name]) for name in ("advantage", "weight", "entropy")), clip])
    names = ("token", "id", "sampled", "learner", "gap", "advantage", "weight", "entropy", "clip")
    found: RenderableType = _table(names, rows, ("token",))
    return found
