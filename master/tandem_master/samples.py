"""From scored groups to what the trainer is given."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from tandem_api.engine import Sample
from tandem_api.job.recipe import ObjectiveName
from tandem_api.trajectory import TokenSegment, Trajectory
from tandem_master.buffer.outcome import Outcome
from tandem_master.rewards.group import advantages


def group_samples(
    group: Sequence[Outcome],
    generation: int,
    length_weight: float,
    *,
    exclude_old_segments: bool,
    objective: ObjectiveName = ObjectiveName.MIRROR_DESCENT,
) -> tuple[Sample, ...]:
    """Return the samples of one complete group; every member counts in the baseline, also one that gives no sample.

    With `exclude_old_segments` only the tokens of `generation` are in the loss (report, section 2.6.2), and a
    trajectory that finished before `generation` gives no sample. Without it all response tokens are in the loss, and
    those that older generations sampled are counted, so that trainer and server are not compared there.
    """
    values = advantages(
        np.array([outcome.trajectory.reward or 0.0 for outcome in group]),
        np.array([outcome.trajectory.num_response_tokens for outcome in group]),
        np.array([bool(outcome.correct) for outcome in group]),
        length_weight,
        objective,
    )
    samples = []
    for outcome, advantage in zip(group, values.tolist(), strict=True):
        segments = outcome.trajectory.segments
        current = current_segments(segments, generation)
        in_loss = current if exclude_old_segments else segments
        if in_loss:
            num_current_tokens = sum(len(segment.token_ids) for segment in current)
            samples.append(_sample(outcome.trajectory, in_loss, num_current_tokens, advantage))
    return tuple(samples)


def current_segments(segments: Sequence[TokenSegment], generation: int) -> tuple[TokenSegment, ...]:
    """Return the segments at the end that `generation` sampled."""
    first = len(segments)
    while first and segments[first - 1].generation == generation:
        first -= 1
    return tuple(segments[first:])


def _sample(
    trajectory: Trajectory, in_loss: Sequence[TokenSegment], num_current_tokens: int, advantage: float
) -> Sample:
    token_ids = tuple(chain(trajectory.prompt_token_ids, *(segment.token_ids for segment in trajectory.segments)))
    logprobs = tuple(chain.from_iterable([segment.logprobs for segment in in_loss]))
    return Sample(
        token_ids=token_ids,
        first_loss_token=len(token_ids) - len(logprobs),
        sampled_logprobs=logprobs,
        num_old_tokens=len(logprobs) - num_current_tokens,
        advantage=advantage,
    )
