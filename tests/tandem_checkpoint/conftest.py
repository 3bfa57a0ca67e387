"""The registry twice, the fake of the fast tests and the real etcd, behind one stage; a network of a module's own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import pytest
from etcd3aio import Etcd3Client

from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Registry
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.transfer.network import NoNetwork, own_loopback


class Stage(Protocol):
    """A registry, and the power to let a lease expire as if its owner had died."""

    registry: Registry

    async def expire(self, lease_id: int) -> None: ...


@dataclass(slots=True)
class FakeStage:
    registry: Registry
    fake: FakeRegistry

    async def expire(self, lease_id: int) -> None:
        self.fake.expire(lease_id)


@dataclass(slots=True)
class EtcdStage:
    registry: Registry
    client: Etcd3Client

    async def expire(self, lease_id: int) -> None:
        assert self.client.lease is not None
        await self.client.lease.revoke(lease_id)


@asynccontextmanager
async def etcd_stage(endpoint: str) -> AsyncIterator[EtcdStage]:
    async with connect([endpoint]) as registry, Etcd3Client([endpoint]) as client:
        yield EtcdStage(registry, client)


@pytest.fixture(params=["fake", pytest.param("etcd", marks=pytest.mark.etcd)])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """The registry under contract."""
    if request.param == "fake":
        fake = FakeRegistry()
        yield FakeStage(fake, fake)
        return
    async with etcd_stage(request.getfixturevalue("etcd_endpoint")) as real:
        yield real


@pytest.fixture
def registry(stage: Stage) -> Registry:
    return stage.registry


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Keys of this test alone: the real etcd is shared."""
    return f"/test/{request.node.name}/"


@pytest.fixture(scope="module")
def own_network() -> Iterator[None]:
    """A network that the module's tests have for themselves; where none can be made, `mooncake_session` skips."""
    with ExitStack() as stack:
        with suppress(NoNetwork):
            stack.enter_context(own_loopback())
        yield
