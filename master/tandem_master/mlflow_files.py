"""MLflow's file store, written without MLflow.

The client's small package, mlflow-skinny, brings a web server, a cloud SDK and Git along, and pins cachetools below
what Tandem's other packages need. The file store's layout is text, and frozen: MLflow keeps it in maintenance mode,
reads it with MLFLOW_ALLOW_FILE_STORE=true, and `mlflow migrate-filestore` takes it over into a database
(https://mlflow.org/docs/latest/self-hosting/migrate-from-file-store). What is written here: an experiment named after
the job, and in it one run, whose metrics are lines of `<milliseconds> <value> <step>`.
"""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

import yaml

RUNNING, FINISHED = 1, 3
"""RunStatus of MLflow's service.proto."""
LOCAL = 4
"""SourceType of a run that was started by hand."""
MOST_CHARACTERS = 6000
"""Of a parameter's value: MLflow's own limit."""


class MLflowFiles:
    """Writes one run of an experiment below `folder`; a run that is there already goes on."""

    def __init__(self, folder: Path, job: str, params: Mapping[str, str]) -> None:
        experiment = _experiment(folder, job)
        known = sorted(experiment.glob("*/meta.yaml"))
        self._run = known[0].parent if known else _new_run(experiment, job)
        self._set(status=RUNNING, end_time=None)
        for name, value in params.items():
            _write(self._run / "params" / name, value[:MOST_CHARACTERS])

    def scalars(self, step: int, at: float, values: Mapping[str, float]) -> None:
        """Append named values of one step; `at`: Unix time in seconds."""
        for name, value in values.items():
            path = self._run.joinpath("metrics", *map(_plain, name.split("/")))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{int(at * 1000)} {value!r} {step}\n")

    def close(self) -> None:
        """Mark the run as ended."""
        self._set(status=FINISHED, end_time=int(time() * 1000))

    def _set(self, **changes: Any) -> None:
        path = self._run / "meta.yaml"
        _write(path, yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")) | changes))


def _experiment(folder: Path, job: str) -> Path:
    """Return the folder of the experiment, made where there is none yet."""
    known = sorted(path.parent for path in folder.glob("*/meta.yaml"))
    if known:
        return known[0]
    now = int(time() * 1000)
    identity = str(10**17 + secrets.randbelow(9 * 10**17))
    path = folder / identity
    meta = {
        "artifact_location": path.resolve().as_uri(),
        "creation_time": now,
        "experiment_id": identity,
        "last_update_time": now,
        "lifecycle_stage": "active",
        "name": job,
    }
    _write(path / "meta.yaml", yaml.safe_dump(meta))
    return path


def _new_run(experiment: Path, job: str) -> Path:
    identity = secrets.token_hex(16)
    path = experiment / identity
    meta: dict[str, Any] = {
        "artifact_uri": (path / "artifacts").resolve().as_uri(),
        "end_time": None,
        "entry_point_name": "",
        "experiment_id": experiment.name,
        "lifecycle_stage": "active",
        "run_id": identity,
        "run_name": job,
        "run_uuid": identity,
        "source_name": "",
        "source_type": LOCAL,
        "source_version": "",
        "start_time": int(time() * 1000),
        "status": RUNNING,
        "tags": [],
        "user_id": "",
    }
    for name in ("artifacts", "metrics", "params", "tags"):
        (path / name).mkdir(parents=True, exist_ok=True)
    _write(path / "tags" / "mlflow.runName", job)
    _write(path / "meta.yaml", yaml.safe_dump(meta))
    return path


def _plain(part: str) -> str:
    """Return a part of a metric's name as MLflow allows it, and as no path leads out of its folder."""
    plain = re.sub(r"[^\w .-]", "_", part)
    return plain if plain.strip(". ") else "_"


def _write(path: Path, text: str) -> None:
    """Replace the content of a file: a reader sees the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
