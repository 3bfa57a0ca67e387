"""Invariant 1: within a pod, trainer and server never hold device memory at once."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby, pairwise

from tests.faults.history import Change, DeviceSample, History
from tests.faults.invariants.replay import owner_of, replay
from tests.faults.invariants.violation import Violation
from tests.faults.values import StatusValue

LAG_SECONDS = 0.5
"""How late the campaign may learn of a status: one that is newer than this proves nothing about a sample."""


def check_exclusive_devices(history: History) -> list[Violation]:
    """Return every moment at which both sides of a pod held device memory, or one did without the token.

    Nothing is said of strategy Resident, which keeps both; of Sleep only what members report.
    """
    if history.job.strategy == "Resident":
        return []
    found = _unproved_offloads(history)
    if history.job.strategy == "Restart":
        samples = [sample for sample in history.samples if sample.pod in history.job.hybrid_pods]
        found += [violation for sample in samples for violation in _with_the_token(sample)]
        found += _without_the_token(samples) + _beside_a_trainer(samples, history.changes)
    return found


def _with_the_token(sample: DeviceSample) -> list[Violation]:
    if len(sample.holders) > 1:
        return [Violation(1, sample.at, f"{sample.pod}: two hold the token: {', '.join(sample.holders)}")]
    if "train" in sample.holders and sample.engines:
        return [Violation(1, sample.at, f"{sample.pod}: the trainer holds the token, engine {sample.engines} runs")]
    return []


def _without_the_token(samples: Sequence[DeviceSample]) -> list[Violation]:
    """An engine that runs in two samples in a row, while nobody holds the token: it is not just dying."""
    found = []
    for pod, ours in groupby(
        sorted(samples, key=lambda sample: (sample.pod, sample.at)), key=lambda sample: sample.pod
    ):
        for first, second in pairwise(ours):
            both = set(first.engines) & set(second.engines)
            if both and not first.holders and not second.holders:
                found.append(Violation(1, second.at, f"{pod}: engine {sorted(both)} runs, nobody holds the token"))
    return found


def _beside_a_trainer(samples: Sequence[DeviceSample], changes: Sequence[Change]) -> list[Violation]:
    """An engine that runs while the living trainer says that it holds device memory."""
    words: dict[str, list[Change]] = {}
    for change in changes:
        words.setdefault(change.key, []).append(change)
    found = []
    for sample in samples:
        if not sample.engines or not sample.pids("rank"):
            continue
        status = _steady_status(words.get(f"status/{sample.pod}/train", []), sample.at)
        if status is not None and _claims_memory(status):
            held = f"{status.state}, {status.device_bytes} bytes"
            found.append(Violation(1, sample.at, f"{sample.pod}: an engine runs, the trainer says {held}"))
    return found


def _steady_status(words: Sequence[Change], at: float) -> StatusValue | None:
    """Return the status that was there at a moment, and some time before and after it; None where it changed."""
    newest = bisect_right(words, at + LAG_SECONDS, key=lambda change: change.at) - 1
    if newest < 0 or words[newest].at > at - LAG_SECONDS:
        return None
    value = words[newest].value
    return value if isinstance(value, StatusValue) else None


def _claims_memory(trainer: StatusValue) -> bool:
    """Tell whether a trainer says for certain that it holds device memory; on its way it may just not have said yet."""
    return trainer.state == "Training" or (trainer.state == "Idle" and (trainer.device_bytes or 0) > 0)


def _unproved_offloads(history: History) -> list[Violation]:
    """A server that says Serving while the trainer of its pod, in the same epoch, says that it still holds memory."""
    found = []
    for step in replay(history.changes):
        value = step.change.value
        if not isinstance(value, StatusValue) or value.state != "Serving":
            continue
        pod, _ = owner_of(step.change.key)
        trainer = step.before.get(f"status/{pod}/train")
        if isinstance(trainer, StatusValue) and trainer.epoch == value.epoch and _claims_memory(trainer):
            held = f"{pod}: serves epoch {value.epoch} while its trainer holds {trainer.device_bytes} bytes"
            found.append(Violation(1, step.change.at, held))
    return found
