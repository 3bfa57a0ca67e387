"""Small decisions of the two sides."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from tandem_checkpoint.process.commands import FolderSource
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.rollout import engine_argument
from tandem_checkpoint.switch.sources import checkpoint_of, newest_checkpoint
from tests.tandem_checkpoint.jobs import job_config, settings_of

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


def settings_with(tmp_path: Path, state: Path | None) -> Settings:
    return replace(settings_of(job_config(POLICY), tmp_path), state=state)


def test_a_job_without_durable_state_starts_from_the_initial_policy(tmp_path: Path) -> None:
    assert newest_checkpoint(settings_with(tmp_path, None)) == (0, FolderSource(path=str(POLICY)))


def test_a_job_that_wrote_no_checkpoint_yet_starts_from_the_initial_policy(tmp_path: Path) -> None:
    assert newest_checkpoint(settings_with(tmp_path, tmp_path)) == (0, FolderSource(path=str(POLICY)))


def test_a_resumed_job_starts_from_its_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("generation-000012\n")

    source = FolderSource(path=str(tmp_path / "checkpoints" / "generation-000012"))
    assert newest_checkpoint(settings_with(tmp_path, tmp_path)) == (12, source)


def test_the_checkpoint_of_a_generation_is_found_by_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "generation-000012"
    folder.mkdir(parents=True)
    settings = settings_with(tmp_path, tmp_path)

    assert checkpoint_of(settings, 0) == FolderSource(path=str(POLICY))
    assert checkpoint_of(settings, 12) == FolderSource(path=str(folder))
    assert checkpoint_of(settings, 13) is None
