"""A reward function that hangs, raises, returns NaN and allocates without end: its job completes, evaluation too."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tandem_api.history import EvaluationRecord, RunEnded
from tests.e2e.jobs import iterations, leftovers, records, start, write_job

pytestmark = [pytest.mark.e2e, pytest.mark.megatron, pytest.mark.vllm, pytest.mark.etcd]

RUN_SECONDS = 300.0
REWARD = '''
"""One response in sixteen each is treated badly in one of four ways; which one depends on its text alone."""

import time
import zlib


def score(*, prompt: str, response: str, answer: str, problem_id: str) -> float:
    match zlib.crc32(f"{prompt}{response}".encode()) % 16:
        case 0:
            time.sleep(60)
        case 1:
            raise KeyError("no such answer")
        case 2:
            return float("nan")
        case 3:
            return float(len(bytearray(1 << 40)))
    return sum(a == b for a, b in zip(response, answer)) / len(answer)
'''
KINDS = {"TimedOut", "Crashed", "Invalid"}


@dataclass(frozen=True)
class BadRun:
    """A run with that reward, as seen from outside."""

    folder: Path
    code: int
    output: str

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "buffer.sqlite")) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> BadRun:
    folder = tmp_path_factory.mktemp("bad-rewards")
    (folder / "bad_rewards.py").write_text(REWARD)
    (folder / "test.jsonl").write_text('{"prompt": "48=", "answer": "84"}\n{"prompt": "123=", "answer": "321"}\n')
    path = write_job(folder, "01-reverse-digits", toy, iterations=4, problemsPerIteration=8, samplesPerProblem=4)
    job = yaml.safe_load(path.read_text())
    spec = job["spec"]
    spec["recipe"] |= {"objective": {"name": "GRPO"}, "lengthReward": {"weight": 0.0}}
    python = {"entryPoint": "bad_rewards:score", "timeoutSeconds": 1.0, "memory": "1Gi", "processes": 2}
    spec["rewards"] = [{"name": "bad", "python": python}]
    spec["data"]["evaluation"] = [
        {"name": "test", "path": str(folder / "test.jsonl"), "everyIterations": 2, "samplesPerProblem": 8}
    ]
    spec["checkpoints"] = {"everyIterations": 100, "keepLast": 1, "keepBest": {"metric": "MeanReward"}}
    spec["trackers"] = ["TensorBoard", "MLflow"]
    path.write_text(yaml.safe_dump(job))
    process = start(path, folder / "run")
    output, _ = process.communicate(timeout=RUN_SECONDS)
    return BadRun(folder / "run", process.returncode, output)


def test_the_job_completes(run: BadRun) -> None:
    [ended] = [record for record in records(run.folder) if isinstance(record, RunEnded)]

    assert (run.code, ended.result) == (0, "Completed"), run.output
    assert len(iterations(run.folder)) == 4
    assert leftovers(run.folder) == []


def test_what_the_function_did_not_score_is_told_by_kind_and_has_no_reward(run: BadRun) -> None:
    terms = run.rows("SELECT terms FROM trajectories WHERE state = 'Unscored'")
    kinds = Counter(kind for (text,) in terms for kind in KINDS if f'"{kind}"' in str(text))

    assert kinds.keys() == KINDS
    assert run.rows(
        "SELECT DISTINCT reward, correct, trained_iteration FROM trajectories WHERE state = 'Unscored'"
    ) == [(None, None, None)]


def test_what_it_did_score_is_trained(run: BadRun) -> None:
    [(trained,)] = run.rows("SELECT COUNT(*) FROM trajectories WHERE state = 'Trained' AND reward IS NOT NULL")

    assert isinstance(trained, int)
    assert trained > 32


def test_held_out_problems_were_measured_and_unscored_samples_kept_apart(run: BadRun) -> None:
    found = [record for record in records(run.folder) if isinstance(record, EvaluationRecord)]

    assert [record.generation for record in found] == [0, 2, 4]
    assert {record.samples + record.unscored for record in found} == {16}
    assert {record.error for record in found} == {""}
    assert run.rows("SELECT COUNT(*) FROM trajectories WHERE problem_id LIKE 'test/%'") == [(0,)]


def test_the_best_checkpoint_is_a_whole_policy(run: BadRun) -> None:
    best = run.folder / "checkpoints" / "best"

    assert best.readlink().name in {"generation-000002", "generation-000004"}
    assert (best / "model.safetensors").is_file()


def test_both_trackers_have_the_numbers(run: BadRun) -> None:
    [metric] = run.folder.glob("mlruns/*/*/metrics/evaluation/test/pass_at_1")

    assert [line.split()[2] for line in metric.read_text().splitlines()] == ["0", "2", "4"]
    assert list((run.folder / "tensorboard").iterdir())
