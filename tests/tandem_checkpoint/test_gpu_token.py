"""Invariant 1: within a pod, trainer and server never hold the devices at once."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem_checkpoint.devices import DeviceUse
from tandem_checkpoint.gpu_token import DevicesHeld, GpuToken, TokenTimeout

SOON = 10.0
BRIEFLY = 0.05
HOLDER_PROGRAM = """
import asyncio, subprocess, sys
from pathlib import Path
from tandem_checkpoint.gpu_token import GpuToken

token = GpuToken(Path(sys.argv[1]))
asyncio.run(token.acquire(10))
heir = ["sleep", "60"] if sys.argv[2] else ["true"]
child = subprocess.Popen(heir, pass_fds=[token.descriptor], stdout=subprocess.DEVNULL)
print(child.pid if sys.argv[2] else child.wait(), flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that holds the token, with or without a child that inherited it."""

    def __init__(self, path: Path, child: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOLDER_PROGRAM, str(path), child],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._child = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=SOON)

    def kill_child(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            self._child = 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpu.token"


@pytest.fixture
def token(path: Path) -> Iterator[GpuToken]:
    token = GpuToken(path)
    yield token
    token.close()


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    holder = Holder(path, child="")
    yield holder
    holder.kill()


@pytest.fixture
def holding_family(path: Path) -> Iterator[Holder]:
    holder = Holder(path, child="with a child")
    yield holder
    holder.kill_child()
    holder.kill()


async def test_two_processes_never_hold_it_at_once(token: GpuToken, holder: Holder) -> None:
    with pytest.raises(TokenTimeout):
        await token.acquire(BRIEFLY)

    holder.kill()

    await token.acquire(SOON)


async def test_a_killed_holder_keeps_it_through_the_child_that_may_still_hold_memory(
    token: GpuToken, holding_family: Holder
) -> None:
    holding_family.kill()

    with pytest.raises(TokenTimeout):
        await token.acquire(BRIEFLY)

    holding_family.kill_child()

    await token.acquire(SOON)


async def test_whoever_waits_too_long_is_told_who_has_it(token: GpuToken, holder: Holder, path: Path) -> None:
    with pytest.raises(TokenTimeout) as caught:
        await token.acquire(BRIEFLY)

    assert str(caught.value) == (
        f"{path}: the other container of the pod still holds the devices after 0 s; see its log"
    )


async def test_a_released_token_can_be_taken_by_the_other(token: GpuToken, path: Path) -> None:
    other = GpuToken(path)
    await token.acquire(SOON)

    taking = asyncio.create_task(other.acquire(SOON))
    token.release()
    await taking

    with pytest.raises(TokenTimeout):
        await token.acquire(BRIEFLY)
    other.close()


class Readings:
    """Devices whose memory in use is read off a list, the last of it for good."""

    def __init__(self, *used_mebibytes: int, processes: int = 1) -> None:
        self._left = list(used_mebibytes)
        self._processes = tuple((100 + number, 0) for number in range(processes))

    def uses(self) -> tuple[DeviceUse, ...]:
        used = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        return (DeviceUse("GPU 0", used << 20, self._processes),)


async def test_whoever_takes_it_waits_until_the_driver_says_that_the_devices_are_free(path: Path) -> None:
    readings = Readings(70_000, 30_000, 500)
    token = GpuToken(path, readings)

    await token.acquire(SOON)

    assert readings.uses()[0].used_bytes == 500 << 20
    token.close()


async def test_devices_that_stay_full_are_not_taken_and_the_token_goes_back(
    path: Path, token: GpuToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_checkpoint.gpu_token.FREE_SECONDS", 0.1)
    taker = GpuToken(path, Readings(70_000))

    with pytest.raises(DevicesHeld, match="the token is free, but GPU 0 has 70000 MiB in use"):
        await taker.acquire(SOON)

    await token.acquire(SOON)
    taker.close()


async def test_a_take_that_is_given_up_over_full_devices_gives_the_token_back(path: Path, token: GpuToken) -> None:
    taker = GpuToken(path, Readings(70_000))
    taking = asyncio.create_task(taker.acquire(SOON))
    await asyncio.sleep(BRIEFLY)

    taking.cancel()
    await asyncio.wait({taking})

    await token.acquire(SOON)
    taker.close()


async def test_each_process_on_a_device_may_keep_its_context(path: Path) -> None:
    token = GpuToken(path, Readings(6_000, processes=2))

    await token.acquire(SOON)

    token.close()


async def test_what_sleeping_servers_keep_does_not_stop_those_who_take_it_after_them(
    path: Path, token: GpuToken
) -> None:
    await token.acquire(SOON)
    token.release(kept_bytes=3_000 << 20)
    trainer, server = GpuToken(path, Readings(6_000)), GpuToken(path, Readings(6_000))

    await trainer.acquire(SOON)
    trainer.release()
    await server.acquire(SOON)

    trainer.close()
    server.close()


@pytest.mark.parametrize(("kept_mebibytes", "used_mebibytes"), [(3_000, 8_000), (0, 5_000)])
async def test_more_than_they_keep_does(
    path: Path, token: GpuToken, monkeypatch: pytest.MonkeyPatch, kept_mebibytes: int, used_mebibytes: int
) -> None:
    monkeypatch.setattr("tandem_checkpoint.gpu_token.FREE_SECONDS", 0.1)
    token.release(kept_bytes=3_000 << 20)
    token.release(kept_bytes=kept_mebibytes << 20)
    taker = GpuToken(path, Readings(used_mebibytes))

    with pytest.raises(DevicesHeld):
        await taker.acquire(SOON)

    taker.close()


async def test_what_is_held_already_is_not_looked_at_again(path: Path) -> None:
    token = GpuToken(path, Readings(500, 70_000))
    await token.acquire(SOON)

    await token.acquire(SOON)

    token.close()


async def test_taking_it_twice_and_releasing_it_unheld_are_harmless(token: GpuToken) -> None:
    await token.acquire(SOON)
    await token.acquire(SOON)
    token.release()
    token.release()
