"""Histories as real runs write them, made up from a seed."""

import random
from collections.abc import Iterator, Sequence
from math import exp, log1p
from typing import Literal

from tandem_api.history import (
    RECORD,
    EvaluationRecord,
    IterationRecord,
    MemberStage,
    PhaseRecord,
    Record,
    RunEnded,
    RunStarted,
    SwitchRecord,
)
from tandem_api.job.status import Direction, Phase
from tandem_api.registry import Role
from tandem_cli.report.history import History, extend

STARTED_AT = 1_760_000_000.0
JOB = "reverse-digits"

_TO_INFER: tuple[tuple[Role, str, float], ...] = (
    ("train", "drain", 0.02),
    ("train", "export", 0.06),
    ("train", "offload", 0.04),
    ("rollout", "start", 1.11),
    ("rollout", "load", 0.05),
    ("rollout", "ready", 0.14),
)
_TO_TRAIN: tuple[tuple[Role, str, float], ...] = (
    ("rollout", "abort", 0.01),
    ("rollout", "stop", 0.05),
    ("train", "reload", 0.22),
    ("train", "ready", 0.03),
)


def fake_history(
    *,
    iterations: int = 40,
    pods: Sequence[str] = ("hybrid-0", "hybrid-1"),
    result: Literal["Completed", "Stopped", "Failed"] | None = "Completed",
    message: str = "",
    seed: int = 7,
) -> History:
    """Return the history of one run."""
    return extend(History(), fake_records(iterations=iterations, pods=pods, result=result, message=message, seed=seed))


def fake_records(
    *,
    iterations: int = 40,
    pods: Sequence[str] = ("hybrid-0", "hybrid-1"),
    result: Literal["Completed", "Stopped", "Failed"] | None = "Completed",
    message: str = "",
    complete_before: int = 0,
    wanted: int | None = None,
    started_at: float = STARTED_AT,
    seed: int = 7,
) -> tuple[Record, ...]:
    """Return the records of one run that begins after so many complete iterations; result None: it was killed."""
    return tuple(
        _run(
            random.Random(seed),
            iterations=iterations,
            pods=pods,
            result=result,
            message=message,
            complete_before=complete_before,
            wanted=wanted or complete_before + iterations or 40,
            at=started_at,
        )
    )


def fake_evaluation(name: str, generation: int, **changes: object) -> EvaluationRecord:
    """Return what a held-out set of 50 problems with 4 samples each said of a generation."""
    pass_1 = 0.2 + 0.6 * (1 - exp(-generation / 18))
    record = EvaluationRecord(
        at=STARTED_AT + 4 * generation,
        name=name,
        generation=generation,
        problems=50,
        samples=200,
        pass_at={1: pass_1, 4: 1 - (1 - pass_1) ** 2},
        mean_reward=pass_1,
        mean_tokens=7.5 - generation / 20,
        cut_share=0.01,
        sampled_tokens=1500,
        seconds=1.5,
    )
    return record.model_copy(update=changes)


def lines_of(records: Sequence[Record]) -> str:
    """Return records as `metrics.jsonl` holds them."""
    return "".join(RECORD.dump_json(record, by_alias=True).decode() + "\n" for record in records)


def _run(
    dice: random.Random,
    *,
    iterations: int,
    pods: Sequence[str],
    result: Literal["Completed", "Stopped", "Failed"] | None,
    message: str,
    complete_before: int,
    wanted: int,
    at: float,
) -> Iterator[Record]:
    yield RunStarted(at=at, job=JOB, iteration=complete_before, iterations=wanted)
    at += 0.4
    for number in range(complete_before + 1, complete_before + iterations + 1):
        began_at, epoch, first = at, 2 * number - 1, number == complete_before + 1
        to_infer = _switch(dice, at, epoch, number, number - 1, Direction.TRAIN_TO_INFER, pods, first)
        infer_at = at + to_infer.seconds
        infer_seconds = dice.uniform(1.9, 2.6)
        to_train = _switch(
            dice, infer_at + infer_seconds, epoch + 1, number, number - 1, Direction.INFER_TO_TRAIN, pods, False
        )
        train_at = to_train.started_at + to_train.seconds
        train_seconds = dice.uniform(0.7, 1.0)
        at = train_at + train_seconds
        yield to_infer
        yield _phase(Phase.INFER, epoch, number, infer_at, infer_seconds)
        yield to_train
        yield _phase(Phase.TRAIN, epoch + 1, number, train_at, train_seconds)
        yield _iteration(dice, number, at, at - began_at, infer_seconds)
    if result is not None:
        yield RunEnded(at=at + 0.2, result=result, message=message)


def _phase(phase: Phase, epoch: int, number: int, started_at: float, seconds: float) -> PhaseRecord:
    return PhaseRecord(phase=phase, epoch=epoch, iteration=number, started_at=started_at, seconds=seconds)


def _iteration(dice: random.Random, number: int, at: float, seconds: float, infer_seconds: float) -> IterationRecord:
    reward = 0.12 + 0.75 * (1 - exp(-number / 18)) + dice.gauss(0, 0.025)
    length = 7.5 - 1.6 * log1p(number / 8) / log1p(5) + dice.gauss(0, 0.12)
    sampled = round(512 * length)
    return IterationRecord(
        iteration=number,
        generation=number,
        at=at,
        seconds=seconds,
        reward=reward,
        response_tokens=length,
        finished=496 + dice.randrange(16),
        unfinished=dice.randrange(20),
        trained=496,
        sampled_tokens=sampled,
        tokens_per_second=sampled / infer_seconds,
        max_abs_logprob_difference=10 ** dice.uniform(-6.2, -5.2),
        kl=0.011 * dice.uniform(0.6, 1.5),
        loss=-0.02 * dice.uniform(0.2, 1.4),
        gradient_norm=dice.uniform(0.4, 1.1),
        learning_rate=1e-6,
    )


def _switch(
    dice: random.Random,
    at: float,
    epoch: int,
    number: int,
    generation: int,
    direction: Direction,
    pods: Sequence[str],
    first: bool,
) -> SwitchRecord:
    plan = _TO_INFER if direction == Direction.TRAIN_TO_INFER else _TO_TRAIN
    slowness = 12.0 if first else 1.0
    stages = [stage for pod in pods for stage in _stages(dice, at, pod, plan, slowness)]
    return SwitchRecord(
        epoch=epoch,
        iteration=number,
        generation=generation,
        direction=direction,
        started_at=at,
        seconds=max(stage.started_at + stage.seconds for stage in stages) - at,
        stages=tuple(stages),
        first=first,
    )


def _stages(
    dice: random.Random, at: float, pod: str, plan: Sequence[tuple[Role, str, float]], slowness: float
) -> Iterator[MemberStage]:
    for role, stage, typical_seconds in plan:
        scale = slowness if stage == "start" else 1.0
        seconds = typical_seconds * scale * dice.lognormvariate(0, 0.18)
        yield MemberStage(pod=pod, role=role, stage=stage, started_at=at, seconds=seconds)
        at += seconds
