"""Example 01, whole: the reward rises, the engines really take turns, and nothing is left behind."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tandem_api.history import MemberStage, PhaseRecord, SwitchRecord
from tandem_api.job import Direction, Phase
from tandem_cli.report.history import read_history
from tests.e2e.conftest import CompleteRun
from tests.e2e.jobs import iterations, leftovers, records, self_tests, summary_of

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

KEYS = {
    "iterations",
    "reward_first_5",
    "reward_last_5",
    "reward_gain",
    "switches",
    "train_to_infer_seconds_median",
    "infer_to_train_seconds_median",
    "max_abs_logprob_difference",
    "seconds",
}
SAMPLING_SECONDS = 0.1
"""A sample this close to the edge of a phase may have been taken on its other side."""


def test_the_command_completes(complete_run: CompleteRun) -> None:
    assert complete_run.code == 0, complete_run.output


def test_the_reward_rises(complete_run: CompleteRun) -> None:
    summary = summary_of(complete_run.summary)

    assert summary.keys() >= KEYS
    assert summary["iterations"] >= 20
    assert summary["reward_gain"] >= 0.3
    assert summary["switches"] == 2 * summary["iterations"]


def test_server_and_trainer_agree_about_every_sampled_token(complete_run: CompleteRun) -> None:
    differences = [record.max_abs_logprob_difference for record in iterations(complete_run.folder)]

    assert len(differences) == summary_of(complete_run.summary)["iterations"]
    assert max(differences) < 1e-5


def test_the_first_hand_over_is_tested_end_to_end(complete_run: CompleteRun, toy: Path) -> None:
    [record] = self_tests(complete_run.folder)

    assert (record.iteration, record.generation) == (1, 0)
    assert record.tensors == len(load_file(toy / "policy" / "model.safetensors"))
    assert record.logprobs > 0
    assert record.max_abs_logprob_difference < 1e-5
    assert f"self-test: {record.tensors} tensors equal, {record.logprobs} log-probabilities" in complete_run.output


def test_no_server_holds_weights_while_the_trainer_trains(complete_run: CompleteRun) -> None:
    phases = [record for record in records(complete_run.folder) if isinstance(record, PhaseRecord)]
    train = [phase for phase in phases if phase.phase is Phase.TRAIN]
    inside = [
        servers
        for at, servers in complete_run.servers
        for phase in train
        if phase.started_at + SAMPLING_SECONDS < at < phase.started_at + phase.seconds - SAMPLING_SECONDS
    ]

    assert len(inside) > len(train) // 2
    assert set(inside) == {0}
    assert max(servers for _, servers in complete_run.servers) >= 1


def test_the_trainer_holds_no_device_memory_while_the_server_serves(complete_run: CompleteRun) -> None:
    log = (complete_run.folder / "logs" / "reverse-digits-hybrid-0" / "trainer.log").read_text()

    held = [int(number) for number in re.findall(r"Idle, (\d+) bytes of device memory", log)]
    held_in_training = [int(number) for number in re.findall(r"Training, (\d+) bytes of device memory", log)]

    assert set(held[1:]) == {0}
    assert min(held_in_training) > 0


def test_every_switch_reports_its_stages(complete_run: CompleteRun) -> None:
    to_infer = stages_of(complete_run, Direction.TRAIN_TO_INFER)
    to_train = stages_of(complete_run, Direction.INFER_TO_TRAIN)

    members = {"drain", "export", "offload", "prepare", "verify", "start", "load", "ready"}
    assert {stage.stage for stage in to_infer if not stage.waits and stage.role != "master"} == members
    assert {stage.stage for stage in to_infer if stage.waits} <= {"word", "shards", "published", "token"}
    assert {stage.stage for stage in to_infer if stage.role == "master"} == {"announce", "publish", "confirm"}
    members = {"abort", "stop", "reload", "ready"}
    assert {stage.stage for stage in to_train if not stage.waits and stage.role != "master"} == members
    assert {stage.stage for stage in to_train if stage.waits} <= {"word", "token"}
    assert {stage.stage for stage in to_train if stage.role == "master"} == {"announce", "confirm"}


def stages_of(run: CompleteRun, direction: Direction) -> list[MemberStage]:
    """Return the stages of all switches of one direction."""
    switches = [record for record in records(run.folder) if isinstance(record, SwitchRecord)]
    return [stage for switch in switches if switch.direction is direction for stage in switch.stages]


def test_the_final_policy_loads_and_solves_problems(complete_run: CompleteRun) -> None:
    policy = AutoModelForCausalLM.from_pretrained(complete_run.folder / "policy", dtype=torch.float32)
    prompt = torch.tensor([[4 + int(digit) for digit in "4821"] + [14]])

    answer = policy.generate(prompt, max_new_tokens=5, do_sample=False)[0, 5:].tolist()

    assert answer == [4 + int(digit) for digit in "1284"] + [2]


def test_the_results_are_there(complete_run: CompleteRun) -> None:
    files = {path.name for path in complete_run.folder.iterdir()}

    assert files >= {"metrics.jsonl", "tensorboard", "report.png", "report.html", "summary.json", "policy", "logs"}
    assert read_history(complete_run.folder / "metrics.jsonl").ended is not None


def test_nothing_is_left_behind(complete_run: CompleteRun) -> None:
    assert leftovers(complete_run.folder) == []
    assert complete_run.folders == []
