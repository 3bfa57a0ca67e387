"""The network of the tests' own: what listens there nobody outside can reach."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import AF_INET, SOCK_DGRAM, create_connection, create_server, socket

import pytest

from tests.tandem_checkpoint.transfer.network import NoNetwork, is_reached_from_outside, own_loopback

EVERY_ADDRESS = "0.0.0.0"
ELSEWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737)."""


@pytest.fixture
def outside() -> Iterator[ThreadPoolExecutor]:
    """A thread that was there before."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(os.getpid).result()
        try:
            with own_loopback():
                yield thread
        except NoNetwork as error:
            pytest.skip(f"no network namespace can be made here: {error}")


def connects(port: int) -> bool:
    try:
        create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def has_route() -> bool:
    """Tell whether a datagram to somewhere else would leave; none is sent."""
    with socket(AF_INET, SOCK_DGRAM) as sender:
        try:
            sender.connect(ELSEWHERE)
        except OSError:
            return False
        return True


def test_what_listens_on_every_address_is_reached_from_inside_only(outside: ThreadPoolExecutor) -> None:
    with create_server((EVERY_ADDRESS, 0)) as server:
        port = server.getsockname()[1]

        assert connects(port)
        assert not outside.submit(connects, port).result()


def test_it_is_known_whether_others_can_reach_us(outside: ThreadPoolExecutor) -> None:
    reaches_others = outside.submit(has_route).result()

    assert not has_route()
    assert not is_reached_from_outside()
    assert outside.submit(is_reached_from_outside).result() or not reaches_others
