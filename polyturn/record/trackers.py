"""A run's numbers handed to other trackers: TensorBoard, trackio, Weights & Biases (offline), MLflow.

The record is the truth and these are copies of it: one step for each row of metrics, in their order, under the same
names and with the time at which they were measured where the tracker takes one. Nothing is sent anywhere: each writes
to a folder (MLflow: or to the address of a server of one's own).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from polyturn.errors import BadInput, MissingPackage, PolyturnError, UnknownName
from polyturn.record.read import read_metrics
from polyturn.record.run import RunInfo, is_locked, read_info

if TYPE_CHECKING:
    from collections.abc import Iterator

POLL_S = 1.0


class TrackerFailed(PolyturnError, OSError):
    """What was to be handed on could not be: a server that is not there, or refuses."""


class Tracker(Protocol):
    """Where rows go."""

    def row(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Numbers of one step by name, told at a time in seconds since 1970."""
        ...

    def close(self, status: str) -> None:
        """The run has ended, with this status."""
        ...


def export(
    folder: Path | str, to: str, *, out: str = "", project: str = "polyturn", follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """How many rows of metrics were handed to the tracker ``to`` (:data:`TRACKERS`).

    ``out``: the folder (MLflow: or ``http(s)://`` address) they go to; empty = ``trackers/<to>`` in the run folder.
    ``follow`` goes on until the run ends. Raises: TrackerFailed, UnknownName, MissingPackage, BadInput for a place that
    holds an export already, and for a run that went back to a checkpoint while it was followed.
    """
    if to not in TRACKERS:
        raise UnknownName("tracker", to, TRACKERS)
    folder = Path(folder)
    info = read_info(folder)
    place = out or str((folder / "trackers" / to).resolve())
    tracker = _opened(to, info, place, project)
    done, status = 0, "failed"
    try:
        while True:
            going = follow and is_locked(folder)
            rows = read_metrics(folder)
            if len(rows) < done:
                void = done - len(rows)
                raise BadInput(f"{folder} went back to a checkpoint, so that {void} rows that were handed on are void; "
                               f"export it anew to another place than {place}")
            for step, row in enumerate(rows[done:], done):
                tracker.row(step, row["time"], {**row["values"], "iteration": float(row["iteration"])})
            done = len(rows)
            if not going:
                break
            sleep(POLL_S)
        status = read_info(folder).status
    except TrackerFailed:
        raise  # it would not take the end either
    except BaseException:
        tracker.close(status)
        raise
    tracker.close(status)
    return done


def _opened(to: str, info: RunInfo, place: str, project: str) -> Tracker:
    package, make = TRACKERS[to]
    with _quiet(to):
        try:
            return make(info, place, project)
        except ImportError as error:
            raise MissingPackage(package, "track") from error


@contextmanager
def _quiet(to: str) -> Iterator[None]:
    """Settings by which the packages stay local and silent, and give up; what was set before is left."""
    given = {"wandb": {"WANDB_SILENT": "true"}, "mlflow": {"MLFLOW_ALLOW_FILE_STORE": "true",
             "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
             "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}}.get(to, {})
    for name, value in given.items():
        os.environ.setdefault(name, value)
    yield


def _fresh(path: Path) -> Path:
    if path.exists() and any(path.iterdir()):
        raise BadInput(f"{path} holds an export already; remove it, or name another place")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain values."""
    return {name: value if isinstance(value, str | int | float | bool) else orjson.dumps(value).decode()
            for name, value in settings.items()}


class _TensorBoard:
    """Event files, a scalar each, with the time of the row."""

    def __init__(self, info: RunInfo, place: str, project: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(_fresh(Path(place) / info.id)))
        table = "\n".join(["| setting | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in info.settings.items())])
        self._writer.add_event(Event(wall_time=info.started, step=0, summary=text_pb("settings", table)))

    def row(self, step: int, at: float, values: Mapping[str, float]) -> None:
        told = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(self._event(wall_time=at, step=step, summary=self._summary(value=told)))

    def close(self, status: str) -> None:
        self._writer.close()


class _Trackio:
    """trackio's own SQLite file below ``TRACKIO_DIR``; it gives its own times."""

    def __init__(self, info: RunInfo, place: str, project: str) -> None:
        if "trackio" in sys.modules:
            raise BadInput("trackio is imported already, and has chosen its folder; export in a process of its own: "
                           "polyturn track RUN --to trackio")
        os.environ["TRACKIO_DIR"] = str(_fresh(Path(place)))
        import trackio

        self._trackio = trackio
        trackio.init(project=project, name=info.id, config=_flat(info.settings), embed=False, auto_log_cpu=False,
                     auto_log_gpu=False)

    def row(self, step: int, at: float, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self, status: str) -> None:
        self._trackio.finish()


class _Wandb:
    """An offline run, which ``wandb sync`` may send later."""

    def __init__(self, info: RunInfo, place: str, project: str) -> None:
        import wandb

        self._wandb = wandb
        settings = wandb.Settings(console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(project=project, name=info.id, dir=str(_fresh(Path(place))), mode="offline",
                               config=dict(info.settings), settings=settings)

    def row(self, step: int, at: float, values: Mapping[str, float]) -> None:
        self._run.log({**values, "_timestamp": at}, step=step)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status in {"finished", "running", "stopped"} else 1)
        self._wandb.teardown()  # its service writes the rest of the file, and ends


class _MLflow:
    """An experiment in a folder, or on a server of one's own. Raises: TrackerFailed where it takes nothing."""

    def __init__(self, info: RunInfo, place: str, project: str) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        self._ended = round(info.started * 1000)
        self._where = place if place.startswith(("http://", "https://")) else _fresh(Path(place)).resolve().as_uri()
        self._client = MlflowClient(self._where)
        with self._asked():
            self._begin(info, project, Param)

    def _begin(self, info: RunInfo, project: str, param: Any) -> None:
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(project)
        run = self._client.create_run(
            experiment, start_time=round(info.started * 1000), tags={"mlflow.runName": info.id})
        self._id = run.info.run_id
        params = [param(name, str(value)[:500]) for name, value in info.settings.items()]
        self._client.log_batch(self._id, params=params)

    def row(self, step: int, at: float, values: Mapping[str, float]) -> None:
        self._ended = round(at * 1000)
        told = [self._metric(name, value, self._ended, step) for name, value in values.items()]
        with self._asked():
            self._client.log_batch(self._id, metrics=told)

    def close(self, status: str) -> None:
        done = {"finished": "FINISHED", "running": "RUNNING", "stopped": "KILLED", "killed": "KILLED"}
        with self._asked():
            self._client.set_terminated(self._id, done.get(status, "FAILED"), self._ended)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise TrackerFailed(f"MLflow at {self._where} does not take the run: {error.message:.500}") from error


TRACKERS: Mapping[str, tuple[str, Callable[[RunInfo, str, str], Tracker]]] = {
    "tensorboard": ("tensorboard", _TensorBoard), "trackio": ("trackio", _Trackio), "wandb": ("wandb", _Wandb),
    "mlflow": ("mlflow-skinny", _MLflow),
}
"""Name -> (the package that it needs, how it is opened)."""
