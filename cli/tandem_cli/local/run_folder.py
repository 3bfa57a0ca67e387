"""The run folder: state, logs and results of one job on this machine, used by one command at a time."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from tandem_cli.errors import MachineError, UserError
from tandem_cli.report.history import History, HistoryError, read_history
from tandem_cli.report.quantity import plural_text

MARKER = ".tandem-run.json"
"""File that says: this folder was made by `tandem up` and may be emptied by --fresh."""
HISTORY = "metrics.jsonl"


class Start(StrEnum):
    """What to do with a folder that holds a run."""

    REFUSE = "refuse"
    RESUME = "resume"
    FRESH = "fresh"


@contextmanager
def run_folder(path: Path, job: str, start: Start) -> Iterator[Path]:
    """Open the folder for this command alone.

    UserError: another command uses it, or it holds a run and `start` does not say what to do with it.
    MachineError: it cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_kind(path)
        descriptor = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); choose another with --run-dir") from None
    try:
        _lock(descriptor, path, job)
        _check_job(path, job, start)
        _prepare(path, start)
        _sign(descriptor, path, job)
        yield path
    finally:
        os.close(descriptor)


def _check_kind(path: Path) -> None:
    if not (path / MARKER).exists() and any(path.iterdir()):
        raise UserError(f"{path}: holds other files; choose an empty or a new folder with --run-dir")


def _lock(descriptor: int, path: Path, job: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"metadata.name: {job} is running already in {path}; stop that run, or choose another folder with --run-dir"
        ) from None


def _sign(descriptor: int, path: Path, job: str) -> None:
    """Write into the marker whose run this is."""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"job": job, "pid": os.getpid()}).encode())
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); free space, or choose another with --run-dir"
        ) from None


def _prepare(path: Path, start: Start) -> None:
    if start is Start.FRESH:
        _empty(path)  # also where a run left something but no history
        return
    if not (path / HISTORY).exists():
        if start is Start.RESUME:
            raise UserError(f"--resume: {path} holds no run; leave the option out")
        return
    if start is Start.REFUSE:
        raise UserError(
            f"{path}: holds {_describe(path)}; add --resume to go on, or --fresh to delete it and start over"
        )
    if _history(path) is None:
        raise UserError(f"--resume: {path / HISTORY} cannot be read; repair it, or start over with --fresh")


def _history(path: Path) -> History | None:
    """Return the history of the run, None where it cannot be read."""
    try:
        return read_history(path / HISTORY)
    except HistoryError:
        return None


def _check_job(path: Path, job: str, start: Start) -> None:
    """A resumed run goes on with its own job: another one's buffer means nothing to it."""
    owner = _owner(path)
    if start is Start.RESUME and owner not in (None, job):
        raise UserError(f"--resume: {path} holds the job {owner}, not {job}; give its own folder with --run-dir")


def _owner(path: Path) -> str | None:
    """Return the job of the folder's last run; None where there was none, or a crash spoilt the marker."""
    try:
        return str(json.loads((path / MARKER).read_text())["job"])
    except (ValueError, KeyError, TypeError):
        return None


def _describe(path: Path) -> str:
    history = _history(path)
    if history is None:
        return "an unreadable run"
    done = history.iterations[-1].iteration if history.iterations else 0
    finished = history.ended is not None and history.ended.result == "Completed"
    return f"a{' finished' if finished else 'n interrupted'} run ({plural_text(done, 'iteration')})"


def _empty(path: Path) -> None:
    try:
        for item in path.iterdir():
            if item.name == MARKER:
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
    except OSError as error:
        raise MachineError(f"{path}: cannot be emptied ({error.strerror}); choose another with --run-dir") from None
