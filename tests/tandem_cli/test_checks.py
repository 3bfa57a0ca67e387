"""What is known to fail before anything starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tandem_cli.checks import check_job, segment_bytes
from tandem_cli.errors import UserError
from tandem_cli.manifest import read_job
from tests.tandem_cli.ground import PROBLEMS, Ground, write_policy

GPU_CONTROL = Path("/dev/nvidiactl")


def problems_of(ground: Ground, **spec: Any) -> Sequence[str]:
    """Return what is wrong with the ground's job after sections of its spec are replaced."""
    ground.write_job(**spec)
    with pytest.raises(UserError) as refusal:
        check_job(read_job(ground.job))
    return refusal.value.lines


def test_a_job_in_order_passes(ground: Ground) -> None:
    check_job(read_job(ground.job))


def test_problems_of_every_kind_are_found_at_once(ground: Ground) -> None:
    write_policy(ground.policy, head_dim=24)
    ground.data.write_text("{}\n")

    lines = problems_of(
        ground,
        policy={"model": {"path": "policy"}, "dtype": "BFloat16"},
        podTemplate={"spec": {"containers": [{"name": "sidecar"}]}},
    )

    assert [line.split(": ")[0] for line in lines] == [
        "spec.policy.dtype",
        "spec.policy.model.path",
        "spec.podTemplate.spec.containers[sidecar]",
        f"{ground.data}:1",
    ]


def test_a_cpu_wants_single_precision(ground: Ground) -> None:
    assert problems_of(ground, policy={"model": {"path": "policy"}, "dtype": "BFloat16"}) == (
        "spec.policy.dtype: BFloat16 does not run on a CPU; use Float32",
    )


def test_a_cpu_wants_a_head_dimension_that_its_attention_takes(ground: Ground) -> None:
    write_policy(ground.policy, head_dim=48)

    assert problems_of(ground) == (
        "spec.policy.model.path: the head dimension is 48, vLLM on a CPU wants a multiple of 32; use another policy or "
        "a GPU",
    )


def test_a_server_gets_whole_heads_on_each_of_its_devices(ground: Ground) -> None:
    write_policy(ground.policy, num_attention_heads=6, num_key_value_heads=6)

    lines = problems_of(
        ground, hybrid={"gpusPerPod": 4, "gpu": {"sharing": "None"}}, rollout={"parallelism": {"tensor": 4}}
    )

    assert lines == ("spec.rollout.parallelism.tensor: 4 does not divide 6 key/value heads; use 1 or 2",)


def test_a_split_of_the_trainer_that_the_policy_does_not_take_is_told_before_anything_starts(ground: Ground) -> None:
    lines = problems_of(
        ground,
        hybrid={"gpusPerPod": 16, "gpu": {"sharing": "None"}},
        trainer={"parallelism": {"tensor": 16}},
        rollout={"parallelism": {"tensor": 1}},
    )

    assert len(lines) == 1
    assert lines[0].startswith("spec.trainer.parallelism.tensor: 16 does not divide ")


def test_a_server_on_two_devices_passes(ground: Ground) -> None:
    ground.write_job(hybrid={"gpusPerPod": 2, "gpu": {"sharing": "None"}}, rollout={"parallelism": {"tensor": 2}})

    check_job(read_job(ground.job))


@pytest.mark.skipif(GPU_CONTROL.exists(), reason="this machine has a GPU")
def test_a_gpu_is_asked_for_where_there_is_none(ground: Ground) -> None:
    assert problems_of(ground, hybrid={"gpusPerPod": 1}) == (
        "spec.hybrid.gpu.sharing: this machine has no NVIDIA GPU; use None to run on its CPU",
    )


def test_rollout_only_pods_run_here_too(ground: Ground) -> None:
    ground.write_job(rollout={"elastic": {"replicas": 2, "gpusPerPod": 1}})

    check_job(read_job(ground.job))


def test_what_only_the_operator_does_is_refused_one_line_each(ground: Ground) -> None:
    lines = problems_of(
        ground,
        suspend=True,
        activeDeadlineSeconds=60,
        failurePolicy={"rules": [{"match": {"reason": "Error"}, "action": "FailJob"}]},
    )

    assert lines == (
        "spec.suspend: is true, but only the operator keeps a job for later; remove it (Ctrl-C stops a run)",
        "spec.activeDeadlineSeconds: only the operator ends a job in time; remove it",
        "spec.failurePolicy.rules: only the operator follows them; remove them",
    )


