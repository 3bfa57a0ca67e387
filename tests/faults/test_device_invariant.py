"""Invariant 1 as the checker sees it: trainer and server of a pod never hold device memory at once."""

from dataclasses import replace

from tests.faults.history import DeviceSample
from tests.faults.invariants.device import check_exclusive_devices
from tests.faults.written import ROLLOUT, TO_INFER, TRAIN, calm, followed_by, sample, status, with_changes


def with_samples(*samples: DeviceSample) -> list[str]:
    return [one.text for one in check_exclusive_devices(replace(calm(), samples=samples))]


def test_a_calm_history_holds() -> None:
    assert check_exclusive_devices(calm()) == []


def test_a_server_that_answers_while_the_trainer_holds_the_token_is_found() -> None:
    assert len(with_samples(sample(110.5, holders=("train",), engines=(7,)))) == 1


def test_two_holders_of_the_token_are_found() -> None:
    assert len(with_samples(sample(110.5, holders=("rollout", "train")))) == 1


def test_a_server_that_keeps_answering_without_the_token_is_found() -> None:
    found = with_samples(sample(110.5, engines=(7,)), sample(110.6, engines=(7,)))

    assert len(found) == 1


def test_a_server_that_is_just_dying_is_none() -> None:
    assert with_samples(sample(110.5, engines=(7,)), sample(110.6)) == []


def test_a_trainer_that_trains_beside_an_answering_server_is_found() -> None:
    assert len(with_samples(sample(117.0, holders=("rollout",), engines=(7,)))) == 1


def test_the_word_of_a_trainer_without_a_process_proves_nothing() -> None:
    dead = sample(117.0, holders=("rollout",), engines=(7,), processes=(sample(0.0).processes[1],))

    assert with_samples(dead) == []


def test_a_word_that_has_only_just_been_heard_proves_nothing() -> None:
    assert with_samples(sample(115.2, holders=("rollout",), engines=(7,))) == []


def test_a_server_that_serves_before_its_trainer_has_freed_the_devices_is_found() -> None:
    history = with_changes(
        *TO_INFER[:8], status(TRAIN, "Idle", 1, device_bytes=4096), status(ROLLOUT, "Serving", 1, generation=0)
    )

    assert len(check_exclusive_devices(history)) == 1


def test_a_resident_server_may_stay() -> None:
    history = followed_by(calm(), status(ROLLOUT, "Serving", 2, generation=0))
    resident = replace(history, job=replace(history.job, strategy="Resident"))

    assert len(check_exclusive_devices(history)) == 1
    assert check_exclusive_devices(resident) == []
