"""What a run has sampled and trained, from its diary and its replay buffer."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tandem_api.history import RECORD, IterationRecord
from tandem_master.buffer.rows import unpack_tokens
from tandem_master.rollout.repeats import RepeatRule, RepeatWatch


@dataclass(frozen=True, slots=True)
class Segment:
    """What one iteration sampled of one trajectory."""

    trajectory: str
    iteration: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """One run: its committed iterations, and what they sampled."""

    iterations: Sequence[IterationRecord]
    segments: Sequence[Segment]
    """Of committed iterations."""
    trained: Mapping[str, int]
    """Trajectory to the iteration that trained it."""
    repeats: frozenset[str]
    """Trajectories that were stopped because they repeated themselves."""
    responses: Mapping[str, tuple[int, ...]]
    """Tokens of each trajectory."""
    num_warm_up: int = 1
    """First iterations that do not count: the first one starts processes, and where rollouts are partial the tail has
    to fill up, which takes as many as the longest response."""

    @property
    def counted(self) -> Sequence[IterationRecord]:
        return [record for record in self.iterations if record.iteration > self.num_warm_up]

    @property
    def seconds(self) -> float:
        """Return the duration of the iterations that count."""
        return sum(record.seconds for record in self.counted)

    @property
    def infer_seconds(self) -> float:
        """Return how much of it was sampling."""
        return sum(item.sampled_tokens / item.tokens_per_second for item in self.counted if item.tokens_per_second > 0)


def read_sampling(run: Path, num_warm_up: int = 1) -> Sampling:
    """Return what a run folder tells; what was sampled for an iteration that was not committed is left out."""
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    records = [record for record in map(RECORD.validate_json, lines) if isinstance(record, IterationRecord)]
    last = max((record.iteration for record in records), default=0)
    with closing(sqlite3.connect(f"{(run / 'buffer.sqlite').resolve().as_uri()}?mode=ro", uri=True)) as buffer:
        trajectories = buffer.execute("SELECT id, finish_reason, trained_iteration FROM trajectories").fetchall()
        rows = buffer.execute(
            "SELECT trajectory_id, generation, token_ids FROM segments WHERE generation < ? ORDER BY 1, position",
            [last],
        ).fetchall()
    responses: dict[str, tuple[int, ...]] = defaultdict(tuple)
    segments = []
    for name, generation, blob in rows:
        tokens = unpack_tokens(blob)
        responses[name] += tokens
        segments.append(Segment(name, generation + 1, len(tokens)))
    return Sampling(
        records,
        segments,
        {name: iteration for name, _, iteration in trajectories if iteration is not None and iteration <= last},
        frozenset(name for name, why, _ in trajectories if why == "repeat"),
        dict(responses),
        num_warm_up,
    )


def trained_tokens(sampling: Sampling) -> int:
    """Return the tokens of responses that the counted iterations trained."""
    return sum(
        segment.num_tokens
        for segment in sampling.segments
        if sampling.trained.get(segment.trajectory, 0) > sampling.num_warm_up
    )


def tail_idle_share(sampling: Sampling) -> float:
    """Return the share of seats and time that was idle after the first seat had fallen idle, in Infer phases.

    A seat is a trajectory that the phase sampled: all are sent at once, and there are more seats than trajectories.
    Time is counted in decoding steps: each running sequence gets one token a step. So a phase lasts as many steps as
    its longest segment has tokens, and a seat is idle for the difference between that and its own.
    """
    phases: dict[int, list[int]] = defaultdict(list)
    for segment in sampling.segments:
        phases[segment.iteration].append(segment.num_tokens)
    steps = sum(max(phase) * len(phase) for phase in phases.values())
    return 1 - sum(map(sum, phases.values())) / steps


def wasted_share(sampling: Sampling, rule: RepeatRule) -> float:
    """Return the tokens of responses that repeat themselves by `rule`, stopped or not, over all sampled tokens."""
    repeating = {name for name, tokens in sampling.responses.items() if _repeats(tokens, rule)} | sampling.repeats
    sampled = sum(map(len, sampling.responses.values()))
    return sum(len(sampling.responses.get(name, ())) for name in repeating) / sampled


def decoding_cost(samplings: Iterable[Sampling]) -> tuple[float, float]:
    """Return the seconds of a decoding step with nothing in it, and the further ones of each sequence in it: the least
    squares of all Infer phases, whose steps are the tokens of the longest segment."""
    steps, tokens, seconds = [], [], []
    for sampling in samplings:
        longest: dict[int, int] = defaultdict(int)
        for segment in sampling.segments:
            longest[segment.iteration] = max(longest[segment.iteration], segment.num_tokens)
        for record in sampling.counted:
            if record.tokens_per_second > 0:
                steps.append(longest[record.iteration])
                tokens.append(record.sampled_tokens)
                seconds.append(record.sampled_tokens / record.tokens_per_second)
    found, *_ = np.linalg.lstsq(np.array([steps, tokens, np.ones(len(steps))]).T, np.array(seconds), rcond=None)
    return float(found[0]), float(found[1])


def _repeats(tokens: Sequence[int], rule: RepeatRule) -> bool:
    return RepeatWatch(rule).first_excess(tokens) is not None
