"""A server's answer while it streams in: its samples so far, and which of them repeat themselves. Pure."""

from dataclasses import dataclass, field

from tandem_api.trajectory import Trajectory
from tandem_master.rollout.repeats import RepeatRule, RepeatWatch
from tandem_master.rollout.segments import Ask, Completion, FinishReason


class UnknownSample(Exception):  # noqa: N818 - what came, not whose mistake it is
    """More came of a sample than was asked for: there is none of this number, or it had ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one sample at once."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, nats."""
    finish_reason: FinishReason | None
    """None where more is to come."""


@dataclass(slots=True)
class PartialSample:
    """What has come of one sample so far."""

    watch: RepeatWatch | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, part: Part) -> None:
        """Append a part, up to the token after which the response repeats itself. Errors: UnknownSample."""
        if self.finish_reason is not None:
            raise UnknownSample(f"tokens came after a finish reason, {self.finish_reason}")
        excess = self.watch.first_excess(part.token_ids) if self.watch is not None else None
        self.token_ids += part.token_ids[:excess]
        self.logprobs += part.logprobs[:excess]
        self.finish_reason = part.finish_reason if excess is None else FinishReason.REPEAT


class PartialAnswer:
    """The samples of one request, in the order of its trajectories."""

    def __init__(self, ask: Ask, rule: RepeatRule | None) -> None:
        self._samples = [PartialSample(_watch(rule, trajectory)) for trajectory in ask.trajectories]

    @property
    def is_complete(self) -> bool:
        """Return whether all samples have ended."""
        return all(sample.finish_reason is not None for sample in self._samples)

    def add(self, index: int, part: Part) -> bool:
        """Add to the sample of this number; return whether it repeats itself. Errors: UnknownSample."""
        if not 0 <= index < len(self._samples):
            raise UnknownSample(f"{len(self._samples)} samples were asked for, and number {index} came")
        self._samples[index].add(part)
        return self._samples[index].finish_reason is FinishReason.REPEAT

    def completions(self) -> tuple[Completion, ...]:
        """Return what there is; a sample that has not ended is aborted."""
        return tuple(
            Completion(tuple(sample.token_ids), tuple(sample.logprobs), sample.finish_reason or FinishReason.ABORT)
            for sample in self._samples
        )


def _watch(rule: RepeatRule | None, trajectory: Trajectory) -> RepeatWatch | None:
    """Return a watch that knows the response so far."""
    return None if rule is None else RepeatWatch(rule, trajectory.response_token_ids)
