"""The addresses of a run."""

import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_cli.errors import MachineError, UserError
from tandem_cli.local.network import check_free, choose_network, etcd_address, pod_addresses

FOLDERS = st.text(alphabet="abcdefghij/", min_size=1, max_size=30).map(lambda text: Path("/runs") / text.strip("/"))
NETWORK = IPv4Network("127.31.7.0/24")


@given(folder=FOLDERS)
def test_a_run_folder_always_gives_the_same_loopback_network(folder: Path) -> None:
    network = choose_network(None, folder)

    assert network == choose_network(None, folder)
    assert network.prefixlen == 24
    assert IPv4Address("127.16.0.0") <= network[0] <= IPv4Address("127.239.255.0")


def test_different_run_folders_give_different_networks() -> None:
    networks = {choose_network(None, Path(f"/runs/{number}")) for number in range(20)}

    assert len(networks) == 20


def test_a_relative_folder_is_the_folder_that_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert choose_network(None, Path("runs/math")) == choose_network(None, tmp_path / "runs" / "math")


@pytest.mark.parametrize("option", ["127.31.7.0/24", "127.0.0.0/27", "127.255.255.224/27"])
def test_a_network_that_is_asked_for_is_used(option: str) -> None:
    assert choose_network(option, Path("/runs/math")) == IPv4Network(option)


@pytest.mark.parametrize(
    "option", ["10.0.0.0/24", "127.31.7.0/28", "127.31.7.9/24", "loopback", "::1/120", "126.0.0.0/7", ""]
)
def test_any_other_network_is_refused_with_an_example(option: str) -> None:
    with pytest.raises(UserError, match=r"^--network: .*; give one such as 127\.31\.7\.0/24$"):
        choose_network(option, Path("/runs/math"))


def test_pods_get_addresses_in_order_beside_the_registrys() -> None:
    assert etcd_address(NETWORK) == "127.31.7.1"
    assert pod_addresses(NETWORK, ["master", "hybrid-0"]) == {"master": "127.31.7.10", "hybrid-0": "127.31.7.11"}


@given(num_pods=st.integers(0, 300), prefix=st.integers(24, 27))
def test_either_every_pod_has_an_address_of_its_own_or_the_job_is_refused(num_pods: int, prefix: int) -> None:
    network = IPv4Network((int(NETWORK[0]), prefix))
    names = [f"pod-{number}" for number in range(num_pods)]
    try:
        addresses = pod_addresses(network, names)
    except UserError:
        assert num_pods > network.num_addresses - 12
        return

    assert list(addresses) == names
    assert len(set(addresses.values())) == num_pods
    assert all(network[0] < IPv4Address(address) < network[-1] for address in addresses.values())
    assert etcd_address(network) not in addresses.values()


def test_free_addresses_pass() -> None:
    check_free([("127.31.7.1", 2379), ("127.31.7.1", 2380)])


def test_a_port_that_was_just_left_counts_as_free() -> None:
    with (
        socket.create_server(("127.31.7.2", 8701)) as server,
        socket.create_connection(("127.31.7.2", 8701)),
        server.accept()[0] as connection,
    ):
        connection.shutdown(socket.SHUT_RDWR)

    check_free([("127.31.7.2", 8701)])


def test_ports_in_use_are_named_three_at_most() -> None:
    with (
        socket.create_server(("127.31.7.3", 8701)),
        socket.create_server(("127.31.7.3", 8702)),
        socket.create_server(("127.31.7.3", 8703)),
        socket.create_server(("127.31.7.3", 8704)),
        pytest.raises(MachineError) as refusal,
    ):
        check_free(("127.31.7.3", port) for port in range(8700, 8706))

    assert refusal.value.lines == (
        "127.31.7.3:8701, 127.31.7.3:8702, 127.31.7.3:8703 and 1 more: already in use by another process; stop it, or "
        "give another --network",
    )
