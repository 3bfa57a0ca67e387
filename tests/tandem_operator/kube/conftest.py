"""The two servers that the contract is shown on."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import Connection, connect
from tandem_operator.kube.retry import Backoff, RetryPolicy
from tests.tandem_operator.kube.fake_api import FakeApi

QUICK = RetryPolicy(
    attempt_seconds=5.0,
    deadline_seconds=10.0,
    max_attempts=4,
    backoff=Backoff(first_seconds=0.01, longest_seconds=0.05),
)


@dataclass(frozen=True)
class Server:
    """An API server, a connection to it and a namespace of the test's own."""

    connection: Connection
    client: KubeClient
    namespace: str


def write_kubeconfig(folder: Path, url: str) -> Path:
    """Write a kubeconfig without credentials, as for a local proxy."""
    path = folder / "kubeconfig"
    path.write_text(
        f"""{{apiVersion: v1, kind: Config, current-context: fake,
        clusters: [{{name: fake, cluster: {{server: "{url}"}}}}], users: [{{name: nobody, user: {{}}}}],
        contexts: [{{name: fake, context: {{cluster: fake, user: nobody}}}}]}}"""
    )
    return path


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    """The fake, listening."""
    api = FakeApi()
    await api.start()
    yield api
    await api.stop()


@pytest.fixture
async def fake_server(fake: FakeApi, tmp_path: Path) -> AsyncIterator[Server]:
    """A client of the fake."""
    connection = await connect(write_kubeconfig(tmp_path, fake.url))
    yield Server(connection, KubeClient(connection, retry=QUICK), "research")
    await connection.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.api_server)])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A client of the fake, and again of a real API server."""
    if request.param == "real":
        kubeconfig, namespace = (
            request.getfixturevalue("api_server").kubeconfig,
            request.getfixturevalue("api_namespace"),
        )
        connection = await connect(kubeconfig)
        yield Server(connection, KubeClient(connection), namespace)
        await connection.close()
        return
    api = FakeApi()
    await api.start()
    connection = await connect(write_kubeconfig(tmp_path, api.url))
    yield Server(connection, KubeClient(connection, retry=QUICK), "research")
    await connection.close()
    await api.stop()
