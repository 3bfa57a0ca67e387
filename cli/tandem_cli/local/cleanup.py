"""The command's handle on its janitor: what belongs to the run is registered before it is used."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tandem_cli.errors import MachineError


class Cleanup:
    """Registers processes and folders of one run."""

    def __init__(self, janitor: "subprocess.Popen[str]") -> None:
        self._janitor = janitor
        self._folders: list[Path] = []

    def add_process(self, pid: int) -> None:
        self._say(f"process {pid}")

    def add_folder(self, path: Path) -> Path:
        """Make a private folder that goes when the run ends; one that a killed run left is removed first.

        MachineError: it cannot be made.
        """
        self._say(f"folder {path}")
        shutil.rmtree(path, ignore_errors=True)
        try:
            path.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise MachineError(f"{path}: cannot be made ({error.strerror}); free space or permit it") from None
        self._folders.append(path)
        return path

    def finish(self) -> None:
        """Remove the folders and send the janitor home."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(BrokenPipeError):
            self._say("done")

    def _say(self, line: str) -> None:
        assert self._janitor.stdin is not None
        self._janitor.stdin.write(line + "\n")
        self._janitor.stdin.flush()


@contextmanager
def janitor() -> Iterator[Cleanup]:
    """Have a janitor while the context is open; it also cleans up if this process is killed."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tandem_cli.local.janitor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    cleanup = Cleanup(process)
    try:
        yield cleanup
    finally:
        cleanup.finish()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # it has heard all that it needs and goes when it gets to run
            process.wait(10)
