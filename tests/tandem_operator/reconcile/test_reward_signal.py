"""A job whose rewards are all equal says so: by a condition, and once by an event."""

from tandem_api.job.status import MANY_SILENT_ITERATIONS
from tests.tandem_operator.reconcile.operators import Operator, running, settle
from tests.tandem_operator.reconcile.world import World


def told(operator: Operator, silent_iterations: int) -> tuple[str, str, str]:
    """The condition after the master has committed so many iterations without a gradient."""
    operator.world.speak(iteration=20 + silent_iterations, silent_iterations=silent_iterations)
    settle(operator)
    return operator.world.condition("RewardSignal")


def test_before_the_first_iteration_nobody_knows() -> None:
    world = settle(Operator(World.with_job())).world

    assert world.condition("RewardSignal")[:2] == ("Unknown", "NotYetKnown")


def test_a_few_iterations_without_a_gradient_are_no_news() -> None:
    operator = running()

    assert told(operator, MANY_SILENT_ITERATIONS - 1)[:2] == ("True", "RewardsDiffer")
    assert not {"RewardsDiffer", "AllRewardsEqual"} & set(operator.world.reasons())


def test_many_iterations_without_a_gradient_are_a_condition_and_one_event() -> None:
    operator = running()

    told(operator, MANY_SILENT_ITERATIONS)
    status, reason, message = told(operator, MANY_SILENT_ITERATIONS + 2)

    assert (status, reason) == ("False", "AllRewardsEqual")
    assert message.startswith("in each of the last 7 iterations all samples of every problem were worth the same")
    assert operator.world.reasons().count("AllRewardsEqual") == 1


def test_a_gradient_ends_the_condition_and_its_next_loss_is_another_event() -> None:
    operator = running()
    told(operator, MANY_SILENT_ITERATIONS)

    assert told(operator, 0)[:2] == ("True", "RewardsDiffer")
    assert told(operator, MANY_SILENT_ITERATIONS)[0] == "False"
    assert operator.world.reasons().count("AllRewardsEqual") == 2
