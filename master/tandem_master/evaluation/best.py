"""Which generation did best on a held-out set. Pure."""

from collections.abc import Sequence

from tandem_api.history import EvaluationRecord
from tandem_api.job.operations import BestSpec, EvaluationMetric
from tandem_api.job.policy import EvaluationSet


def deciding_set(best: BestSpec, sets: Sequence[EvaluationSet]) -> EvaluationSet:
    """Return the set that decides: the one that is named, else the first. The spec has it: a rule sees to that."""
    return next(item for item in sets if best.evaluation in (None, item.name))


def ranked(results: Sequence[EvaluationRecord], metric: EvaluationMetric) -> tuple[int, ...]:
    """Return the generations that `results`, of one set, measured, the best first and of equal ones the earliest.

    Left out are the initial policy, which needs no keeping, and evaluations without a result.
    """
    measured = [record for record in results if record.generation and not record.error and record.pass_at]
    most = max((max(record.pass_at) for record in measured), default=1)
    values = {record.generation: _value(record, metric, most) for record in measured}
    known = {generation: value for generation, value in values.items() if value is not None}
    return tuple(sorted(known, key=lambda generation: (-known[generation], generation)))


def _value(record: EvaluationRecord, metric: EvaluationMetric, k: int) -> float | None:
    """Return what a metric says; None for pass@k where too many samples were not scored to tell."""
    match metric:
        case EvaluationMetric.PASS_1:
            return record.pass_1
        case EvaluationMetric.PASS_K:
            return record.pass_at.get(k)
        case EvaluationMetric.MEAN_REWARD:
            return record.mean_reward
