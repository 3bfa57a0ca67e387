"""Trackers: who else gets the numbers of a run. They are fed by a thread of their own, and can end no job."""

import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tandem_api.history import EvaluationRecord, IterationRecord, Record, SwitchRecord
from tandem_api.job.operations import Tracker
from tandem_api.job.spec import RLJobSpec
from tandem_master.mlflow_files import MLflowFiles
from tandem_master.tensorboard import EventFiles

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Points that wait for a slow tracker; what comes on top is dropped, with a warning."""
CLOSE_SECONDS = 10.0
"""Time that trackers get to write what waits at the end of a run."""


class TrackerFiles(Protocol):
    """Where one tracker's numbers go."""

    def scalars(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Write named values of one step; `at`: Unix time in seconds."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


Point = tuple[int, float, Mapping[str, float]]
"""Step, Unix time in seconds, values by name."""


def point_of(record: Record) -> Point | None:
    """Return what trackers are given of a record, None of one without numbers for them.

    Steps are iterations; of a switch its epoch, of an evaluation its generation.
    """
    match record:
        case IterationRecord():
            names = (
                *("reward", "response_tokens", "tokens_per_second", "loss", "kl", "gradient_norm"),
                *("learning_rate", "max_abs_logprob_difference"),
            )
            values = {name: getattr(record, name) for name in names}
            return record.iteration, record.at, {name: value for name, value in values.items() if value is not None}
        case SwitchRecord():
            seconds = {f"switch/{record.direction}_seconds": record.seconds}
            return record.epoch, record.started_at + record.seconds, seconds
        case EvaluationRecord(error=""):
            return record.generation, record.at, _evaluation(record)
        case _:
            return None


def _evaluation(record: EvaluationRecord) -> Mapping[str, float]:
    values = {f"pass_at_{k}": value for k, value in record.pass_at.items()}
    values |= {
        "reward": record.mean_reward,
        "response_tokens": record.mean_tokens,
        "cut_share": record.cut_share,
        "unscored": float(record.unscored),
    }
    return {f"evaluation/{record.name}/{name}": value for name, value in values.items()}


class Trackers:
    """Hands records on. A tracker that fails once is told of in the log, and left alone from then on."""

    def __init__(self, trackers: Mapping[str, TrackerFiles]) -> None:
        self._trackers = dict(trackers)
        self._waiting: queue.Queue[Point | None] = queue.Queue(MOST_WAITING)
        self._has_dropped = False
        self._thread = threading.Thread(target=self._feed, name="trackers", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> None:
        """Hand on what trackers want of a record; never waits."""
        point = point_of(record)
        if point is None:
            return
        try:
            self._waiting.put_nowait(point)
        except queue.Full:
            if not self._has_dropped:
                logger.warning("trackers: %d points wait; what comes on top is dropped", MOST_WAITING)
            self._has_dropped = True

    def close(self) -> None:
        """Have all that waits written, as far as that takes no longer than CLOSE_SECONDS."""
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _feed(self) -> None:
        while (point := self._waiting.get()) is not None:
            for name in list(self._trackers):
                self._try(name, point)
        for name in list(self._trackers):
            self._try(name, None)

    def _try(self, name: str, point: Point | None) -> None:
        """Give one tracker a point, or close it."""
        tracker = self._trackers[name]
        try:
            if point is None:
                tracker.close()
            else:
                tracker.scalars(*point)
        except Exception as error:  # noqa: BLE001 - whatever a tracker's files or library do is no matter of the job's
            logger.warning("tracker %s fails and gets nothing more: %s: %s", name, type(error).__name__, error)
            del self._trackers[name]


def params_of(spec: RLJobSpec) -> Mapping[str, str]:
    """Return what trackers are told of a run as a whole: policy, data and recipe, one entry a field."""
    parts = {"policy": spec.policy, "data": spec.data, "recipe": spec.recipe}
    document = {name: part.model_dump(mode="json", by_alias=True) for name, part in parts.items()}
    return dict(_flattened("", document))


def _flattened(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _flattened(f"{prefix}.{name}" if prefix else name, below)
    elif value is not None:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def open_trackers(names: Sequence[Tracker], state: Path, job: str, params: Mapping[str, str]) -> Trackers:
    """Return the trackers of these names, with their files in `state`; one that cannot begin is told of in the log.

    params: what is told of the run as a whole, by name.
    """
    opened: dict[str, TrackerFiles] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = _open(name, state, job, params)
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("tracker %s cannot begin and gets nothing: %s: %s", name, type(error).__name__, error)
    return Trackers(opened)


def _open(name: Tracker, state: Path, job: str, params: Mapping[str, str]) -> TrackerFiles:
    match name:
        case Tracker.TENSOR_BOARD:
            return EventFiles(state / "tensorboard")
        case Tracker.MLFLOW:
            return MLflowFiles(state / "mlruns", job, params)
