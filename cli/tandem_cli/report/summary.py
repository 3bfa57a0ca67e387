"""The summary of a run: whether it learned, how fast it switched and what its time went to."""

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tandem_api.history import EvaluationRecord
from tandem_api.job.status import Direction, Phase
from tandem_cli.report.critical import path_of
from tandem_cli.report.history import History
from tandem_cli.report.stages import stage_statistics, steady

_ENDS = 5
"""Iterations at either end of the run that its gain is measured between."""


class Summary(BaseModel):
    """Numbers of a run, for programs: keys are snake_case, and what does not exist yet is null."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    result: Literal["Completed", "Stopped", "Failed"] | None
    """How the last run ended; null while it runs and when it was killed."""
    iterations: int
    """Committed iterations."""
    generation: int | None
    """Generation published last."""
    reward_first_5: float | None
    """Mean reward of the first five iterations."""
    reward_last_5: float | None
    """Mean reward of the last five iterations."""
    reward_gain: float | None
    """The last five less the first five."""
    evaluations: dict[str, dict[str, float]]
    """Held-out set, then `pass_1_first`, `pass_1_last`, `pass_1_best`, `best_generation`: initial, newest and best."""
    switches: int
    """Switches, first ones and those of discarded iterations included."""
    train_to_infer_seconds_median: float | None
    """Median switch from Train to Infer, first ones left out."""
    infer_to_train_seconds_median: float | None
    """Median switch from Infer to Train."""
    stage_seconds_median: dict[Direction, dict[str, float]]
    """Direction, then stage: median over switches of the slowest member's time."""
    critical_path_share: float | None
    """Median over switches of the share of their time that lies on the critical path, first ones left out."""
    max_abs_logprob_difference: float | None
    """Largest |log-probability of the server - of the trainer| of any iteration, nats."""
    tokens_per_second_median: float | None
    """Median over iterations."""
    response_tokens_first_5: float | None
    """Mean response length of the first five iterations, tokens."""
    response_tokens_last_5: float | None
    """Mean response length of the last five iterations, tokens."""
    seconds: float | None
    """Wall time from start to end, summed over resumed runs."""
    train_share: float | None
    """Share of the wall time in Train phases."""
    infer_share: float | None
    """Share of the wall time in Infer phases."""
    switch_share: float | None
    """Share of the wall time in switches, first ones included."""


def summarize(history: History) -> Summary:
    """Return the summary of a history."""
    rewards = [record.reward for record in history.iterations]
    lengths = [record.response_tokens for record in history.iterations]
    first, last = _mean(rewards[:_ENDS]), _mean(rewards[-_ENDS:])
    seconds = sum(run.seconds for run in history.runs) if history.runs else None
    return Summary(
        result=history.ended.result if history.ended else None,
        iterations=len(history.iterations),
        generation=history.generation,
        reward_first_5=first,
        reward_last_5=last,
        reward_gain=None if first is None or last is None else round(last - first, 6),
        evaluations=_evaluations(history),
        switches=len(history.switches),
        train_to_infer_seconds_median=_switch_median(history, Direction.TRAIN_TO_INFER),
        infer_to_train_seconds_median=_switch_median(history, Direction.INFER_TO_TRAIN),
        stage_seconds_median=_stage_medians(history),
        critical_path_share=_median(
            path_of(switch).share for direction in Direction for switch in steady(history.switches, direction)
        ),
        max_abs_logprob_difference=max(
            (record.max_abs_logprob_difference for record in history.iterations), default=None
        ),
        tokens_per_second_median=_median(record.tokens_per_second for record in history.iterations),
        response_tokens_first_5=_mean(lengths[:_ENDS]),
        response_tokens_last_5=_mean(lengths[-_ENDS:]),
        seconds=None if seconds is None else round(seconds, 3),
        train_share=_share(_phase_seconds(history, Phase.TRAIN), seconds),
        infer_share=_share(_phase_seconds(history, Phase.INFER), seconds),
        switch_share=_share(sum(switch.seconds for switch in history.switches), seconds),
    )


def measured_ks(evaluations: Sequence[EvaluationRecord]) -> tuple[int, ...]:
    """Return the k of every pass@k in evaluations of a set, ascending: a set may be asked otherwise after an edit."""
    return tuple(sorted({k for record in evaluations for k in record.pass_at}))


def _evaluations(history: History) -> dict[str, dict[str, float]]:
    sets = history.sets
    best = {name: max(records, key=lambda record: record.pass_1) for name, records in sets.items()}
    return {
        name: {
            "pass_1_first": round(records[0].pass_1, 6),
            "pass_1_last": round(records[-1].pass_1, 6),
            "pass_1_best": round(best[name].pass_1, 6),
            "best_generation": best[name].generation,
        }
        for name, records in sets.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 6) if values else None


def _median(values: Iterable[float]) -> float | None:
    ordered = sorted(values)
    return round(median(ordered), 6) if ordered else None


def _switch_median(history: History, direction: Direction) -> float | None:
    return _median(switch.seconds for switch in steady(history.switches, direction))


def _stage_medians(history: History) -> dict[Direction, dict[str, float]]:
    medians: dict[Direction, dict[str, float]] = {direction: {} for direction in Direction}
    for statistics in stage_statistics(history.switches):
        medians[statistics.direction][statistics.stage] = round(statistics.median_seconds, 6)
    return medians


def _phase_seconds(history: History, phase: Phase) -> float:
    return sum(record.seconds for record in history.phases if record.phase == phase)


def _share(part_seconds: float, seconds: float | None) -> float | None:
    return round(part_seconds / seconds, 6) if seconds else None
