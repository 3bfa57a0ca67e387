"""A server's answer while it streams in: its samples so far, and which of them repeat themselves. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem_api.trajectory import Trajectory
from tandem_master.rollout.repeats import RepeatRule, RepeatWatch
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Piece


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

    trajectory: Trajectory
    rule: RepeatRule | None
    watch: RepeatWatch | None = None
    """Made when something comes: what waits in a server's queue needs none."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    is_taken: bool = False

    def add(self, part: Part) -> None:
        """Append a part, up to the token after which the response repeats itself. Errors: UnknownSample."""
        if self.finish_reason is FinishReason.REPEAT:
            return  # what the server had sampled before it heard of it
        if self.finish_reason is not None:
            raise UnknownSample(f"tokens came after a finish reason, {self.finish_reason}")
        excess = self._first_excess(part.token_ids)
        self.token_ids += part.token_ids[:excess]
        self.logprobs += part.logprobs[:excess]
        self.finish_reason = part.finish_reason if excess is None else FinishReason.REPEAT

    def _first_excess(self, token_ids: Sequence[int]) -> int | None:
        """Return how many of these tokens come before the response repeats itself; None where it does not."""
        if self.rule is None:
            return None
        if self.watch is None:  # it knows the response so far
            self.watch = RepeatWatch(self.rule, self.trajectory.last_response_token_ids(self.rule.window_tokens))
        return self.watch.first_excess(token_ids)

    def take(self) -> Piece:
        """Return what there is, as aborted where it has not ended."""
        self.is_taken = True
        reason = self.finish_reason or FinishReason.ABORT
        return Piece(self.trajectory, Completion(tuple(self.token_ids), tuple(self.logprobs), reason))


class PartialAnswer:
    """The samples of one request, in the order of its trajectories. Each is taken once: when it has ended, or with the
    rest when the request has."""

    def __init__(self, ask: Ask, rule: RepeatRule | None) -> None:
        self._samples = [PartialSample(trajectory, rule) for trajectory in ask.trajectories]

    @property
    def is_complete(self) -> bool:
        """Return whether all samples have ended."""
        return all(sample.finish_reason is not None for sample in self._samples)

    @property
    def is_untouched(self) -> bool:
        """Return whether nothing has come that counts."""
        return not any(sample.token_ids or sample.is_taken for sample in self._samples)

    @property
    def has_aborted(self) -> bool:
        """Return whether the server has given a sample up."""
        return any(sample.finish_reason is FinishReason.ABORT for sample in self._samples)

    @property
    def num_tokens(self) -> int:
        """Return how many tokens have come, of all samples."""
        return sum(len(sample.token_ids) for sample in self._samples)

    def add(self, index: int, part: Part) -> bool:
        """Add to the sample of this number; return whether it repeats itself. Errors: UnknownSample."""
        if not 0 <= index < len(self._samples):
            raise UnknownSample(f"{len(self._samples)} samples were asked for, and number {index} came")
        self._samples[index].add(part)
        return self._samples[index].finish_reason is FinishReason.REPEAT

    def take_ended(self) -> tuple[Piece, ...]:
        """Return the samples that have ended since the last time, but for those that the server has given up."""
        given_up = (None, FinishReason.ABORT)
        ended = [item for item in self._samples if not item.is_taken and item.finish_reason not in given_up]
        return tuple(sample.take() for sample in ended)

    def take_rest(self) -> tuple[Piece, ...]:
        """Return what was not taken yet. What has not ended is aborted."""
        return tuple(sample.take() for sample in self._samples if not sample.is_taken)
