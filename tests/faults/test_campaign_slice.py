"""A seeded slice of the fault campaign, on a real job."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.outcome import RESULT, Recovery

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

ROOT = Path(__file__).parents[2]
SEED = 5
INJECT_SECONDS = 180.0
"""With the start of the job and the last recovery, under five minutes."""
TIMEOUT_SECONDS = 580.0


def test_whatever_is_injected_every_invariant_holds_and_the_job_goes_on(tmp_path: Path) -> None:
    words = ["--seed", str(SEED), "--injections", "100", "--seconds", str(INJECT_SECONDS)]
    paths = ["--json", str(tmp_path / "result.json"), "--work-dir", str(tmp_path / "work")]

    campaign = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", *words, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    result = RESULT.validate_json((tmp_path / "result.json").read_bytes())

    assert result.violations == (), campaign.stdout
    assert [one for one in result.outcomes if one.recovery is Recovery.STUCK] == []
    assert len(result.outcomes) >= 4
    assert campaign.returncode == 0, campaign.stdout
