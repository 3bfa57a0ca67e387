"""Invariant 2: a server answers with exactly one generation's weights, and those are the ones that were published."""

from collections.abc import Mapping

from tandem_api.history import IterationRecord
from tests.faults.history import Change, History
from tests.faults.invariants.replay import owner_of, replay
from tests.faults.invariants.violation import Violation
from tests.faults.values import LayoutValue, PublishedValue, ShardValue, StatusValue, Value


def check_whole_weights(history: History) -> list[Violation]:
    """Return every sign that a server had other weights than one whole published generation."""
    found = [
        Violation(
            2, check.at, f"{check.pod}: serves generation {check.generation} with broken {', '.join(check.broken)}"
        )
        for check in history.segments
        if check.broken
    ]
    return found + _wrong_logprobs(history) + _too_early(history) + _rewritten(history)


def _wrong_logprobs(history: History) -> list[Violation]:
    """What was trained on had other log-probabilities than the trainer's weights give."""
    bound = history.job.max_logprob_difference
    return [
        Violation(
            2,
            entry.seen_at,
            f"iteration {entry.record.iteration}: trained on log-probabilities that are off by "
            f"{entry.record.max_abs_logprob_difference:g}",
        )
        for entry in history.diary
        if isinstance(entry.record, IterationRecord) and not entry.record.max_abs_logprob_difference <= bound
    ]


def _too_early(history: History) -> list[Violation]:
    """A member says Serving before its generation was published with all shards of its pod."""
    found = []
    published: set[tuple[int, int]] = set()
    complete: set[tuple[int, int, str]] = set()
    for step in replay(history.changes):
        change, value = step.change, step.change.value
        if isinstance(value, PublishedValue):
            published.add((change.life, value.generation))
            complete |= {(change.life, value.generation, pod) for pod in _complete_pods(step.before, value.generation)}
        if not isinstance(value, StatusValue) or value.state != "Serving" or value.generation is None:
            continue
        pod, _ = owner_of(change.key)
        if (change.life, value.generation) not in published:
            found.append(Violation(2, change.at, f"{pod}: serves generation {value.generation}, never published"))
        elif pod in history.job.hybrid_pods and (change.life, value.generation, pod) not in complete:
            text = f"{pod}: serves generation {value.generation}, published without all shards of this pod"
            found.append(Violation(2, change.at, text))
    return found


def _complete_pods(values: Mapping[str, Value], generation: int) -> frozenset[str]:
    """Return the pods whose every expected shard is registered."""
    layout = values.get(f"weights/{generation}/layout")
    if not isinstance(layout, LayoutValue):
        return frozenset()
    missing = {name.split("/")[0] for name in layout.shards if f"weights/{generation}/shards/{name}" not in values}
    return frozenset(name.split("/")[0] for name in layout.shards) - missing


def _rewritten(history: History) -> list[Violation]:
    """A shard of the published generation gets other bytes: a generation is immutable once it is published."""
    found = []
    pieces: dict[str, ShardValue] = {}
    for step in replay(history.changes):
        change, value = step.change, step.change.value
        published = step.before.get("weights/published")
        if not isinstance(value, ShardValue):
            continue
        before = pieces.get(change.key)
        pieces[change.key] = value
        if before is None or before.lineage != value.lineage or not isinstance(published, PublishedValue):
            continue
        if published.generation == value.generation and _is_same_life(step.before, change) and _differs(before, value):
            found.append(Violation(2, change.at, f"{change.key}: other bytes of a published generation"))
    return found


def _is_same_life(values: Mapping[str, Value], change: Change) -> bool:
    """Tell whether the layout that the shard belongs to is still there: else the generation was given up."""
    generation = change.key.split("/")[1]
    return f"weights/{generation}/layout" in values


def _differs(one: ShardValue, other: ShardValue) -> bool:
    return {piece.tensor: piece.xxh3 for piece in one.pieces} != {piece.tensor: piece.xxh3 for piece in other.pieces}
