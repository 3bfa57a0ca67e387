"""What a rank on a GPU counts as held, and its communicators: in figures and in stand-ins for NCCL's."""

import logging

import pytest

from tandem_sidecars.megatron.communicators import Communicators
from tandem_sidecars.megatron.device import held_of

KEPT = 32 << 20


@pytest.mark.parametrize(
    ("known_bytes", "reserved_bytes", "held_bytes"),
    [
        (0, 0, 0),
        (0, 2 << 20, 0),
        (0, KEPT, 0),
        (0, KEPT + 1, KEPT + 1),
        (100, 2 << 20, 100),
        (100 << 20, 180 << 20, 180 << 20),
    ],
    ids=["nothing", "scalars", "what may stay", "more", "a small policy", "a policy and what it left in the cache"],
)
def test_scalars_that_stay_in_the_allocator_do_not_count_as_held(
    known_bytes: int, reserved_bytes: int, held_bytes: int
) -> None:
    assert held_of(known_bytes, reserved_bytes, KEPT) == held_bytes


class StandIn:
    """A communicator that notes what is done to it."""

    def __init__(self, name: str, notes: list[str], refusal: str = "") -> None:
        self._name = name
        self._notes = notes
        self._refusal = refusal

    def suspend(self) -> None:
        if self._refusal:
            raise RuntimeError(self._refusal)
        self._notes.append(f"{self._name} suspended")

    def resume(self) -> None:
        self._notes.append(f"{self._name} resumed")


def test_communicators_are_suspended_once_and_resumed_in_the_same_order() -> None:
    notes: list[str] = []
    communicators = Communicators(lambda: [StandIn("a", notes), StandIn("b", notes)])

    communicators.suspend()
    communicators.suspend()
    communicators.resume()
    communicators.resume()

    assert notes == ["a suspended", "b suspended", "a resumed", "b resumed"]


def test_one_that_nccl_does_not_suspend_keeps_its_memory_and_the_trainer_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[str] = []
    refusing = StandIn("b", notes, refusal="invalid usage\nand where")
    communicators = Communicators(lambda: [StandIn("a", notes), refusing, StandIn("c", notes)])

    with caplog.at_level(logging.WARNING):
        communicators.suspend()
    communicators.resume()

    assert notes == ["a suspended", "a resumed"]
    assert caplog.messages == ["a communicator keeps its device memory: invalid usage"]


def test_torch_has_the_calls_that_suspend_nccls_communicators() -> None:
    distributed = pytest.importorskip("torch._C._distributed_c10d")
    if not hasattr(distributed, "ProcessGroupNCCL"):
        pytest.skip("this build of torch has no NCCL")

    assert {"suspend", "resume", "_comm_ptr"} <= set(dir(distributed.ProcessGroupNCCL))
