"""Invariant 3: every token is stamped with its generation and keeps its sampled log-probability."""

from collections import Counter
from itertools import pairwise

from tests.faults.history import History, TrajectoryRow
from tests.faults.invariants.violation import Violation
from tests.faults.values import DesiredValue, StatusValue


def check_stamped_tokens(history: History) -> list[Violation]:
    """Return every segment in the buffer whose stamp or log-probabilities cannot be right."""
    served = _served_generations(history)
    return [
        Violation(3, snapshot.at, f"trajectory {row.id}: {problem}")
        for snapshot in history.snapshots
        for row in snapshot.changed
        for problem in _problems(row, served, history.job.budget_tokens)
    ]


def _served_generations(history: History) -> frozenset[int]:
    """Return what was ever served, or at least asked to be served."""
    values = [change.value for change in history.changes]
    asked = {value.generation for value in values if isinstance(value, DesiredValue) and value.phase == "Infer"}
    said = {value.generation for value in values if isinstance(value, StatusValue) and value.state == "Serving"}
    return frozenset(asked | {generation for generation in said if generation is not None})


def _problems(row: TrajectoryRow, served: frozenset[int], budget_tokens: int) -> list[str]:
    found = []
    for position, segment in enumerate(row.segments):
        if not segment.num_tokens == segment.num_token_ids == segment.num_logprobs or segment.num_tokens < 1:
            counts = f"{segment.num_tokens}/{segment.num_token_ids}/{segment.num_logprobs}"
            found.append(f"segment {position} has {counts} tokens, ids, log-probabilities")
        if segment.num_bad_logprobs:
            found.append(f"segment {position} has {segment.num_bad_logprobs} impossible log-probabilities")
        if segment.generation not in served:
            found.append(f"segment {position} is stamped with generation {segment.generation}, which nobody served")
    if any(later.generation < earlier.generation for earlier, later in pairwise(row.segments)):
        found.append("a later segment is stamped with an older generation")
    tokens: Counter[int] = Counter()
    for segment in row.segments:
        tokens[segment.generation] += segment.num_tokens
    found += [f"{count} tokens of generation {g}" for g, count in tokens.items() if count > budget_tokens]
    return found
