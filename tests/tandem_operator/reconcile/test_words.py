"""What the words of an earlier master are worth, and what an old copy of the status is."""

from tests.tandem_operator.reconcile.operators import (
    ALL_AGAIN,
    FIRST,
    Operator,
    finish_all,
    running,
    settle,
    start_all,
    wait_for,
)


def test_the_words_of_an_earlier_master_do_not_make_the_engines_ready() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.end_container(FIRST, "trainer", 1)

    start_all(wait_for(finish_all(settle(operator)), 2))

    assert operator.world.condition("EnginesReady") == ("False", "Starting", "the master has not spoken yet")
    assert operator.world.status.phase == "Starting"


def test_the_engines_are_ready_again_after_the_first_switch_of_the_new_master() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.end_container(FIRST, "trainer", 1)
    start_all(wait_for(finish_all(settle(operator)), 2))
    operator.world.speak(switch=True)

    settle(Operator(operator.world))

    assert operator.world.condition("EnginesReady")[0] == "True"
    assert operator.world.status.phase == "Infer"


def test_engines_that_waited_once_are_ready_again_without_another_switch() -> None:
    operator = running()
    found = operator.world.pods[FIRST]["status"]["containerStatuses"][0]
    found["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    settle(operator)
    lost = operator.world.condition("EnginesReady")
    found["state"] = {"running": {}}

    settle(operator)

    assert lost == ("False", "EnginesLost", f"{FIRST}/trainer: CrashLoopBackOff back-off 10s")
    assert operator.world.condition("EnginesReady")[0] == "True"


def test_an_operator_that_hears_nothing_from_the_master_does_not_know_whether_the_engines_are_ready() -> None:
    operator = running()
    operator.world.progress = None

    settle(Operator(operator.world))

    assert operator.world.condition("EnginesReady")[:2] == ("Unknown", "EnginesRegistered")
    assert operator.world.going == []


def test_the_status_of_an_old_copy_takes_over_the_attempt_of_newer_pods_and_removes_none() -> None:
    operator = running(failurePolicy=ALL_AGAIN)
    operator.world.end_container(FIRST, "trainer", 1)
    start_all(wait_for(finish_all(settle(operator)), 2))
    before = operator.world.uids()
    operator.world.body["status"] = {}
    operator.world._touch()

    settle(Operator(operator.world))

    assert operator.world.status.attempt == 1
    assert operator.world.uids() == before
    assert operator.world.going == []
