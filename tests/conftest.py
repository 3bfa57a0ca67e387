"""What tests of several packages share."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer

from tandem_cli.errors import MachineError
from tandem_cli.local.etcd import find_etcd
from tests.side_by_side import Rooms, check_rooms, long_first
from tests.tandem_checkpoint.etcd_process import EtcdProcess

pytest_plugins = ["tests.ground.fixtures"]

settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check_rooms(items)
    if "PYTEST_XDIST_WORKER" in os.environ:
        long_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Rooms:
    return Rooms(config, log)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    """One real etcd for all tests; use a prefix of your own. Mark the test `etcd`."""
    try:
        find_etcd()
    except MachineError as error:
        pytest.skip(str(error))
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="session")
def etcd_endpoint(etcd: EtcdProcess) -> str:
    """`host:port` of the shared etcd."""
    return etcd.endpoint
