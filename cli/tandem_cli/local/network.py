"""Addresses of a run: a /24 of the loopback range of its own, one address a pod."""

import errno
import hashlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tandem_cli.errors import MachineError, UserError

LOOPBACK = IPv4Network("127.0.0.0/8")
ETCD_HOST = 1
FIRST_POD_HOST = 10


def choose_network(option: str | None, run_folder: Path) -> IPv4Network:
    """Return the network that was asked for, else one that follows from the run folder's path."""
    if option is None:
        digest = hashlib.sha256(str(run_folder.resolve()).encode()).digest()
        return IPv4Network((int(LOOPBACK[0]) + (16 + digest[0] % 224) * 65536 + digest[1] * 256, 24))
    try:
        network = IPv4Network(option)
    except ValueError as error:
        raise UserError(f"--network: {error}; give one such as 127.31.7.0/24") from None
    if not network.subnet_of(LOOPBACK) or network.num_addresses < 32:
        raise UserError(f"--network: {option} is not a /24 to /27 of 127.0.0.0/8; give one such as 127.31.7.0/24")
    return network


def etcd_address(network: IPv4Network) -> str:
    return str(network[ETCD_HOST])


def pod_addresses(network: IPv4Network, pods: Iterable[str]) -> dict[str, str]:
    """Return an address for each pod, in order; raise UserError where the network has too few."""
    names = list(pods)
    if FIRST_POD_HOST + len(names) >= network.num_addresses:
        raise UserError(f"spec.hybrid.replicas: {len(names)} pods do not fit into {network}; use fewer")
    return {name: str(IPv4Address(int(network[FIRST_POD_HOST]) + index)) for index, name in enumerate(names)}


def check_free(sockets: Iterable[tuple[str, int]]) -> None:
    """Raise MachineError naming every address and port that cannot be listened on."""
    taken = [f"{host}:{port}" for host, port in sockets if not _is_free(host, port)]
    if taken:
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        raise MachineError(
            f"{', '.join(taken[:3])}{more}: already in use by another process; stop it, or give another --network"
        )


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
