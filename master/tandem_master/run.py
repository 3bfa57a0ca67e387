"""What one run of the loop works with."""

from dataclasses import dataclass
from pathlib import Path

import httpx

from tandem_api.job.policy import Dtype
from tandem_api.job.spec import RLJobSpec
from tandem_api.registry import Keys
from tandem_master.buffer.store import Buffer
from tandem_master.checkpoints import Checkpoints
from tandem_master.data.catalogue import Catalogue
from tandem_master.evaluation.held_out import HeldOutSet
from tandem_master.evaluation.store import EvaluationStore
from tandem_master.journal import Journal
from tandem_master.phases import Switcher
from tandem_master.progress import ProgressBoard
from tandem_master.rewards.scoring import Scorer
from tandem_master.rollout.ending import StopRule
from tandem_master.rollout.repeats import RepeatRule
from tandem_master.rollout.segments import Limits
from tandem_master.stop import StopSignal
from tandem_master.trainers import TrainerApi

MAX_LOGPROB_DIFFERENCE = {Dtype.FLOAT32: 1e-4, Dtype.BFLOAT16: 1.0}
"""Where switch.maxLogprobDifference is absent, nats."""
MAX_QUANTISED_DIFFERENCE = 5.0
"""The same where the policy is served in FP8: a token whose router chooses another expert is off by nats."""


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of one run, wired together once."""

    spec: RLJobSpec
    catalogue: Catalogue
    buffer: Buffer
    journal: Journal
    board: ProgressBoard
    switcher: Switcher
    trainers: TrainerApi
    state: Path
    keys: Keys
    checkpoints: Checkpoints
    client: httpx.AsyncClient
    stop: StopSignal
    scorer: Scorer
    held_out: tuple[HeldOutSet, ...]
    """What the policy is measured on, none of it trained on."""
    evaluations: EvaluationStore

    @property
    def limits(self) -> Limits:
        return Limits(self.spec.recipe.partial_rollout.token_budget, self.catalogue.max_length_tokens)

    @property
    def repeat_rule(self) -> RepeatRule | None:
        """When a response is stopped because it repeats itself; None: never."""
        repeats = self.spec.recipe.repeats
        if not repeats.window_tokens:
            return None
        return RepeatRule(repeats.window_tokens, repeats.ngram_tokens, repeats.max_share)

    @property
    def stop_rule(self) -> StopRule:
        """When an Infer phase ends before every trajectory has used its budget."""
        partial = self.spec.recipe.partial_rollout
        return StopRule(partial.stop_when_complete_share, partial.deadline_seconds)

    @property
    def max_logprob_difference(self) -> float:
        """Largest difference between server and trainer before the run fails, nats."""
        if self.spec.switch.max_logprob_difference is not None:
            return self.spec.switch.max_logprob_difference
        is_quantised = self.catalogue.text.is_quantised
        return MAX_QUANTISED_DIFFERENCE if is_quantised else MAX_LOGPROB_DIFFERENCE[self.spec.policy.dtype]
