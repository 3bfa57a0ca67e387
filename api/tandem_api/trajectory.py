"""A trajectory: one sampled response, in one or more segments of tokens, each stamped with its generation."""

from enum import StrEnum
from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from tandem_api.resource import Resource


class Message(Resource):
    """One message of a conversation."""

    role: str
    """Who speaks: system, user, assistant."""
    content: str
    """What is said."""


class Problem(Resource):
    """One line of a problem set."""

    id: str
    """Identity in its set."""
    prompt: str
    """Text the policy is given."""
    messages: tuple[Message, ...] = ()
    """The conversation that the text was made of, by the policy's chat template; empty where it was a text at once."""
    answer: str
    """Ground truth."""
    difficulty: float | None = None
    """Label: larger is harder."""
    data_source: str | None = None
    """Where the problem is from, for rewards that tell sources apart."""


class TokenSegment(Resource):
    """Tokens that one generation sampled without interruption."""

    generation: int = Field(ge=0)
    """Generation whose weights sampled them."""
    token_ids: tuple[int, ...]
    """Sampled tokens, the end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """Log-probability of each token when it was sampled, in nats."""

    @model_validator(mode="after")
    def _as_many_logprobs_as_tokens(self) -> Self:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probabilities")
        return self


class TrajectoryState(StrEnum):
    """Where a trajectory stands in the replay buffer."""

    UNFINISHED = "Unfinished"
    """Goes on in the next iteration."""
    FINISHED = "Finished"
    """Scored, and its group waits to be trained."""
    TRAINED = "Trained"
    """Took part in a committed iteration; never again."""
    REJECTED = "Rejected"
    """Scored, and left out with its group, whose samples are all worth the same."""
    UNSCORED = "Unscored"
    """Ended, and a reward function said nothing of it in time: it takes part in nothing, its group goes on without."""


class Trajectory(Resource):
    """One response to one problem."""

    id: str
    """`<iteration>-<problem id>-<sample>`: unique in a job."""
    group: str
    """The k samples of one draw of one problem share it."""
    problem_id: str
    """Identity of the problem."""
    prompt_token_ids: tuple[int, ...]
    """The prompt in tokens."""
    segments: tuple[TokenSegment, ...] = ()
    """What has been sampled so far, oldest first."""
    state: TrajectoryState = TrajectoryState.UNFINISHED
    """Where it stands."""
    finish_reason: str | None = None
    """stop: ended by itself. length: cut at policy.maxLengthTokens. repeat: stopped, as it repeated itself."""
    reward: float | None = None
    """Sum of the weighted reward terms, without the length reward."""

    @property
    def response_token_ids(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable([segment.token_ids for segment in self.segments]))

    def last_response_token_ids(self, most: int) -> tuple[int, ...]:
        """Return the newest tokens of the response, at most so many."""
        newest: tuple[int, ...] = ()
        for segment in reversed(self.segments):
            if len(newest) >= most:
                break
            newest = segment.token_ids + newest
        return newest[-most:] if most else ()

    @property
    def num_response_tokens(self) -> int:
        return sum([len(segment.token_ids) for segment in self.segments])
