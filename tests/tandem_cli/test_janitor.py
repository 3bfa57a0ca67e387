"""The janitor cleans up after a command that was killed, and only then."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tandem_cli.errors import MachineError
from tandem_cli.local.cleanup import janitor
from tandem_cli.local.janitor import clean_up, is_alive, send, started_at
from tests.tandem_cli.ground import is_gone, until

JANITOR = [sys.executable, "-m", "tandem_cli.local.janitor"]
COMMAND = """
import json, subprocess, sys
from pathlib import Path
from tandem_cli.local.cleanup import janitor

script, folder = sys.argv[1], Path(sys.argv[2])
with janitor() as cleanup:
    cleanup.add_folder(folder)
    child = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    child.stdout.readline()
    cleanup.add_process(child.pid)
    (folder / "segment").write_text("weights")
    print(json.dumps(child.pid), flush=True)
    sys.stdin.read()
"""
"""A command that registers a folder and a child, which says when it is ready, and ends when its input does."""
POLITE = "trap 'touch {asked}; exit 0' TERM; echo ready; sleep 60 & wait"
STUBBORN = "trap 'touch {asked}' TERM; echo ready; while true; do sleep 60 & wait; done"


@dataclass(slots=True)
class Run:
    """A command with a janitor, one child and one folder."""

    process: subprocess.Popen[str]
    folder: Path
    asked: Path
    """File that the child makes when it is asked to end."""
    child: int
    janitor: int


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that belongs to nobody's run."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def start(tmp_path: Path, script: str) -> Run:
    """Start a command whose child runs a script, and wait until both are registered."""
    folder, asked = tmp_path / "tandem-run", tmp_path / "asked"
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, script.format(asked=asked), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child = json.loads(process.stdout.readline())
    (janitor_pid,) = [item.pid for item in psutil.Process(process.pid).children() if item.pid != child]
    return Run(process, folder, asked, child, janitor_pid)


def kill(run: Run) -> None:
    """Kill the command, which gets no chance to say anything."""
    run.process.kill()
    run.process.communicate()


def members_of(group: int) -> list[int]:
    """Return the processes of a group."""
    return [pid for pid in psutil.pids() if group_of(pid) == group]


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_after_a_killed_command_processes_are_asked_to_end_and_folders_go(tmp_path: Path) -> None:
    run = start(tmp_path, POLITE)
    assert (run.folder / "segment").exists()

    kill(run)

    until(lambda: is_gone(run.janitor), "the janitor goes")
    assert is_gone(run.child)
    assert run.asked.exists()
    assert not run.folder.exists()


def test_a_process_that_does_not_listen_is_killed_with_its_group(tmp_path: Path) -> None:
    run = start(tmp_path, STUBBORN)
    group = os.getpgid(run.child)

    kill(run)

    until(lambda: is_gone(run.janitor), "the janitor goes")
    until(lambda: all(is_gone(pid) for pid in members_of(group)), "the group goes")
    assert run.asked.exists()
    assert not run.folder.exists()


def test_a_command_that_comes_to_its_end_removes_its_folders_itself(tmp_path: Path) -> None:
    run = start(tmp_path, POLITE)

    run.process.communicate()

    assert run.process.returncode == 0
    assert is_gone(run.janitor)
    assert not run.folder.exists()
    assert not run.asked.exists()
    assert not is_gone(run.child)
    os.killpg(run.child, signal.SIGKILL)


def test_a_janitor_that_is_told_all_is_done_leaves_everything(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    told = f"process {sleeper.pid}\nfolder {tmp_path}\ndone\n"

    done = subprocess.run(JANITOR, input=told, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sleeper.poll() is None
    assert tmp_path.exists()


def test_a_janitor_whose_input_ends_without_that_word_cleans_up(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()

    done = subprocess.run(
        JANITOR,
        input=f"process {sleeper.pid}\nfolder {folder}\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert sleeper.wait(0) == -signal.SIGTERM
    assert not folder.exists()


def test_a_process_id_that_has_come_to_belong_to_another_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    earlier = str(int(started_at(sleeper.pid)) - 1)

    clean_up([(sleeper.pid, earlier)], [])
    send((sleeper.pid, earlier), signal.SIGKILL)

    assert sleeper.poll() is None
    assert is_alive((sleeper.pid, started_at(sleeper.pid)))


def test_processes_and_folders_that_are_gone_already_are_no_problem(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    assert started_at(gone.pid) == ""
    clean_up([(gone.pid, ""), (gone.pid, "1")], [str(tmp_path / "none")])


def test_what_a_killed_run_left_in_a_folder_is_removed_before_it_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "tandem-run"
    folder.mkdir()
    (folder / "old").touch()

    with janitor() as cleanup:
        made = cleanup.add_folder(folder)
        assert (made, list(made.iterdir()), made.stat().st_mode & 0o777) == (folder, [], 0o700)

    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_the_machines_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MachineError, match=r"cannot be made \(Not a directory\)"), janitor() as cleanup:
        cleanup.add_folder(tmp_path / "file" / "tandem-run")
