"""Results of evaluations, made up."""

from tandem_api.history import EvaluationRecord


def result(generation: int, pass_1: float, *, reward: float = 0.0, error: str = "") -> EvaluationRecord:
    return EvaluationRecord(
        at=1.5, name="test", generation=generation, problems=2, samples=4, pass_at={} if error else {1: pass_1, 2: 1.0},
        mean_reward=reward, mean_tokens=5.0, cut_share=0.25, sampled_tokens=20, seconds=0.5, error=error,
    )  # fmt: skip
