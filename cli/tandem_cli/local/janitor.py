"""The janitor: a small process that cleans up after a run whose command was killed.

It is told on its standard input which processes and folders belong to the run. When the command ends properly it says
so; when the input ends without that word, the command was killed, and the janitor ends the processes and removes the
folders. Standard library only: it must start fast and cannot fail to import anything.
"""

import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 3.0
"""Time that engines get to stop their own children."""
POLL_SECONDS = 0.02
Process = tuple[int, str]
"""Process id and start time: an id alone may come to belong to somebody else."""


def main() -> None:
    """Read until the end of the input, then clean up if the run did not."""
    processes: list[Process] = []
    folders: list[str] = []
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        match word:
            case "process":
                processes.append((int(rest), started_at(int(rest))))
            case "folder":
                folders.append(rest)
            case "done":
                return
    clean_up(processes, folders)


def clean_up(processes: list[Process], folders: list[str]) -> None:
    """Ask the processes to end, make them, and remove the folders."""
    for process in processes:
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in processes:
        send(process, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def started_at(pid: int) -> str:
    """Return the kernel's start time of a process, empty where it is gone or only waits to be collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def is_alive(process: Process) -> bool:
    pid, since = process
    return since != "" and started_at(pid) == since


def send(process: Process, number: signal.Signals) -> None:
    """Signal a process, and for SIGKILL its whole group, if it is still the one that was meant."""
    if not is_alive(process):
        return
    try:
        if number is signal.SIGKILL:
            os.killpg(process[0], number)
        else:
            os.kill(process[0], number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