def test_what_says_where_pods_run_is_no_matter_on_one_machine(ground: Ground) -> None:
    ground.write_job(scheduling={"priorityClassName": "high"}, ttlSecondsAfterFinished=60)

    check_job(read_job(ground.job))


def test_a_commit_in_a_hub_cache_is_a_policy_like_any_other(ground: Ground) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = ground.folder / "hub" / "models--Qwen--Qwen3-8B" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    ground.policy.rename(snapshot)
    source = {"huggingFace": {"repo": "Qwen/Qwen3-8B", "revision": commit, "cachePath": "hub"}}
    ground.write_job(policy={"model": source, "dtype": "Float32", "maxLengthTokens": 32})

    job = read_job(ground.job)
    check_job(job)

    assert job.spec.policy.model.path == str(snapshot)


def test_a_policy_without_tokenizer_and_weights_lacks_two_things(ground: Ground) -> None:
    (ground.policy / "tokenizer.json").unlink()
    (ground.policy / "model.safetensors").unlink()

    assert problems_of(ground) == (
        f"spec.policy.model.path: {ground.policy}/tokenizer.json is missing; save the tokenizer beside the policy",
        f"spec.policy.model.path: {ground.policy} holds no .safetensors file; save the policy with save_pretrained",
    )


def test_a_policy_without_configuration_is_named(ground: Ground) -> None:
    (ground.policy / "config.json").unlink()

    (line,) = problems_of(ground)

    assert line.startswith(f"spec.policy.model.path: {ground.policy}/config.json is missing; ")


def test_each_problem_set_is_looked_at(ground: Ground) -> None:
    other = ground.folder / "other.jsonl"
    other.write_text("\n")
    ground.data.write_text(PROBLEMS[0] + "\nno JSON\n")

    first, second = problems_of(
        ground,
        data={"train": [{"name": "digits", "path": "data.jsonl"}, {"name": "other", "path": "other.jsonl"}]},
    )

    assert first.startswith(f"{ground.data}:2: Invalid JSON")
    assert second == f"{other}: the file holds no problem; write one JSON object a line"


def test_more_problems_an_iteration_than_there_are_is_refused(ground: Ground) -> None:
    assert problems_of(ground, recipe={"problemsPerIteration": 3}) == (
        "spec.recipe.problemsPerIteration: is 3, but spec.data.train holds 2 problems; use 2 or fewer",
    )


def test_a_curriculum_without_labels_is_refused(ground: Ground) -> None:
    (line,) = problems_of(ground, recipe={"problemsPerIteration": 2, "sampling": {"strategy": "Curriculum"}})

    assert line.startswith("spec.recipe.sampling.curriculum.difficulty: is Label, and problem ")
    assert line.endswith(" of spec.data.train has no `difficulty`; write one, or use PassRate")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named_by_its_line(ground: Ground) -> None:
    (line,) = problems_of(ground, policy={"model": {"path": "policy"}, "dtype": "Float32", "maxLengthTokens": 5})

    assert line.startswith(f"{ground.data}:2: the prompt has 5 tokens, which leaves none of the 5 of ")


def test_a_variable_that_only_a_cluster_can_tell_is_refused(ground: Ground) -> None:
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    key = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "wandb"}}}
    lines = problems_of(ground, podTemplate={"spec": {"containers": [{"name": "trainer", "env": [node, key]}]}})

    fix = "use value, or a fieldRef to metadata.name, metadata.namespace or status.podIP"
    assert lines == (
        f"spec.podTemplate.spec.containers[trainer].env[NODE].valueFrom: cannot be told without a cluster; {fix}",
        f"spec.podTemplate.spec.containers[trainer].env[KEY].valueFrom: cannot be told without a cluster; {fix}",
    )


def test_a_segment_holds_the_policys_weights_in_pages(ground: Ground) -> None:
    num_bytes = segment_bytes(read_job(ground.job))

    assert num_bytes % 4096 == 0
    assert 0 < num_bytes < 1 << 20
