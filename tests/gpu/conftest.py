"""What needs a GPU: skipped where torch sees none. Run on one by `make gpu`; docs/gpu.md says what has been."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.machine import DEVICE
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.policies import write_policy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here, and skip it where there is no device."""
    missing = not getattr(torch, DEVICE).is_available()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason="torch sees no GPU here"))


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with two embeddings."""
    return write_policy(tmp_path_factory.mktemp("policy") / "policy", tied=False)


@pytest.fixture(scope="session")
def wide_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of 200 MB: large beside what the allocator keeps."""
    return write_policy(tmp_path_factory.mktemp("wide") / "policy", tied=False, vocabulary=200_000)


@pytest.fixture
def forge() -> Iterator[Forge]:
    """Starts trainer programs, and ends them with the test.

    Each imports Megatron by itself: some of what that imports asks the device, and CUDA fails in forks after that.
    """
    with Forge(imports=()) as forge:
        yield forge
