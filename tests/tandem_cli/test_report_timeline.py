"""Lanes of members and the clock without pauses."""

import pytest

from tandem_api.job.status import Phase
from tandem_cli.report.history import History, extend
from tandem_cli.report.timeline import clock_of, lanes, natural_order
from tests.tandem_cli.fake_history import STARTED_AT, fake_history, fake_records


def test_every_member_has_a_lane_by_pod_trainers_first() -> None:
    captions = [lane.caption for lane in lanes(fake_history(iterations=1, pods=("hybrid-10", "hybrid-2")))]

    assert captions == ["hybrid-2 trainer", "hybrid-2 server", "hybrid-10 trainer", "hybrid-10 server"]


def test_phases_lie_in_the_lanes_of_those_who_work_in_them() -> None:
    trainer, server = lanes(fake_history(iterations=2, pods=("hybrid-0",)))

    assert {bar.label for bar in trainer.bars if bar.kind == "phase"} == {Phase.TRAIN}
    assert {bar.label for bar in server.bars if bar.kind == "phase"} == {Phase.INFER}


def test_bars_tell_the_generation_of_their_epoch() -> None:
    _, server = lanes(fake_history(iterations=3, pods=("hybrid-0",)))

    assert [bar.generation for bar in server.bars if bar.kind == "phase"] == [0, 1, 2]


def test_a_pod_that_joined_late_has_no_phases_before_it_joined() -> None:
    alone = fake_records(iterations=2, wanted=4, result=None, pods=("hybrid-0",))
    joined = fake_records(iterations=2, complete_before=2, started_at=STARTED_AT + 50, pods=("hybrid-0", "rollout-0"))

    by_caption = {lane.caption: lane for lane in lanes(extend(History(), alone + joined))}

    assert len([bar for bar in by_caption["hybrid-0 server"].bars if bar.kind == "phase"]) == 4
    assert len([bar for bar in by_caption["rollout-0 server"].bars if bar.kind == "phase"]) == 2


def test_the_pause_before_a_resumption_is_cut_out_of_the_clock() -> None:
    first = fake_records(iterations=2, wanted=4, result=None)
    second = fake_records(iterations=2, complete_before=2, started_at=STARTED_AT + 9000)
    clock = clock_of(extend(History(), first + second))

    (seam,) = clock.seams

    assert seam == pytest.approx(clock.runs[0].seconds)
    assert clock.at(STARTED_AT + 5000) == pytest.approx(seam)
    assert clock.at(STARTED_AT + 9001) == pytest.approx(seam + 1)
    assert clock.end == pytest.approx(clock.runs[0].seconds + clock.runs[1].seconds)


def test_an_empty_history_has_no_lanes_and_no_time() -> None:
    assert lanes(History()) == ()
    assert clock_of(History()).end == 0
    assert clock_of(History()).at(STARTED_AT) == 0


def test_names_are_ordered_as_people_count() -> None:
    assert sorted(["pod-10", "pod-9", "a"], key=natural_order) == ["a", "pod-9", "pod-10"]
