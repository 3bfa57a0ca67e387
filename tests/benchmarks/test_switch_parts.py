"""The parts of the benchmark of switches that need no processes: command lines, jobs, ratios, and what fails."""

from pathlib import Path

import pytest
from benchmarks.report.result import PartError
from benchmarks.switch import Numbers, parts
from benchmarks.switch_bench.cycles import Answers, Cycle
from benchmarks.switch_bench.floor import Floor
from benchmarks.switch_bench.jobs import job_manifest, refusal
from benchmarks.switch_bench.plain import plain_words
from benchmarks.switch_bench.starts import LargeStarts, TinyStarts
from benchmarks.switch_bench.switches import VARIANTS, Unavoidable, floor_figures
from benchmarks.switch_bench.usage import program_of, proportional_bytes

ROLLUP = (
    "00400000-7ffc0 ---p 00000000 00:00 0 [rollup]\nRss:  300 kB\nPss:  150 kB\n"
    "Pss_Anon:  80 kB\nPss_File:  30 kB\nPss_Shmem:  40 kB\n"
)


def _cycle(total: float, load: float) -> Cycle:
    return Cycle(total=total, give_up=0.0, prepare=0.0, start=0.0, load=load, ready=0.0, first_token=0.0)


def test_a_plain_server_gets_our_command_line_without_what_makes_it_ours() -> None:
    ours = (
        "--model",
        "m",
        "--load-format",
        "ours",
        "--dtype",
        "float32",
        "--middleware",
        "a.B",
        "--host",
        "x",
    )

    assert plain_words(ours, "127.0.0.9") == ("--model", "m", "--dtype", "float32", "--host", "127.0.0.9")


def test_the_floor_s_ratio_ends_with_the_same_token_on_both_sides() -> None:
    samples = [Unavoidable(Floor(fork=0.01, engine=0.2, first_token=0.04), memcpy=0.04, first_token=0.05)] * 3

    figures = floor_figures(0.4, samples)

    assert figures["floor_ratio"] == pytest.approx(0.45 / 0.30)
    assert figures["floor_ratio_strict"] == pytest.approx(0.45 / 0.29)


def test_binding_is_measured_in_copies_made_beside_the_restarts_and_updating_in_those_beside_the_updates() -> None:
    starts = LargeStarts(
        plain=[30.0],
        copies_beside_restarts=[0.4, 0.5, 0.4],
        restarts=[_cycle(total=3.0, load=0.02)] * 3,
        copies_beside_updates=[0.2] * 3,
        updates=[_cycle(total=0.5, load=0.3)] * 3,
    )

    figures = starts.figures()

    assert figures["restart_speedup_vs_plain_large"] == pytest.approx(10.0)
    assert figures["bind_over_memcpy"] == pytest.approx(0.05)
    assert figures["inplace_over_memcpy"] == pytest.approx(1.5)


def test_a_restart_is_compared_with_both_plain_servers() -> None:
    starts = TinyStarts(plain=[30.0, 32.0], tuned=[16.0], restarts=[_cycle(total=0.5, load=0.01)])

    figures = starts.figures()

    assert figures["restart_speedup_vs_plain"] == pytest.approx(62.0)
    assert figures["restart_speedup_vs_plain_tuned"] == pytest.approx(32.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_this_version_takes_the_jobs_that_are_measured(name: str) -> None:
    assert refusal(job_manifest(Path("toy"), 3, VARIANTS[name])) is None


def test_a_job_that_this_version_does_not_take_is_refused_with_its_field() -> None:
    why = refusal(job_manifest(Path("toy"), 3, {"rollout": {"parallelism": {"tensor": -1}}}))

    assert why is not None
    assert "rollout.parallelism.tensor" in why


def test_changes_of_a_job_keep_what_they_do_not_name() -> None:
    spec = job_manifest(Path("toy"), 3, VARIANTS["two_pods"])["spec"]

    assert spec["hybrid"]["replicas"] == 2
    assert spec["hybrid"]["gpusPerPod"] == 1


def test_every_part_has_a_name(tmp_path: Path) -> None:
    names = list(parts(tmp_path, tmp_path, Numbers(10, 3, 60)))

    assert names == ["tiny", "large", "switch", "tp2", "two_pods", "resident", "resident_tp2", "soak"]


def test_a_generation_that_answers_as_the_one_before_is_found_out() -> None:
    answers = Answers()
    answers.check(0, -1.5)

    with pytest.raises(PartError, match=r"generation 1 answers -1\.5 nats, as does the generation before"):
        answers.check(1, -1.5)


def test_a_generation_that_answers_otherwise_than_before_is_found_out() -> None:
    answers = Answers()
    answers.check(0, -1.5)
    answers.check(1, -0.5)

    with pytest.raises(PartError, match=r"generation 0 answers -1\.4 nats now"):
        answers.check(0, -1.4)


def test_memory_is_the_proportional_share_of_what_no_file_backs_in_bytes() -> None:
    assert proportional_bytes(ROLLUP) == 120 * 1024
    assert proportional_bytes("") == 0


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("/venv/bin/python", "/venv/bin/tandem-engine", "--role", "train"), "engine"),
        (("/venv/bin/python", "/venv/bin/tandem", "up", "-f", "x"), "command"),
        (("/venv/bin/python", "-m", "tandem_sidecars.vllm", "--device", "cpu"), "tandem_sidecars.vllm"),
        (("tandem-server 8000",), "tandem-server"),
        (("VLLM::EngineCore",), "VLLM::"),
        (("/venv/etcdbin/etcd", "--name", "tandem"), "etcd"),
        (("/bin/sh",), "other"),
    ],
)
def test_processes_are_told_apart_by_their_command_lines(words: tuple[str, ...], name: str) -> None:
    assert program_of(words) == name
