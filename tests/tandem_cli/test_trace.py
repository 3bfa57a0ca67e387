"""tandem trace: a run as a Chrome trace."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.critical_path import critical_path
from tandem_api.history import MemberStage, PhaseRecord, Record, RunEnded, RunStarted, SwitchRecord
from tandem_api.job.status import Direction, Phase
from tandem_cli.tracing.build import build_trace
from tests.tandem_api.switches import STARTED_AT, PodTimes, to_infer, to_train
from tests.tandem_cli.fake_history import fake_records, lines_of
from tests.tandem_cli.ground import USER, Ground, Here, refused
from tests.tandem_cli.trace_file import arrows, names, problems, slices

JOB = "reverse"
TIMES = (PodTimes(), PodTimes(export=0.4, stop=0.3))


def switch_to(phase: Phase, epoch: int, started_at: float, skews: Mapping[str, float] | None = None) -> SwitchRecord:
    """Return the record of a switch of two hybrid pods."""
    shape = to_infer if phase is Phase.INFER else to_train
    made, seconds = shape(TIMES, skews=skews)
    offset = started_at - STARTED_AT
    stages = tuple(stage.model_copy(update={"started_at": stage.started_at + offset}) for stage in made)
    return SwitchRecord(
        epoch=epoch,
        iteration=(epoch + 1) // 2,
        generation=(epoch - 1) // 2,
        direction=Direction.TRAIN_TO_INFER if phase is Phase.INFER else Direction.INFER_TO_TRAIN,
        started_at=started_at,
        seconds=seconds,
        stages=stages,
        critical_path=critical_path(stages, started_at, seconds),
    )


def records(num_switches: int = 4) -> tuple[Record, ...]:
    """Return a run of so many switches, ten seconds from one to the next."""
    made: list[Record] = [RunStarted(at=STARTED_AT - 1, job=JOB, iteration=0, iterations=9)]
    for epoch in range(1, num_switches + 1):
        phase = Phase.INFER if epoch % 2 else Phase.TRAIN
        switch = switch_to(phase, epoch, STARTED_AT + 10 * epoch)
        ended_at = switch.started_at + switch.seconds
        made.append(switch)
        made.append(
            PhaseRecord(phase=phase, epoch=epoch, iteration=switch.iteration, started_at=ended_at + 0.001, seconds=5)
        )
    return (*made, RunEnded(at=STARTED_AT + 100, result="Completed"))


def document_of(switches: Sequence[SwitchRecord], phases: Sequence[PhaseRecord] = ()) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(build_trace(JOB, switches, phases).model_dump_json())
    return document


@pytest.fixture
def traced(ground: Ground, here: Here) -> dict[str, Any]:
    """The trace of a whole run, as the command writes it."""
    ground.hold(lines_of(records()))
    outcome = here.tandem("trace", ground.run)
    assert outcome.code == 0
    document: dict[str, Any] = json.loads((ground.run / "trace.json").read_text())
    return document


def test_the_file_is_what_viewers_of_traces_load(traced: dict[str, Any]) -> None:
    assert problems(traced) == []
    assert traced["displayTimeUnit"] == "ms"
    assert traced["otherData"]["job"] == JOB


def test_a_process_is_a_pod_and_a_thread_is_a_container(traced: dict[str, Any]) -> None:
    processes, threads = names(traced, "process_name"), names(traced, "thread_name")

    assert list(processes.values()) == [JOB, "job-master", "hybrid-0", "hybrid-1"]
    assert [threads[place] for place in sorted(threads)] == [
        "phases", "switches", "critical path", "master", "trainer", "server", "trainer", "server",
    ]  # fmt: skip


def test_phases_and_switches_have_tracks_of_their_own(traced: dict[str, Any]) -> None:
    assert [event["name"] for event in slices(traced, cat="phase")] == ["Infer", "Train", "Infer", "Train"]
    assert [event["name"] for event in slices(traced, cat="switch")] == [
        "train→infer (epoch 1)", "infer→train (epoch 2)", "train→infer (epoch 3)", "infer→train (epoch 4)",
    ]  # fmt: skip


def test_stages_have_their_times_in_microseconds_from_the_start() -> None:
    switch = switch_to(Phase.INFER, 1, STARTED_AT)

    exports = slices(document_of([switch]), cat="work", name="export")

    assert [event["ts"] for event in exports] == pytest.approx([27_000, 27_000], abs=1)
    assert sorted(event["dur"] for event in exports) == pytest.approx([100_000, 400_000], abs=1)


def test_waits_are_another_category_than_work() -> None:
    document = document_of([switch_to(Phase.TRAIN, 2, STARTED_AT)])

    assert {event["name"] for event in slices(document, cat="wait")} == {"wait for word", "wait for token"}
    assert {event["name"] for event in slices(document, cat="work")} == {
        "announce", "abort", "stop", "reload", "confirm",
    }  # fmt: skip


def test_arrows_go_along_the_critical_path_from_pod_to_pod() -> None:
    document = document_of([switch_to(Phase.TRAIN, 2, STARTED_AT)])

    assert arrows(document) == [("announce", "abort"), ("abort", "stop"), ("stop", "reload"), ("reload", "confirm")]
    pods = names(document, "process_name")
    heads = {pods[event["pid"], 0] for event in document["traceEvents"] if event["ph"] == "f"}
    assert heads == {"hybrid-1", "job-master"}


def test_the_critical_path_is_a_track_with_its_notices() -> None:
    document = document_of([switch_to(Phase.TRAIN, 2, STARTED_AT)])

    assert [event["name"] for event in slices(document, cat="critical path")] == [
        "announce", "notice of word", "abort", "stop", "notice of token", "reload", "notice of status", "confirm",
    ]  # fmt: skip


def test_what_a_member_does_beside_something_else_has_a_thread_of_its_own() -> None:
    switch = switch_to(Phase.INFER, 1, STARTED_AT)
    beside = MemberStage(pod="hybrid-0", role="rollout", stage="fetch", started_at=STARTED_AT + 0.05, seconds=0.5)

    document = document_of([switch.model_copy(update={"stages": (*switch.stages, beside)})])

    assert problems(document) == []
    assert "server (2)" in names(document, "thread_name").values()


def test_a_history_of_a_version_without_waits_has_a_trace_too(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(fake_records(iterations=3)))

    here.tandem("trace", ground.run)

    assert problems(json.loads((ground.run / "trace.json").read_text())) == []


@given(st.fixed_dictionaries({f"hybrid-{index}": st.floats(-0.2, 0.2) for index in range(2)}))
def test_clocks_that_differ_never_make_a_file_that_cannot_be_loaded(skews: dict[str, float]) -> None:
    assert problems(document_of([switch_to(Phase.INFER, 1, STARTED_AT, skews)])) == []


def test_one_switch_alone_comes_with_the_phase_that_it_led_into(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(records()))

    outcome = here.tandem("trace", ground.run, "--epoch", "2", "-o", ground.folder / "two.json")

    document = json.loads((ground.folder / "two.json").read_text())
    assert outcome.output == (
        f"{ground.folder / 'two.json'}: 1 switch of 3 pods; open it at https://ui.perfetto.dev",
    )  # fmt: skip
    assert [event["name"] for event in slices(document, cat="switch")] == ["infer→train (epoch 2)"]
    assert [event["name"] for event in slices(document, cat="phase")] == ["Train"]


def test_the_last_switch_is_that_of_the_highest_epoch(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(records(3)))

    here.tandem("trace", ground.run, "--last")

    document = json.loads((ground.run / "trace.json").read_text())
    assert [event["args"]["epoch"] for event in slices(document, cat="switch")] == [3]


def test_an_epoch_that_a_resumed_run_gave_again_means_the_later_switch(ground: Ground, here: Here) -> None:
    again = switch_to(Phase.INFER, 1, STARTED_AT + 500)
    ground.hold(lines_of([*records(1), RunStarted(at=STARTED_AT + 400, job=JOB, iteration=0, iterations=9), again]))

    here.tandem("trace", ground.run, "--epoch", "1")

    document = json.loads((ground.run / "trace.json").read_text())
    assert document["otherData"]["began_at"] == "2025-10-09T09:01:40.000000+00:00"
    assert slices(document, cat="phase") == []


def test_a_job_is_found_by_its_name(ground: Ground, here: Here) -> None:
    folder = ground.folder / "runs" / "reverse"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(lines_of(records(1)))

    assert here.tandem("trace", "reverse").code == 0
    assert (folder / "trace.json").exists()


def test_records_copied_from_a_cluster_are_enough(ground: Ground, here: Here) -> None:
    (ground.folder / "copied.jsonl").write_text(lines_of(records(1)))

    assert here.tandem("trace", ground.folder / "copied.jsonl").code == 0
    assert (ground.folder / "copied.trace.json").exists()


def test_a_run_that_does_not_exist_is_the_users_mistake(here: Here) -> None:
    assert here.tandem("trace", "nobody") == refused(
        USER, "nobody: no run folder, and runs/nobody is none either; name a folder, or a job that ran here"
    )


def test_a_folder_without_records_is_the_users_mistake(ground: Ground, here: Here) -> None:
    assert here.tandem("trace", ground.policy) == refused(
        USER, f"{ground.policy}: holds no metrics.jsonl; name the folder of a run that has started"
    )


def test_a_run_before_its_first_switch_has_nothing_to_show(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(records(0)))

    history = ground.run / "metrics.jsonl"
    assert here.tandem("trace", ground.run) == refused(USER, f"{history}: holds no switch; wait for the first one")


def test_an_epoch_that_is_not_there_is_the_users_mistake(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(records(3)))

    history = ground.run / "metrics.jsonl"
    assert here.tandem("trace", ground.run, "--epoch", "9") == refused(
        USER, f"--epoch: 9 is not in {history}; use one from 1 to 3"
    )


def test_one_switch_cannot_be_chosen_in_two_ways(ground: Ground, here: Here) -> None:
    outcome = here.tandem("trace", ground.run, "--epoch", "9", "--last")

    assert (outcome.code, outcome.errors[-1]) == (USER, "Error: --epoch and --last exclude each other")


def test_a_file_that_cannot_be_written_is_named(ground: Ground, here: Here) -> None:
    ground.hold(lines_of(records(1)))
    target = Path("no") / "such" / "folder.json"

    outcome = here.tandem("trace", ground.run, "-o", target)

    assert outcome.errors == (f"{target}: cannot be written (No such file or directory); choose another with -o",)


def test_help_says_how_to_trace_a_job_in_a_cluster(here: Here) -> None:
    text = " ".join(" ".join(here.tandem("trace", "-h").output).split())

    assert "kubectl exec POD -- cat /var/lib/tandem/metrics.jsonl > metrics.jsonl" in text
    assert "--epoch" in text
