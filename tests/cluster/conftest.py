"""An operator and a registry for jobs, beside the real node."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.operator_process import OperatorProcess
from tests.e2e.conftest import toy  # noqa: F401 - the same policy and problems
from tests.ground.real_node import RealNode
from tests.tandem_checkpoint.etcd_process import EtcdProcess


@pytest.fixture(scope="session")
def jobs_etcd(real_node: RealNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """The registry of the jobs. It listens on the machine's end of the node's private link, where pods reach it."""
    etcd = EtcdProcess(tmp_path_factory.mktemp("jobs-etcd"), address=real_node.host_ip)
    etcd.start()
    yield etcd
    etcd.kill()


@pytest.fixture
def operator(real_node: RealNode, jobs_etcd: EtcdProcess, tmp_path: Path) -> Iterator[OperatorProcess]:
    """A running operator."""
    process = OperatorProcess(real_node.kubeconfig, jobs_etcd.endpoint, tmp_path / "operator.log")
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def replica(
    real_node: RealNode, jobs_etcd: EtcdProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator of a module whose tests share a job; a test may replace its process."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(real_node.kubeconfig, jobs_etcd.endpoint, log)
    process.start()
    yield process
    process.stop()
