"""Memory as the kernel counts it: what proves, on a CPU, that an offload has freed it.

A process is measured as a whole, so what is measured here runs in a process of its own: in that of the tests, memory
that earlier tests have left behind is freed in the middle of a measure.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from tandem_checkpoint.process.commands import Freed
from tandem_sidecars.megatron.host_memory import anonymous_bytes, give_back, memory_file, present_bytes
from tandem_sidecars.megatron.shortfall import shortfall_bytes

ROOT = Path(__file__).parents[2]
SIZE = 64 << 20
NEAR = 4 << 20
FIGURES = TypeAdapter(tuple[int, ...])


def alone(measure: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Return what a function of this module measures in a fresh process."""
    code = f"from {__name__} import {measure.__name__} as measure; print(list(measure()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return FIGURES.validate_json(done.stdout)


def settled_bytes() -> int:
    """Return the process's anonymous memory without what its imports have left to be freed."""
    gc.collect()
    give_back()
    return anonymous_bytes()


def present(tensor: torch.Tensor) -> int:
    return present_bytes(tensor.data_ptr(), tensor.untyped_storage().nbytes())


def written_and_parked() -> tuple[int, ...]:
    """Return what a tensor takes, what a parked copy of it takes besides, and whether they are the same."""
    before = settled_bytes()
    tensor = torch.ones(SIZE, dtype=torch.uint8)
    with_tensor = anonymous_bytes()
    parked = memory_file(SIZE)
    parked.copy_(tensor)
    return with_tensor - before, anonymous_bytes() - with_tensor, int(torch.equal(parked, tensor))


def shrunk() -> tuple[int, ...]:
    """Return what is given back of one tensor that is shrunk to nothing."""
    tensor = torch.ones(SIZE, dtype=torch.uint8)
    before = settled_bytes()
    tensor.untyped_storage().resize_(0)
    give_back()
    return (before - anonymous_bytes(),)


def many_small() -> tuple[int, ...]:
    """Return what is given back of many tensors that are gone."""
    tensors = [torch.ones(64 << 10, dtype=torch.uint8) for _ in range(1024)]
    before = settled_bytes()
    tensors.clear()
    give_back()
    return (before - anonymous_bytes(),)


def test_a_written_tensor_is_anonymous_memory_and_a_parked_copy_is_not() -> None:
    tensor_bytes, parked_bytes, same = alone(written_and_parked)

    assert tensor_bytes == pytest.approx(SIZE, abs=NEAR)
    assert parked_bytes == pytest.approx(0, abs=NEAR)
    assert same


def test_a_tensor_that_is_shrunk_to_nothing_is_given_back() -> None:
    (given_back_bytes,) = alone(shrunk)

    assert given_back_bytes == pytest.approx(SIZE, abs=NEAR)


def test_many_small_tensors_are_given_back_too() -> None:
    (given_back_bytes,) = alone(many_small)

    assert given_back_bytes == pytest.approx(SIZE, abs=NEAR)


def test_of_a_tensor_that_was_never_written_nothing_is_present() -> None:
    tensor = torch.empty(SIZE, dtype=torch.uint8)
    untouched = present(tensor)
    tensor.fill_(1)

    assert untouched < NEAR
    assert present(tensor) == pytest.approx(SIZE, abs=NEAR)


def test_of_nothing_nothing_is_present() -> None:
    assert present(torch.empty(0)) == 0
    assert memory_file(0).numel() == 0


@pytest.mark.parametrize(
    ("expected_bytes", "measured_bytes", "missing_bytes"),
    [(0, 0, 0), (3 << 20, 0, 0), (100 << 20, 96 << 20, 0), (100 << 20, 94 << 20, 6 << 20), (100 << 20, 200 << 20, 0)],
)
def test_a_small_difference_is_the_measure_and_a_large_one_is_not(
    expected_bytes: int, measured_bytes: int, missing_bytes: int
) -> None:
    freed = Freed(expected_bytes=expected_bytes, measured_bytes=measured_bytes)

    assert shortfall_bytes(freed, kept_bytes=NEAR) == missing_bytes
