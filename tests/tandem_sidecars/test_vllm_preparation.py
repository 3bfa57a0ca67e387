"""What is set before vLLM is imported."""

import os

import pytest

from tandem_sidecars.vllm.preparation import prepare_environment


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        monkeypatch.delenv(name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nobody_is_told_that_vllm_runs(device: str) -> None:
    prepare_environment(device)

    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_on_a_gpu_libraries_start_no_threads_and_float32_stays_float32() -> None:
    prepare_environment("cuda")

    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"
    assert "TORCHDYNAMO_DISABLE" not in os.environ


def test_a_containers_own_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")

    prepare_environment("cuda")

    assert os.environ["OMP_NUM_THREADS"] == "4"
