"""A network of the tests' own: Mooncake's ports listen on every address and ask nobody who they are.

It belongs to one thread of this process, and to the threads and processes that this thread starts inside.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, socket

import psutil

OWN = Path("/proc/thread-self/ns/net")
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of <linux/sched.h>; Python has `os.unshare` from 3.12."""
SET_FLAGS, UP = 0x8914, 1
"""SIOCSIFFLAGS and IFF_UP, of <linux/sockios.h> and <linux/if.h>."""


class NoNetwork(Exception):  # noqa: N818 - what is missing, not whose mistake it is
    """A network namespace cannot be made here; the message says why."""


@contextmanager
def own_loopback() -> Iterator[None]:
    """Have this thread see no network but a loopback of its own, the same one each time. Errors: NoNetwork."""
    inside = _namespace()
    outside = os.open(OWN, os.O_RDONLY)
    try:
        _enter(inside)
        yield
    finally:
        _enter(outside)
        os.close(outside)


def is_reached_from_outside() -> bool:
    """Tell whether what listens on every address here can be reached by others than this network's own processes."""
    addresses = [address for of_one in psutil.net_if_addrs().values() for address in of_one]
    internet = [it.address.partition("%")[0] for it in addresses if it.family in (AF_INET, AF_INET6)]
    return not all(ip_address(address).is_loopback for address in internet)


@cache
def _namespace() -> int:
    """Make the network once for this process; return a file that holds it."""
    outside = os.open(OWN, os.O_RDONLY)
    try:
        _call("unshare", NEW_NETWORK)
        try:
            _raise_loopback()
            return os.open(OWN, os.O_RDONLY)
        finally:
            _enter(outside)
    finally:
        os.close(outside)


def _raise_loopback() -> None:
    with socket(AF_INET, SOCK_DGRAM) as any_socket:
        ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", UP))


def _enter(namespace: int) -> None:
    _call("setns", namespace, NEW_NETWORK)


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library that answers 0, or leaves the cause in errno. Errors: NoNetwork."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise NoNetwork(f"{name}: {os.strerror(ctypes.get_errno())}")
