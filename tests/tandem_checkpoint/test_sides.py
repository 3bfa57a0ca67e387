"""Small decisions of the two sides."""

from pathlib import Path

import pytest
from pydantic import JsonValue

from tandem_checkpoint.switch.rollout import engine_argument
from tandem_checkpoint.switch.train import newest_weights

POLICY = Path("/policies/toy")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_num_seqs", 256, ["--max-num-seqs", "256"]),
        ("gpu_memory_utilization", 0.9, ["--gpu-memory-utilization", "0.9"]),
        ("kv_cache_dtype", "fp8", ["--kv-cache-dtype", "fp8"]),
        ("enforce_eager", True, ["--enforce-eager"]),
        ("enable_prefix_caching", False, ["--no-enable-prefix-caching"]),
        ("compilation_config", {"level": 3}, ["--compilation-config", '{"level": 3}']),
    ],
)
def test_an_engine_argument_becomes_vllms_own_option(name: str, value: JsonValue, words: list[str]) -> None:
    assert engine_argument(name, value) == words


def test_a_job_without_durable_state_starts_from_the_initial_policy() -> None:
    assert newest_weights(None, POLICY) == POLICY


def test_a_job_that_wrote_no_checkpoint_yet_starts_from_the_initial_policy(tmp_path: Path) -> None:
    assert newest_weights(tmp_path, POLICY) == POLICY


def test_a_resumed_job_starts_from_its_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("generation-000012\n")

    assert newest_weights(tmp_path, POLICY) == tmp_path / "checkpoints" / "generation-000012"
