"""The critical path of a switch."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.critical_path import critical_path
from tandem_api.history import CriticalPath, MemberStage
from tests.tandem_api.switches import MASTER_POD, STARTED_AT, MasterTimes, PodTimes, Switch, to_infer, to_train

ROUNDING_SECONDS = 2e-6
"""What is lost in Unix times, which a float holds to 0.24 microseconds, over a whole path."""

DURATIONS = st.floats(0, 2, allow_subnormal=False)
NOTICES = st.floats(0, 0.02)
MASTERS = st.builds(MasterTimes, announce=NOTICES, publish=NOTICES, confirm=NOTICES, notice=NOTICES)
PODS = st.lists(
    st.builds(
        PodTimes,
        **{name: DURATIONS for name in PodTimes.__slots__ if name != "notice"},
        notice=NOTICES,
    ),
    min_size=1,
    max_size=4,
)
SKEWS = st.fixed_dictionaries({f"hybrid-{index}": st.floats(-0.008, 0.008) for index in range(4)})


def stage_at(offset: float, **fields: object) -> MemberStage:
    return MemberStage.model_validate({"started_at": STARTED_AT + offset, **fields})


ANY_STAGE = st.builds(
    stage_at,
    pod=st.sampled_from(["a", "b", "c"]),
    role=st.sampled_from(["train", "rollout", "master"]),
    stage=st.sampled_from(
        ["word", "shards", "published", "token", "export", "offload", "stop", "announce", "publish", "confirm", "x"]
    ),
    waits=st.booleans(),
    offset=st.one_of(st.floats(-1, 12), st.integers(0, 3)),
    seconds=st.one_of(st.integers(0, 2), st.floats(0, 12, allow_subnormal=False)),
)


def names(path: CriticalPath) -> list[str]:
    """Return the segments in words: `notice token` is a notice of the token."""
    return [f"{segment.stage} {segment.notice_of}".strip() for segment in path.segments]


def seconds_of(path: CriticalPath, stage: str) -> float:
    return sum(segment.seconds for segment in path.segments if segment.stage == stage)


def test_a_change_to_inference_goes_from_the_word_over_the_token_to_the_servers() -> None:
    stages, seconds = to_infer([PodTimes()])

    path = critical_path(stages, STARTED_AT, seconds)

    assert names(path) == [
        "announce", "notice word", "drain", "export", "offload", "notice token", "start", "load", "ready",
        "notice status", "confirm",
    ]  # fmt: skip
    assert [segment.role for segment in path.segments] == [
        "master", *["train"] * 4, *["rollout"] * 4, "master", "master",
    ]  # fmt: skip
    assert path.share == pytest.approx(1, abs=1e-5)


def test_it_tells_how_long_each_stage_held_the_switch_up() -> None:
    stages, seconds = to_infer([PodTimes(drain=0.5, notice=0.01)])

    path = critical_path(stages, STARTED_AT, seconds)

    assert [round(segment.seconds, 4) for segment in path.segments] == [
        0.004, 0.01, 0.5, 0.1, 0.05, 0.01, 0.6, 0.02, 0.2, 0.003, 0.002,
    ]  # fmt: skip
    assert path.segments[3].started_at == pytest.approx(STARTED_AT + 0.514, abs=1e-6)


def test_a_slow_publication_takes_the_place_of_the_offload() -> None:
    stages, seconds = to_infer([PodTimes(offload=0.001)], MasterTimes(publish=0.3))

    path = critical_path(stages, STARTED_AT, seconds)

    assert names(path)[3:8] == ["export", "notice shards", "publish", "notice published", "start"]
    assert seconds_of(path, "publish") == pytest.approx(0.3, abs=1e-6)


def test_the_slowest_export_of_all_pods_holds_up_the_publication() -> None:
    stages, seconds = to_infer([PodTimes(offload=0.0), PodTimes(export=0.9, start=0.1, offload=0.0)])

    path = critical_path(stages, STARTED_AT, seconds)

    exports = [segment.pod for segment in path.segments if segment.stage == "export"]
    servers = {segment.pod for segment in path.segments if segment.role == "rollout"}
    assert exports == ["hybrid-1"]
    assert servers == {"hybrid-0"}
    assert path.share == pytest.approx(1, abs=1e-5)


def test_a_slow_preparation_is_on_the_path_and_the_export_beside_it_is_not() -> None:
    stages, seconds = to_infer([PodTimes(prepare=3.0)])

    path = critical_path(stages, STARTED_AT, seconds)

    assert "export" not in names(path)
    assert names(path)[:3] == ["announce", "notice word", "prepare"]
    assert seconds_of(path, "prepare") == pytest.approx(3, abs=1e-6)


def test_a_change_to_training_goes_over_the_servers_end_to_the_reload() -> None:
    stages, seconds = to_train([PodTimes(), PodTimes(stop=0.4)])

    path = critical_path(stages, STARTED_AT, seconds)

    assert names(path) == [
        "announce", "notice word", "abort", "stop", "notice token", "reload", "notice status", "confirm",
    ]  # fmt: skip
    assert {segment.pod for segment in path.segments} == {"hybrid-1", MASTER_POD}


def test_work_beside_a_wait_is_on_the_path_where_it_ends_later() -> None:
    switch = Switch()
    switch.work(MASTER_POD, "master", "announce", 0.0, 0.1)
    switch.wait("rollout-0", "rollout", "word", 0.0, 0.11)
    switch.wait("rollout-0", "rollout", "shards", 0.11, 0.4)
    switch.work("rollout-0", "rollout", "start", 0.11, 0.9)
    switch.work("rollout-0", "rollout", "load", 0.9, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert names(path) == ["announce", "notice word", "start", "load"]
    assert path.share == pytest.approx(1, abs=1e-5)


def test_a_pod_without_a_trainer_waits_for_the_export_of_any_pod() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "export", 0.0, 0.3)
    switch.work("hybrid-1", "train", "export", 0.0, 0.5)
    switch.wait("rollout-0", "rollout", "shards", 0.0, 0.51)
    switch.work("rollout-0", "rollout", "fetch", 0.51, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert names(path) == ["export", "notice shards", "fetch"]
    assert path.segments[0].pod == "hybrid-1"


def test_a_wait_for_what_was_over_already_is_a_notice_alone() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "offload", 0.0, 0.2)
    switch.work("hybrid-0", "rollout", "prepare", 0.0, 0.7)
    switch.wait("hybrid-0", "rollout", "token", 0.7, 0.71)
    switch.work("hybrid-0", "rollout", "start", 0.71, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert names(path) == ["prepare", "notice token", "start"]
    assert path.segments[1].seconds == pytest.approx(0.01, abs=1e-6)


def test_without_the_masters_word_at_the_end_the_path_begins_with_what_ended_last() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "reload", 0.0, 1.0)
    switch.work("hybrid-1", "train", "reload", 0.5, 0.6)

    assert [segment.pod for segment in critical_path(switch.stages, STARTED_AT, 1.0).segments] == ["hybrid-0"]


def test_a_hybrid_pod_waits_for_its_own_export_though_another_one_ended_later() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "export", 0.0, 0.3)
    switch.work("hybrid-1", "train", "export", 0.0, 0.31)
    switch.wait("hybrid-0", "rollout", "shards", 0.0, 0.32)
    switch.work("hybrid-0", "rollout", "verify", 0.32, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert path.segments[0].pod == "hybrid-0"
    assert path.segments[0].seconds == pytest.approx(0.3, abs=1e-6)


def test_a_container_does_not_get_the_token_from_itself() -> None:
    switch = Switch()
    switch.work("hybrid-0", "rollout", "stop", 0.0, 0.2)
    switch.wait("hybrid-0", "rollout", "token", 0.2, 0.6)
    switch.work("hybrid-0", "rollout", "start", 0.6, 1.0)

    assert critical_path(switch.stages, STARTED_AT, 1.0).unexplained_seconds == pytest.approx(0.4, abs=1e-6)


def test_what_began_after_a_wait_was_over_has_not_ended_it() -> None:
    switch = Switch()
    switch.work("hybrid-0", "rollout", "prepare", 0.0, 0.2)
    switch.wait("hybrid-0", "rollout", "published", 0.2, 0.4)
    switch.work(MASTER_POD, "master", "publish", 0.6, 0.7)
    switch.work("hybrid-0", "rollout", "start", 0.4, 1.0)

    assert names(critical_path(switch.stages, STARTED_AT, 1.0)) == ["prepare", "start"]


def test_a_stage_that_began_before_the_switch_counts_from_its_start() -> None:
    switch = Switch()
    switch.work("hybrid-0", "rollout", "start", -0.5, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert [(segment.started_at, segment.seconds) for segment in path.segments] == [(STARTED_AT, 1.0)]


def test_a_cause_that_seems_to_end_long_after_its_effect_is_cut_off_there() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "offload", 0.1, 0.9)
    switch.wait("hybrid-0", "rollout", "token", 0.0, 0.5)
    switch.work("hybrid-0", "rollout", "start", 0.5, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert names(path) == ["offload", "start"]
    assert path.segments[0].seconds == pytest.approx(0.4, abs=1e-6)


def test_of_stages_shorter_than_a_clock_is_right_a_later_one_is_not_taken_for_an_earlier() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "drain", 0.0, 0.2)
    switch.work("hybrid-0", "train", "export", 0.2, 0.2004)
    switch.work("hybrid-0", "train", "offload", 0.2004, 0.2008)
    switch.wait("hybrid-0", "rollout", "shards", 0.0, 0.2004)
    switch.work("hybrid-0", "rollout", "verify", 0.2004, 1.0)

    assert names(critical_path(switch.stages, STARTED_AT, 1.0)) == ["drain", "export", "verify"]


def test_time_that_nobody_measured_is_unexplained() -> None:
    switch = Switch()
    switch.work("hybrid-0", "train", "reload", 0.5, 0.8)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert path.unexplained_seconds == pytest.approx(0.7, abs=1e-6)
    assert path.share == pytest.approx(0.3, abs=1e-6)


def test_a_wait_that_nobody_ended_is_unexplained() -> None:
    switch = Switch()
    switch.wait("hybrid-0", "train", "token", 0.0, 0.6)
    switch.work("hybrid-0", "train", "reload", 0.6, 1.0)

    path = critical_path(switch.stages, STARTED_AT, 1.0)

    assert names(path) == ["reload"]
    assert path.unexplained_seconds == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 1.0), (2.0, 0.0)])
def test_a_switch_without_stages_explains_nothing(seconds: float, share: float) -> None:
    path = critical_path((), STARTED_AT, seconds)

    assert path == CriticalPath(segments=(), unexplained_seconds=seconds, share=share)


def test_a_clock_that_is_behind_only_makes_the_notice_longer() -> None:
    right, seconds = to_infer([PodTimes()])
    wrong, _ = to_infer([PodTimes()], skews={"hybrid-0": -0.006})

    before, after = critical_path(right, STARTED_AT, seconds), critical_path(wrong, STARTED_AT, seconds)

    assert names(after) == [name for name in names(before) if name != "notice word"]
    assert seconds_of(after, "notice") == pytest.approx(0.003 + 0.003 + 0.006, abs=1e-5)
    assert after.share == pytest.approx(1, abs=1e-5)


def test_a_clock_that_is_far_ahead_neither_breaks_the_chain_nor_makes_a_segment_negative() -> None:
    stages, seconds = to_infer([PodTimes()], skews={"hybrid-0": 0.4})

    path = critical_path(stages, STARTED_AT, seconds)

    assert names(path)[0] == "announce"
    assert names(path)[-1] == "confirm"
    assert path.share == pytest.approx(1, abs=1e-5)


@given(PODS, MASTERS, st.sampled_from([to_infer, to_train]))
def test_with_right_clocks_all_of_a_measured_switch_is_explained(pods, master, shape) -> None:  # type: ignore[no-untyped-def]
    stages, seconds = shape(pods, master)

    path = critical_path(stages, STARTED_AT, seconds)

    assert path.unexplained_seconds <= ROUNDING_SECONDS * len(stages)


@given(PODS, MASTERS, SKEWS, st.sampled_from([to_infer, to_train]))
def test_clocks_that_differ_by_milliseconds_leave_next_to_nothing_unexplained(pods, master, skews, shape) -> None:  # type: ignore[no-untyped-def]
    stages, seconds = shape(pods, master, skews)

    path = critical_path(stages, STARTED_AT, seconds)

    assert path.unexplained_seconds <= ROUNDING_SECONDS * len(stages)


@given(st.lists(ANY_STAGE, max_size=25), st.floats(0, 10))
def test_segments_are_ordered_disjoint_and_inside_the_switch_whatever_was_measured(
    stages: list[MemberStage], seconds: float
) -> None:
    path = critical_path(stages, STARTED_AT, seconds)

    ends = [segment.started_at + segment.seconds for segment in path.segments]
    assert all(end <= later.started_at + ROUNDING_SECONDS for end, later in zip(ends, path.segments[1:], strict=False))
    assert all(one.started_at <= other.started_at for one, other in pairwise(path.segments))
    assert all(segment.started_at >= STARTED_AT and segment.seconds > 0 for segment in path.segments)
    assert all(end <= STARTED_AT + seconds + ROUNDING_SECONDS for end in ends)


@given(st.lists(ANY_STAGE, max_size=25), st.floats(0, 10))
def test_segments_and_what_is_unexplained_add_up_to_the_whole_switch(stages: list[MemberStage], seconds: float) -> None:
    path = critical_path(stages, STARTED_AT, seconds)

    explained = sum(segment.seconds for segment in path.segments)
    assert 0 <= path.share <= 1
    assert explained + path.unexplained_seconds == pytest.approx(seconds, abs=ROUNDING_SECONDS * (len(stages) + 1))


@given(st.lists(ANY_STAGE, max_size=12), st.randoms(use_true_random=False), st.floats(0, 10))
def test_the_order_of_the_stages_changes_nothing(stages, dice, seconds) -> None:  # type: ignore[no-untyped-def]
    shuffled = dice.sample(stages, len(stages))

    assert critical_path(shuffled, STARTED_AT, seconds) == critical_path(stages, STARTED_AT, seconds)


@given(PODS, MASTERS)
def test_no_stage_is_longer_on_the_path_than_it_was(pods: list[PodTimes], master: MasterTimes) -> None:
    stages, seconds = to_infer(pods, master)
    longest = {(stage.pod, stage.role, stage.stage): stage.seconds for stage in stages}

    path = critical_path(stages, STARTED_AT, seconds)

    work = [segment for segment in path.segments if segment.stage != "notice"]
    assert all(
        segment.seconds <= longest[segment.pod, segment.role, segment.stage] + ROUNDING_SECONDS for segment in work
    )


@given(PODS, MASTERS, st.data())
def test_a_stage_off_the_path_may_be_shorter_for_nothing(pods, master, data) -> None:  # type: ignore[no-untyped-def]
    stages, seconds = to_train(pods, master)
    on_path = {segment.pod for segment in critical_path(stages, STARTED_AT, seconds).segments}
    index = data.draw(st.integers(0, len(pods) - 1))

    faster = [replace(pod, stop=0.0) if number == index else pod for number, pod in enumerate(pods)]
    _, shortened = to_train(faster, master)

    assert f"hybrid-{index}" in on_path or shortened == seconds
