"""What a failure policy says about one failure."""

import pytest

from tandem_api.job.failure import FailureAction, FailurePolicySpec, FailureReason
from tandem_operator.reconcile.failures import Failure, answer
from tests.tandem_operator.reconcile.operators import (
    rules_of,
)

REASONS = list(FailureReason)
OF_CONTAINERS = (FailureReason.ERROR, FailureReason.OOM_KILLED)
ANSWERS = [
    (reason, action)
    for reason in FailureReason
    for action in FailureAction
    if action is not FailureAction.RESTART_CONTAINER or reason in OF_CONTAINERS
]
"""All that the API lets a rule say about a reason."""


def failure_of(
    reason: FailureReason,
    *,
    role: str = "hybrid",
    container: str | None = None,
    code: int | None = None,
    over: bool = False,
) -> Failure:
    return Failure("uid/key", f"math-8b-{role}-0", role, container, code, reason, "it broke", over)


@pytest.mark.parametrize(("reason", "action"), ANSWERS)
def test_a_rule_for_a_reason_is_followed_for_that_reason(reason: FailureReason, action: FailureAction) -> None:
    policy = FailurePolicySpec.model_validate(rules_of(({"reason": reason.value}, action.value)))

    assert answer(failure_of(reason, container="trainer", code=1), policy) is action


@pytest.mark.parametrize("reason", REASONS)
def test_a_rule_for_another_reason_is_not_followed(reason: FailureReason) -> None:
    other = REASONS[(REASONS.index(reason) + 1) % len(REASONS)]
    policy = FailurePolicySpec.model_validate(rules_of(({"reason": other.value}, "FailJob")))

    assert answer(failure_of(reason), policy) is not FailureAction.FAIL_JOB


def test_the_first_rule_that_matches_is_followed() -> None:
    policy = FailurePolicySpec.model_validate(
        rules_of(
            ({"container": "rollout"}, "FailJob"),
            ({"container": "trainer", "exitCodes": [3, 4]}, "ReplacePod"),
            ({"container": "trainer"}, "RestartContainer"),
            ({"reason": "Error"}, "Ignore"),
        )
    )

    assert answer(failure_of(FailureReason.ERROR, container="trainer", code=4), policy) is FailureAction.REPLACE_POD
    assert (
        answer(failure_of(FailureReason.ERROR, container="trainer", code=5), policy) is FailureAction.RESTART_CONTAINER
    )
    assert answer(failure_of(FailureReason.ERROR, container="master", code=4), policy) is FailureAction.IGNORE


def test_exit_codes_match_no_failure_without_a_container() -> None:
    policy = FailurePolicySpec.model_validate(rules_of(({"exitCodes": [1]}, "FailJob")))

    assert answer(failure_of(FailureReason.POD_LOST), policy) is FailureAction.RESTART_GANG


@pytest.mark.parametrize("reason", ["ImagePull", "Unschedulable", "DeviceUnresolvable", "StuckTerminating"])
def test_what_may_pass_by_itself_is_waited_for_without_a_rule(reason: str) -> None:
    assert answer(failure_of(FailureReason(reason)), FailurePolicySpec()) is FailureAction.IGNORE


def test_a_pod_that_its_node_refused_its_device_does_not_come_back_and_is_not_waited_for() -> None:
    failure = failure_of(FailureReason.DEVICE_UNRESOLVABLE, over=True)

    assert answer(failure, FailurePolicySpec()) is FailureAction.RESTART_GANG
