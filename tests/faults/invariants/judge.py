"""All seven at once."""

from collections.abc import Callable

from tests.faults.history import History
from tests.faults.invariants.deadlines import check_deadlines
from tests.faults.invariants.device import check_exclusive_devices
from tests.faults.invariants.epochs import check_epochs
from tests.faults.invariants.fencing import check_fencing
from tests.faults.invariants.tokens import check_stamped_tokens
from tests.faults.invariants.trajectories import check_kept_trajectories
from tests.faults.invariants.violation import Violation
from tests.faults.invariants.weights import check_whole_weights

CHECKS: tuple[Callable[[History], list[Violation]], ...] = (
    check_exclusive_devices,
    check_whole_weights,
    check_stamped_tokens,
    check_kept_trajectories,
    check_fencing,
    check_deadlines,
    check_epochs,
)
"""By the number of the invariant, from 1."""


def judge(history: History) -> list[Violation]:
    """Return every violation of every invariant, in the order of time."""
    return sorted((violation for check in CHECKS for violation in check(history)), key=lambda one: one.at)
