"""The registry twice: the fake of the fast tests and the real etcd, behind one stage."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest
from etcd3aio import Etcd3Client

from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Registry
from tests.fakes.registry import FakeRegistry


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
