"""Names of etcd's hosts and their addresses."""

import pytest

from tandem_checkpoint.registry.addresses import resolve
from tandem_checkpoint.registry.errors import RegistryUnreachable


async def test_host_names_become_addresses() -> None:
    assert await resolve(["localhost:2379", "127.0.0.2:2380", "127.0.0.1:2379"]) == ("127.0.0.1:2379", "127.0.0.2:2380")


async def test_a_name_without_address_says_which() -> None:
    with pytest.raises(RegistryUnreachable, match=r"^etcd: no-such-host\.invalid: no address"):
        await resolve(["no-such-host.invalid:2379"])


async def test_one_name_that_fails_does_not_hide_another() -> None:
    assert await resolve(["no-such-host.invalid:2379", "127.0.0.1:2379"]) == ("127.0.0.1:2379",)
