"""Every bad input of a run: one line that names the field or the resource and the fix, an exit code, nothing left."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tandem_cli.session import memory_folder
from tests.tandem_checkpoint.policies import write_config
from tests.tandem_cli.ground import NAME, USER, VOCABULARY, Ground, Here, Outcome, refused, write_policy

AGAIN = "download the folder again, or save the policy again with save_pretrained"


# The manifest


def test_an_unknown_field_is_named_with_the_one_that_was_meant(ground: Ground) -> None:
    ground.write_job(recipe={"iteration": 2, "problemsPerIteration": 2})

    outcome = ground.up()

    assert outcome == refused(USER, "spec.recipe.iteration: unknown field; did you mean spec.recipe.iterations?")
    assert ground.remains() == []


def test_a_value_of_the_wrong_type_is_named_with_the_type_that_is_wanted(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"iterations": "many", "problemsPerIteration": 2})

    outcome = here.up()

    assert outcome == refused(USER, 'spec.recipe.iterations: is "many", wanted an integer; write a number such as 500')
    assert ground.remains() == []


def test_every_mistake_of_a_manifest_is_told_at_once_one_line_each(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"iteration": 2, "temperature": 0}, hybrid={"replicas": 0, "gpu": {"sharing": "none"}})

    outcome = here.up()

    assert outcome == refused(
        USER,
        'spec.hybrid.gpu.sharing: is "none"; use DRA, VisibleAll or None',
        "spec.hybrid.replicas: is 0; use at least 1",
        "spec.recipe.iteration: unknown field; did you mean spec.recipe.iterations?",
        "spec.recipe.temperature: is 0; use more than 0",
    )
    assert ground.remains() == []


def test_a_manifest_that_is_missing_is_named(ground: Ground) -> None:
    ground.job.unlink()

    outcome = ground.up()

    assert outcome == refused(
        USER, f"{ground.job}: cannot be read (No such file or directory); give the RLJob's file with -f"
    )
    assert ground.remains() == []


def test_a_manifest_that_is_no_yaml_is_named_with_its_line(ground: Ground, here: Here) -> None:
    ground.job.write_text("spec: [unclosed\n")

    outcome = here.up()

    (line,) = outcome.errors
    assert line.startswith(f"{ground.job}: is not YAML (")
    assert "line 2, column 1" in line
    assert line.endswith("; correct its syntax")
    assert (outcome.code, ground.remains()) == (USER, [])


def test_a_date_that_does_not_exist_is_a_mistake_of_the_manifest(ground: Ground, here: Here) -> None:
    ground.job.write_text("metadata: {name: 2024-13-45}\n")

    outcome = here.up()

    assert outcome == refused(USER, f"{ground.job}: is not YAML (month must be in 1..12); correct its syntax")
    assert ground.remains() == []


def test_a_manifest_that_is_nested_without_end_is_a_mistake_of_the_manifest(ground: Ground, here: Here) -> None:
    ground.job.write_text("[" * 600)

    outcome = here.up()

    assert outcome == refused(USER, f"{ground.job}: is nested too deeply; make it flatter")
    assert ground.remains() == []


def test_a_manifest_that_holds_something_else_is_told_what_is_wanted(ground: Ground, here: Here) -> None:
    ground.job.write_text("hello\n")

    outcome = here.up()

    assert outcome == refused(
        USER, 'document: is "hello", wanted an RLJob; begin with apiVersion, kind, metadata and spec'
    )
    assert ground.remains() == []


# The policy and the data


def test_a_missing_model_folder_is_named(ground: Ground, here: Here) -> None:
    ground.write_job(policy={"model": {"path": "nowhere"}, "dtype": "Float32", "maxLengthTokens": 32})

    outcome = here.up()

    nowhere = ground.folder / "nowhere"
    assert outcome == refused(
        USER, f"spec.policy.model.path: {nowhere} is not a folder; make the policy there, or correct the path"
    )
    assert ground.remains() == []


def test_an_unsupported_architecture_is_named_with_those_that_are_supported(ground: Ground, here: Here) -> None:
    write_policy(ground.policy, architectures=["MambaForCausalLM"])

    outcome = here.up()

    assert outcome == refused(
        USER,
        "spec.policy.model.path: the architecture is MambaForCausalLM, which has no table; use one of "
        "DeepseekV3ForCausalLM, LlamaForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, "
        'Qwen3MoeForCausalLM, or add one: docs/weights.md, "Adding an architecture"',
    )
    assert ground.remains() == []


def test_a_tokenizer_of_another_vocabulary_is_named_with_its_largest_token(ground: Ground, here: Here) -> None:
    write_policy(ground.policy, vocab_size=len(VOCABULARY) - 1)

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.policy.model.path: {ground.policy}/tokenizer.json gives out the token 11, but vocab_size in config.json "
        "is 11, so the largest is 10; put the tokenizer there that the policy was trained with",
    )
    assert ground.remains() == []


def test_weights_of_another_vocabulary_are_named_with_their_shape(ground: Ground, here: Here) -> None:
    write_config(ground.policy, head_dim=32, vocab_size=len(VOCABULARY) + 1)

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.policy.model.path: {ground.policy}/model.safetensors: model.embed_tokens.weight is (12, 64) (and 1 "
        "more), config.json says (13, 64); put the config.json there that belongs to these weights",
    )
    assert ground.remains() == []


def test_a_missing_shard_file_is_named(ground: Ground, here: Here) -> None:
    (ground.policy / "model.safetensors").rename(ground.policy / "model-00001-of-00002.safetensors")
    names = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (ground.policy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.policy.model.path: {ground.policy}/model-00002-of-00002.safetensors is missing, but "
        f"model.safetensors.index.json names it; {AGAIN}",
    )
    assert ground.remains() == []


def test_weights_that_are_cut_short_are_named_with_both_sizes(ground: Ground, here: Here) -> None:
    weights = ground.policy / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, size - 100)

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.policy.model.path: {weights} is cut short: it has {size - 100} bytes, its header speaks of {size}; "
        f"{AGAIN}",
    )
    assert ground.remains() == []


def test_weights_that_are_empty_are_cut_short_within_their_header(ground: Ground, here: Here) -> None:
    weights = ground.policy / "model.safetensors"
    os.truncate(weights, 0)

    outcome = here.up()

    assert outcome == refused(
        USER, f"spec.policy.model.path: {weights} is cut short: it ends at byte 0, within its header; {AGAIN}"
    )
    assert ground.remains() == []


@pytest.mark.parametrize(
    ("parallelism", "refusal"),
    [
        ({"tensor": 3}, "tensor: 3 does not divide 4 key/value heads; use 1, 2 or 4"),
        ({"pipeline": 3}, "pipeline: 3 stages do not share 2 layers evenly; use 1 or 2"),
    ],
)
def test_a_trainers_layout_that_does_not_divide_is_named_with_those_that_do(
    ground: Ground, here: Here, parallelism: dict[str, int], refusal: str
) -> None:
    write_policy(ground.policy, num_attention_heads=12, num_key_value_heads=4)
    ground.write_job(
        hybrid={"gpusPerPod": 3, "gpu": {"sharing": "None"}},
        trainer={"parallelism": parallelism},
        rollout={"parallelism": {"tensor": 1}},
    )

    outcome = here.up()

    assert outcome == refused(USER, f"spec.trainer.parallelism.{refusal}")
    assert ground.remains() == []


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.mark.parametrize("section", ["trainer", "rollout"])
def test_ranks_that_would_share_a_block_of_fp8_scales_are_refused(ground: Ground, here: Here, section: str) -> None:
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    write_policy(ground.policy, intermediate_size=256, **heads, quantization_config=FP8)
    split = {section: {"parallelism": {"tensor": 4}}}
    ground.write_job(hybrid={"gpusPerPod": 4, "gpu": {"sharing": "None"}}, **split)

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.{section}.parallelism.tensor: 4 cuts self_attn.q_proj into 64 rows, not a multiple of the block of 128; "
        "use 1 or 2",
    )
    assert ground.remains() == []


def test_an_fp8_policy_that_no_server_could_hold_in_blocks_is_refused(ground: Ground, here: Here) -> None:
    write_policy(ground.policy, quantization_config=FP8)

    outcome = here.up()

    assert outcome == refused(
        USER,
        f"spec.policy.model.path: {ground.policy}/config.json: model.layers.0.self_attn.k_proj has 64 rows, not a "
        "multiple of the block of 128, and others follow it in the server's model.layers.0.self_attn.qkv_proj; use the "
        "unquantized policy",
    )
    assert ground.remains() == []


def test_a_servers_layout_that_does_not_divide_is_named_with_those_that_do(ground: Ground, here: Here) -> None:
    write_policy(ground.policy, num_attention_heads=12, num_key_value_heads=4)
    ground.write_job(hybrid={"gpusPerPod": 8, "gpu": {"sharing": "None"}}, rollout={"parallelism": {"tensor": 8}})

    outcome = here.up()

    assert outcome == refused(USER, "spec.rollout.parallelism.tensor: 8 does not divide 12 query heads; use 1, 2 or 4")
    assert ground.remains() == []


def test_a_token_budget_below_the_longest_prompt_is_named_with_the_least_that_does(ground: Ground, here: Here) -> None:
    ground.write_job(recipe={"problemsPerIteration": 2, "partialRollout": {"tokenBudget": 4}})

    outcome = here.up()

    assert outcome == refused(
        USER,
        "spec.recipe.partialRollout.tokenBudget: 4 is less than the longest prompt (5 tokens, problem digits/2); "
        "use 5 or more",
    )
    assert ground.remains() == []


def test_the_ground_of_these_tests_is_a_valid_job(ground: Ground, here: Here) -> None:
    outcome = here.tandem("validate", "-f", ground.job)

    assert outcome == Outcome(0, (f"{ground.job}: {NAME} is valid",))
    assert ground.remains() == []


def test_a_file_a_process_and_shared_memory_left_behind_would_be_seen(ground: Ground) -> None:
    ground.remember()
    new, memory = ground.temporary / "new", memory_folder(Path("/dev/shm"), ground.run)
    new.touch()
    ground.data.write_text("changed")
    memory.mkdir()
    with subprocess.Popen(["sleep", "60"], cwd=ground.folder) as process:
        remains = ground.remains()
        process.kill()
    memory.rmdir()

    assert sorted(remains) == sorted([str(new), str(ground.data), str(memory), f"{ground.folder} sleep 60"])
