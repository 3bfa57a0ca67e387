"""Trajectories as rows and back."""

import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np

from tandem_api.trajectory import TokenSegment, Trajectory, TrajectoryState

TOKEN_DTYPE = np.dtype("<i4")
LOGPROB_DTYPE = np.dtype("<f8")
MOST_SHARED = 1 << 22
"""Token ids that may be kept: more than any vocabulary has, and no more memory than a wrong id is worth."""

TRAJECTORY_COLUMNS = "id, group_id, problem_id, prompt_token_ids, state, finish_reason, reward"
SEGMENT_COLUMNS = "trajectory_id, generation, token_ids, logprobs"


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Return token ids as little-endian int32."""
    return np.asarray(token_ids, dtype=TOKEN_DTYPE).tobytes()


def unpack_tokens(blob: bytes) -> tuple[int, ...]:
    """Return the token ids that pack_tokens wrote.

    Equal ones are one object, wherever they are: 8 bytes a token in place of 36, and nothing to make.
    """
    return _TOKENS.unpack(np.frombuffer(blob, dtype=TOKEN_DTYPE))


class _Tokens:
    """All token ids up to the largest that has come, each once."""

    def __init__(self) -> None:
        self._ids = np.arange(0).astype(object)

    def unpack(self, token_ids: np.ndarray) -> tuple[int, ...]:
        """Return integers for an int32 array."""
        if not token_ids.size:
            return ()
        known, largest = self._ids, int(token_ids.max())
        if largest >= MOST_SHARED or token_ids.min() < 0:
            return tuple(token_ids.tolist())
        if largest >= len(known):
            # Those that are known stay the same objects. Threads that do this at once differ in nothing that counts.
            known = np.concatenate([known, np.arange(len(known), 2 * largest + 1).astype(object)])
            self._ids = known
        return tuple(known[token_ids].tolist())


_TOKENS = _Tokens()


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Return log-probabilities as little-endian float64."""
    return np.asarray(logprobs, dtype=LOGPROB_DTYPE).tobytes()


def unpack_logprobs(blob: bytes) -> tuple[float, ...]:
    """Return the log-probabilities that pack_logprobs wrote."""
    return tuple(np.frombuffer(blob, dtype=LOGPROB_DTYPE).tolist())


def trajectory_row(ordinal: int, iteration: int, trajectory: Trajectory) -> tuple[object, ...]:
    """Return the row of table `trajectories` for one that `iteration` has drawn and not sampled yet."""
    return (
        trajectory.id,
        ordinal,
        iteration,
        trajectory.group,
        trajectory.problem_id,
        trajectory.state.value,
        pack_tokens(trajectory.prompt_token_ids),
    )


def segment_row(trajectory_id: str, position: int, segment: TokenSegment) -> tuple[object, ...]:
    """Return the row of table `segments` for one segment."""
    return (
        trajectory_id,
        position,
        segment.generation,
        pack_tokens(segment.token_ids),
        pack_logprobs(segment.logprobs),
        len(segment.token_ids),
    )


def read_trajectories(
    connection: sqlite3.Connection, condition: str, values: Sequence[object] = ()
) -> tuple[Trajectory, ...]:
    """Return the trajectories for which `condition`, an SQL expression of this package over columns of
    `trajectories`, holds; in order of creation, with their segments. `values`: those of its question marks."""
    segments: dict[str, list[TokenSegment]] = {}
    query = (
        f"SELECT {SEGMENT_COLUMNS} FROM segments WHERE trajectory_id IN (SELECT id FROM trajectories WHERE {condition})"
        " ORDER BY trajectory_id, position"
    )
    for trajectory_id, generation, token_ids, logprobs in connection.execute(query, values):
        # What was checked when it was written is not checked again: this is done for every token that a job has.
        segment = TokenSegment.model_construct(
            generation=generation, token_ids=unpack_tokens(token_ids), logprobs=unpack_logprobs(logprobs)
        )
        segments.setdefault(trajectory_id, []).append(segment)
    rows = connection.execute(
        f"SELECT {TRAJECTORY_COLUMNS} FROM trajectories WHERE {condition} ORDER BY ordinal", values
    )
    return tuple(_trajectories(rows, segments))


def _trajectories(
    rows: Iterable[tuple[str, str, str, bytes, str, str | None, float | None]],
    segments: dict[str, list[TokenSegment]],
) -> Iterable[Trajectory]:
    for trajectory_id, group, problem_id, prompt, state, finish_reason, reward in rows:
        yield Trajectory.model_construct(
            id=trajectory_id,
            group=group,
            problem_id=problem_id,
            prompt_token_ids=unpack_tokens(prompt),
            segments=tuple(segments.get(trajectory_id, ())),
            state=TrajectoryState(state),
            finish_reason=finish_reason,
            reward=reward,
        )
