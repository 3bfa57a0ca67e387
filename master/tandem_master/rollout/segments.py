"""Long responses in pieces: what to ask for next, and how an answer continues a trajectory (report, section 2.6.2)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from tandem_api.trajectory import TokenSegment, Trajectory, TrajectoryState
from tandem_master.errors import RolloutError


class FinishReason(StrEnum):
    """Why sampling stopped."""

    STOP = "stop"
    """The end-of-sequence token was sampled."""
    LENGTH = "length"
    """The tokens that were asked for are used up."""
    ABORT = "abort"
    """The server was told to stop, or its answer was cut; what it had sampled counts."""
    REPEAT = "repeat"
    """The response repeated itself, and the server's answer was cut."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server sampled for one trajectory."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, nats."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Piece:
    """What one request has sampled of one trajectory."""

    trajectory: Trajectory
    """As it was when it was asked for."""
    completion: Completion


@dataclass(frozen=True, slots=True)
class Limits:
    """How far responses may grow."""

    budget_tokens: int
    """Most tokens that a trajectory grows by in one iteration."""
    max_length_tokens: int
    """Longest trajectory, prompt and response together."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to a server: all its trajectories continue the same tokens."""

    trajectories: tuple[Trajectory, ...]
    token_ids: tuple[int, ...]
    """Prompt and response so far."""
    max_tokens: int
    seed: int
    """Of the first; each of the others has one more than the one before."""

    @property
    def num_response_tokens(self) -> int:
        """Return how long the response is so far."""
        return self.trajectories[0].num_response_tokens


def plan_asks(
    unfinished: Sequence[Trajectory],
    generation: int,
    limits: Limits,
    *,
    seed: int,
    iteration: int,
    alone: bool = False,
) -> tuple[Ask, ...]:
    """Return the requests of one Infer phase, the longest responses so far first, then what is oldest.

    Trajectories of a group that have no token yet share one request; the others go alone, `alone`: all do. One that
    has used this generation's budget already, before the master was restarted, waits for the next generation. What is
    sampled of a trajectory does not depend on which others of its group are still unfinished.
    """
    fresh: dict[str, list[Trajectory]] = {}
    asks: list[Ask] = []
    for trajectory in unfinished:
        if trajectory.num_response_tokens == 0 and not alone:
            fresh.setdefault(trajectory.group, []).append(trajectory)
        elif allowance(trajectory, generation, limits) > 0:
            asks.append(_ask((trajectory,), generation, limits, seed, iteration))
    runs = (run for group in fresh.values() for run in _runs(group))
    asks += [_ask(run, generation, limits, seed, iteration) for run in runs]
    return tuple(sorted(asks, key=lambda ask: -ask.num_response_tokens))


def allowance(trajectory: Trajectory, generation: int, limits: Limits) -> int:
    """Return how many more tokens `generation` may sample for the trajectory; 0 or less: none."""
    used = sum(len(segment.token_ids) for segment in trajectory.segments if segment.generation == generation)
    length = len(trajectory.prompt_token_ids) + trajectory.num_response_tokens
    return min(limits.budget_tokens - used, limits.max_length_tokens - length)


def extend(trajectory: Trajectory, completion: Completion, generation: int, limits: Limits) -> Trajectory:
    """Return the trajectory with what `generation` sampled appended, finished where it is. It is not scored yet."""
    segments = trajectory.segments
    if completion.token_ids:
        # Not validated once more: what came from the server was, and this is done for every sample.
        new = TokenSegment.model_construct(
            generation=generation, token_ids=completion.token_ids, logprobs=completion.logprobs
        )
        segments = (*segments, new)
    reason = _finish_reason(trajectory, completion, limits)
    ended = {} if reason is None else {"state": TrajectoryState.FINISHED, "finish_reason": reason.value}
    return trajectory.model_copy(update={"segments": segments, **ended})


def derive_seed(seed: int, iteration: int, name: str, num_tokens: int) -> int:
    """Return a seed of 31 bits for what is called `name`. `num_tokens`, the response so far, tells continuations
    apart.
    """
    digest = hashlib.sha256(f"{seed}/{iteration}/{name}/{num_tokens}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sample_number(trajectory: Trajectory) -> int:
    """Return which sample of its problem a trajectory is: the end of its id."""
    return int(trajectory.id.rpartition("-")[2])


def _runs(group: Sequence[Trajectory]) -> list[tuple[Trajectory, ...]]:
    """Cut a group where a sample is missing: a server gives the samples of a request seeds one after the other."""
    ordered = sorted(group, key=sample_number)
    cuts = [place for place in range(1, len(ordered)) if sample_number(ordered[place]) != _next(ordered[place - 1])]
    return [tuple(ordered[first:last]) for first, last in pairwise([0, *cuts, len(ordered)])]


def _next(trajectory: Trajectory) -> int:
    return sample_number(trajectory) + 1


def _ask(trajectories: tuple[Trajectory, ...], generation: int, limits: Limits, seed: int, iteration: int) -> Ask:
    first = trajectories[0]
    return Ask(
        trajectories=trajectories,
        token_ids=first.prompt_token_ids + first.response_token_ids,
        max_tokens=allowance(first, generation, limits),
        seed=derive_seed(seed, iteration, first.group, first.num_response_tokens) + sample_number(first),
    )


def _finish_reason(trajectory: Trajectory, completion: Completion, limits: Limits) -> FinishReason | None:
    """Return why a trajectory ends with what was sampled for it, None where it goes on."""
    if completion.finish_reason in (FinishReason.STOP, FinishReason.REPEAT):
        return completion.finish_reason
    known = len(trajectory.prompt_token_ids) + trajectory.num_response_tokens
    length = known + len(completion.token_ids)
    if length > limits.max_length_tokens:
        raise RolloutError(
            f"trajectory {trajectory.id}: the server sampled up to {length} tokens, more than the"
            f" {limits.max_length_tokens} of policy.maxLengthTokens; does it serve another model?"
        )
    return FinishReason.LENGTH if length == limits.max_length_tokens else None
