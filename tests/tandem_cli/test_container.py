"""A container as a process."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tandem_cli.errors import MachineError
from tandem_cli.local.container import ContainerProcess, Program
from tests.tandem_cli.ground import is_gone, until

ENVIRONMENT = {"PATH": os.environ["PATH"]}


def shell(log: Path, script: str) -> Program:
    return Program("math-master/master", ["sh", "-c", script], ENVIRONMENT, log)


async def ended(log: Path, script: str) -> ContainerProcess:
    """Return a container that has run a shell script to its end."""
    container = await ContainerProcess.start(shell(log, script))
    await container.wait()
    return container


async def test_output_and_errors_go_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "pod" / "container.log"

    await ended(log, "echo first; echo second >&2")

    assert log.read_text() == "first\nsecond\n"


async def test_a_log_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "container.log"
    log.write_text("an earlier run\n")

    await ended(log, "echo this run")

    assert log.read_text() == "an earlier run\nthis run\n"


async def test_a_container_sees_its_own_environment_and_who_started_it(tmp_path: Path) -> None:
    log = tmp_path / "container.log"

    await ended(log, "echo $TANDEM_PARENT_PID; echo ${HOME-none}")

    assert log.read_text().splitlines() == [str(os.getpid()), "none"]


async def test_a_container_is_a_session_of_its_own_so_that_the_terminals_ctrl_c_misses_it(tmp_path: Path) -> None:
    container = await ContainerProcess.start(shell(tmp_path / "log", "exec sleep 60"))

    assert os.getsid(container.pid) == container.pid
    assert container.running

    container.signal(signal.SIGTERM)
    assert await container.wait() == -signal.SIGTERM
    assert not container.running


async def test_killing_the_group_takes_children_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    container = await ContainerProcess.start(shell(log, "sleep 60 & echo $!; wait"))
    until(lambda: log.read_text().endswith("\n"), "the child starts")

    container.kill_group()

    assert await container.wait() == -signal.SIGKILL
    until(lambda: is_gone(int(log.read_text())), "the child is gone")


async def test_signals_to_a_container_that_has_ended_are_harmless(tmp_path: Path) -> None:
    container = await ended(tmp_path / "log", "exit 3")

    container.signal(signal.SIGTERM)

    assert await container.wait() == 3


async def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    program = Program("math-master/master", ["tandem-master"], {"PATH": str(tmp_path)}, tmp_path / "log")

    with pytest.raises(MachineError, match=r"^tandem-master: not found; install the distribution tandem-rl "):
        await ContainerProcess.start(program)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo starting; echo '12:00 ERROR no room'; echo stopping", "12:00 ERROR no room"),
        ("echo 'a ERROR first'; echo 'b ERROR last'", "b ERROR last"),
        ("echo starting; echo '  RuntimeError: broken  '; echo", "RuntimeError: broken"),
        ("echo '12:00 INFO 0 ERRORS'; echo done", "done"),
        ("true", "nothing was logged"),
        (r"printf 'bytes \377 that are no text'", "bytes � that are no text"),
    ],
)
async def test_the_last_words_are_the_last_error_else_the_last_line(tmp_path: Path, script: str, words: str) -> None:
    container = await ended(tmp_path / "log", script)

    assert container.last_words() == words


async def test_last_words_are_found_at_the_end_of_a_long_log(tmp_path: Path) -> None:
    script = f"{sys.executable} -c \"print('x' * 200_000); print('the end')\""
    container = await ended(tmp_path / "log", script)

    assert container.last_words() == "the end"
