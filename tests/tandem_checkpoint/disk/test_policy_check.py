"""A policy's folder against its own config.json and tokenizer: one line for each kind of mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tandem_checkpoint.architectures import UnsupportedArchitecture, architecture_of
from tandem_checkpoint.architectures.config import PolicyFolderError, read_policy_config
from tandem_checkpoint.disk.formats import CODES
from tandem_checkpoint.disk.index import INDEX_FILE, SINGLE_FILE
from tandem_checkpoint.disk.policy_check import check_policy, policy_problems
from tests.tandem_checkpoint.disk.folders import shard_name, write_raw, write_shards
from tests.tandem_checkpoint.policies import SMALL, write_config

FUSED = [
    f"model.layers.{layer}.{name}"
    for layer in range(SMALL.num_layers)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
]
"""Small matrices that the server joins: no block ends where they do."""
EMBEDDING = "model.embed_tokens.weight"


def tensors() -> dict[str, NDArray[Any]]:
    """Return the small policy's tensors."""
    rules = architecture_of(SMALL.architecture).rules(SMALL)
    return {name: np.zeros(shape, np.float32) for rule in rules for name, shape in rule.tensors(SMALL)}


def write_tokenizer(folder: Path, vocabulary: object, added: object = ()) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocabulary}}))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A folder in order, with the last token given out."""
    folder = write_config(tmp_path / "policy")
    write_tokenizer(folder, {"a": 0, "b": SMALL.vocabulary - 1})
    save_file(tensors(), folder / SINGLE_FILE)
    return folder


def problems(folder: Path) -> list[str]:
    return [*policy_problems(folder, read_policy_config(folder))]


def test_a_policy_in_order_has_no_problem(policy: Path) -> None:
    assert problems(policy) == []


def test_more_tensors_than_the_family_has_are_no_problem(policy: Path) -> None:
    save_file({**tensors(), "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8)}, policy / SINGLE_FILE)

    assert problems(policy) == []


def test_tokens_beyond_the_vocabulary_are_refused(policy: Path) -> None:
    write_tokenizer(policy, {"a": 0, "b": 70})

    assert problems(policy) == [
        f"{policy}/tokenizer.json gives out the token 70, but vocab_size in config.json is 70, so the largest is 69; "
        "put the tokenizer there that the policy was trained with"
    ]


@pytest.mark.parametrize(
    ("vocabulary", "added"),
    [({"a": 0}, [{"id": 70, "content": "<eos>"}]), ([[str(number), 0.0] for number in range(71)], [])],
    ids=["added", "unigram"],
)
def test_added_tokens_and_lists_of_words_count_too(policy: Path, vocabulary: object, added: object) -> None:
    write_tokenizer(policy, vocabulary, added)

    (line,) = problems(policy)

    assert line.startswith(f"{policy}/tokenizer.json gives out the token 70, ")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": {}}', '{"model": {"vocab": {"a": "b"}}}', "[" * 100_000]
)
def test_what_is_no_tokenizer_is_refused(policy: Path, content: str) -> None:
    (policy / "tokenizer.json").write_text(content)

    assert problems(policy) == [f"{policy}/tokenizer.json is no tokenizer; save the policy's fast tokenizer there"]


def test_a_missing_tokenizer_is_named(policy: Path) -> None:
    (policy / "tokenizer.json").unlink()

    assert problems(policy) == [f"{policy}/tokenizer.json is missing; save the tokenizer beside the policy"]


def test_an_embedding_of_another_vocabulary_is_refused(policy: Path) -> None:
    save_file({**tensors(), EMBEDDING: np.zeros((64, 64), np.float32)}, policy / SINGLE_FILE)

    assert problems(policy) == [
        f"{policy}/model.safetensors: {EMBEDDING} is (64, 64), config.json says (70, 64); put the config.json there "
        "that belongs to these weights"
    ]


def test_tensors_that_are_missing_are_counted(policy: Path) -> None:
    save_file({name: tensor for name, tensor in tensors().items() if "layers.1" not in name}, policy / SINGLE_FILE)

    assert problems(policy) == [
        f"{policy} lacks the tensor model.layers.1.input_layernorm.weight (and 11 more), which a Qwen2ForCausalLM of "
        "its config.json has; save the policy again with save_pretrained, or put its own config.json there"
    ]


def test_number_formats_that_a_trainer_does_not_start_from_are_named(policy: Path) -> None:
    save_file({**tensors(), EMBEDDING: np.zeros((70, 64), np.int8)}, policy / SINGLE_FILE)

    assert problems(policy) == [
        f"{policy}/model.safetensors: {EMBEDDING} is int8; a trainer starts from float32, bfloat16 or float16, so "
        "convert the policy to bfloat16"
    ]


PROJECTION = "model.layers.0.mlp.down_proj.weight"
FP8 = {
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
    "modules_to_not_convert": FUSED,
}


def write_fp8(folder: Path, scales: NDArray[Any] | None, dtype: str = "F8_E4M3") -> None:
    """Write a policy of which one matrix is in FP8 bytes."""
    write_config(folder, quantization_config=FP8)
    kept = {name: (CODES["float32"], tensor) for name, tensor in tensors().items()}
    kept[PROJECTION] = (dtype, np.zeros((64, 96), np.uint8))
    if scales is not None:
        kept[PROJECTION + "_scale_inv"] = ("F32" if scales.dtype == np.float32 else "F64", scales)
    header, data = {}, b""
    for name, (code, tensor) in kept.items():
        header[name] = {"dtype": code, "shape": tensor.shape, "data_offsets": (len(data), len(data) + tensor.nbytes)}
        data += tensor.tobytes()
    write_raw(folder, header, data)


def test_matrices_in_fp8_with_their_scales_are_in_order(policy: Path) -> None:
    write_fp8(policy, np.ones((1, 1), np.float32))

    assert problems(policy) == []


def test_a_policy_in_plain_numbers_may_be_one_to_serve_in_fp8(policy: Path) -> None:
    write_config(policy, quantization_config=FP8)

    assert problems(policy) == []


@pytest.mark.parametrize(
    ("scales", "problem"),
    [
        (None, f"lacks the tensor {PROJECTION}_scale_inv, which"),
        (np.ones((1, 2), np.float32), "_scale_inv is (1, 2), config.json says (1, 1)"),
        (np.ones((1, 1), np.float64), "_scale_inv is float64; scales are read in float32, so convert them"),
    ],
)
def test_scales_that_do_not_belong_to_the_matrix_are_refused(
    policy: Path, scales: NDArray[Any] | None, problem: str
) -> None:
    write_fp8(policy, scales)

    (line,) = problems(policy)

    assert problem in line


def test_fp8_that_the_configuration_does_not_speak_of_is_refused(policy: Path) -> None:
    write_fp8(policy, np.ones((1, 1), np.float32))
    write_config(policy)

    (line,) = problems(policy)

    assert line.endswith(
        "convert the policy to bfloat16; FP8 is taken where quantization_config of config.json says so"
    )


def test_what_no_server_could_hold_in_blocks_is_refused(policy: Path) -> None:
    write_config(policy, quantization_config=FP8 | {"modules_to_not_convert": None})

    assert problems(policy)[0] == (
        f"{policy}/config.json: model.layers.0.self_attn.q_proj has 64 rows, not a multiple of the block of 128, and "
        "others follow it in the server's model.layers.0.self_attn.qkv_proj; use the unquantized policy"
    )


def test_each_kind_of_mistake_is_a_line(policy: Path) -> None:
    write_tokenizer(policy, {"a": 99})
    save_file({EMBEDDING: np.zeros((64, 64), np.int8)}, policy / SINGLE_FILE)

    assert len(problems(policy)) == 4


def test_a_missing_shard_is_all_that_is_said_of_the_tensors(policy: Path) -> None:
    (policy / SINGLE_FILE).unlink()
    named = [*tensors().items()]
    write_shards(policy, [dict(named[:5]), dict(named[5:])])
    (policy / shard_name(1, 2)).unlink()

    (line,) = problems(policy)

    assert line.startswith(f"{policy / shard_name(1, 2)} is missing, but {INDEX_FILE} names it; ")


def test_an_engine_ends_with_the_first_problem(policy: Path) -> None:
    write_tokenizer(policy, {"a": 99})
    (policy / SINGLE_FILE).unlink()

    with pytest.raises(PolicyFolderError, match="gives out the token 99"):
        check_policy(policy)


def test_a_family_without_a_table_is_refused(policy: Path) -> None:
    write_config(policy, architectures=["MambaForCausalLM"])

    with pytest.raises(UnsupportedArchitecture, match=r"^is MambaForCausalLM"):
        check_policy(policy)


def test_an_engine_starts_with_a_policy_in_order(policy: Path) -> None:
    check_policy(policy)
