"""The grounds as fixtures: `api_server` for most tests, `real_node` for those that need running pods,
`fake_nodes`, `kueue` and `volcano` for those that ask who gets a node, and when."""

import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.ground import kueue as kueue_ground
from tests.ground import volcano as volcano_ground
from tests.ground.access import Access
from tests.ground.api_server import ApiServer, run_api_server
from tests.ground.fake_nodes import run_fake_nodes
from tests.ground.machine import check_machine
from tests.ground.programs import ROOT, GroundError, locate
from tests.ground.real_node import RealNode, run_node

CRDS = (ROOT / "crds" / "rljobs.tandem.dev.yaml",)
REQUIRED = "TANDEM_REQUIRE_CONTROL_PLANE"
"""Set to 1 where the programs must be there: a missing one then fails the tests instead of skipping them."""


def _give_up(error: GroundError) -> NoReturn:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


def _programs(group: str) -> Mapping[str, Path]:
    try:
        return locate(group)
    except GroundError as error:
        _give_up(error)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One API server for all tests, with the CRD; work in a namespace of your own. Mark the test `api_server`."""
    with run_api_server(tmp_path_factory.mktemp("api-server"), _programs("api-server"), CRDS) as server:
        yield server


@pytest.fixture(scope="session")
def queue_programs() -> Mapping[str, Path]:
    """The programs of a cluster with fake nodes, Kueue and Volcano."""
    return _programs("queues")


@pytest.fixture(scope="session")
def fake_nodes(queue_programs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with 4 nodes of 8 cores and 4 GPUs that are only objects: a pod with a node runs and is ready.

    PodGroups of Kubernetes are served, with Kueue's and Volcano's kinds. Mark the test `api_server`.
    """
    definitions = (*CRDS, *kueue_ground.definitions(queue_programs), *volcano_ground.definitions(queue_programs))
    with run_fake_nodes(tmp_path_factory.mktemp("fake-nodes"), queue_programs, definitions) as server:
        yield server


@pytest.fixture(scope="session")
def kueue(fake_nodes: ApiServer, queue_programs: Mapping[str, Path]) -> Iterator[ApiServer]:
    """The API server of `fake_nodes`, with Kueue. Mark the test `api_server`."""
    with kueue_ground.run_kueue(fake_nodes, queue_programs):
        yield fake_nodes


@pytest.fixture(scope="session")
def volcano(fake_nodes: ApiServer, queue_programs: Mapping[str, Path]) -> Iterator[ApiServer]:
    """The API server of `fake_nodes`, with Volcano's scheduler and queue `default`. Mark the test `api_server`."""
    with volcano_ground.run_volcano(fake_nodes, queue_programs):
        yield fake_nodes


@pytest.fixture(scope="session")
def node_programs() -> Mapping[str, Path]:
    """The programs of a node, on a machine that can hold one."""
    try:
        check_machine()
    except GroundError as error:
        pytest.skip(str(error))
    return _programs("node")


@pytest.fixture(scope="session")
def real_node(node_programs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNode]:
    """One node for all tests, with the CRD and 4 fake GPUs; work in a namespace of your own. Mark the test `node`."""
    with run_node(tmp_path_factory.mktemp("node"), node_programs, definitions=CRDS) as node:
        yield node


def _namespace(ground: Access) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    ground.kubectl("create", "namespace", name)
    yield name
    ground.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def api_namespace(api_server: ApiServer) -> Iterator[str]:
    """A namespace of this test alone, on the API server."""
    yield from _namespace(api_server)


@pytest.fixture
def fake_namespace(fake_nodes: ApiServer) -> Iterator[str]:
    """A namespace of this test alone, where the fake nodes are; pods can be created in it."""
    for name in _namespace(fake_nodes):
        fake_nodes.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=60s")
        yield name


@pytest.fixture
def node_namespace(real_node: RealNode) -> Iterator[str]:
    """A namespace of this test alone, on the node."""
    yield from _namespace(real_node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a failed test where the logs of its ground are, and save there what the API server knows."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name in ("api_server", "fake_nodes", "real_node"):
            ground = item.funcargs.get(name)
            if isinstance(ground, ApiServer | RealNode):
                report.sections.append((f"logs of {name}", str(ground.logs())))
    return report
