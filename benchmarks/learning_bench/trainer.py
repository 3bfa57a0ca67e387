"""A trainer in one process: the engine's own losses and micro-batches, a model of transformers, torch's Adam.

What Megatron-Core does in the real trainer is done here in a few lines; a test holds the two against each other.
Axis letters: T positions of a packed row, B its samples, S positions of a sample, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from tandem_api.engine import Sample, StepMetrics, TrainRequest, TrainResponse
from tandem_api.job.pods import OptimizerSpec, TrainerSpec
from tandem_api.job.recipe import RecipeSpec
from tandem_sidecars.megatron.batches import MicroBatch, make_micro_batches, positions_of
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss
from tandem_sidecars.megatron.packing import pack
from tandem_sidecars.megatron.schedule import learning_rate

CPU = torch.device("cpu")


class LogprobsDiffer(Exception):  # noqa: N818 - what is found, for the answer to the master
    """Server and trainer disagree on what was sampled."""


@dataclass(frozen=True, slots=True)
class Referenced:
    """A micro-batch with the log-probabilities of its labels before the first step, float32 [T]."""

    batch: MicroBatch
    reference_T: torch.Tensor  # noqa: N815 - shape letters


class TinyTrainer:
    """Trains one batch after another. `model`: a causal language model of transformers, on a CPU."""

    def __init__(self, model: Any, trainer: TrainerSpec, recipe: RecipeSpec) -> None:
        self._model = model
        self._trainer = trainer
        self._recipe = recipe
        self._optimizer = make_optimizer(model, trainer.optimizer)

    def train(self, request: TrainRequest) -> TrainResponse:
        """Take the steps of one iteration, those of all shares together. Errors: LogprobsDiffer; nothing changed."""
        began = monotonic()
        if self._recipe.objective.reset_optimizer:
            self._optimizer = make_optimizer(self._model, self._trainer.optimizer)
        steps = [self._reference([sample for share in shares for sample in share]) for shares in request.steps]
        difference = max((_gap(item) for step in steps for item in step), default=0.0)
        if not difference <= request.max_logprob_difference:
            raise LogprobsDiffer(f"the log-probabilities differ by {difference:.3g} nats")
        metrics, kl, num_logprobs = [], 0.0, 0
        for number, (step, num_samples) in enumerate(zip(steps, request.samples_per_step, strict=True)):
            rate = learning_rate(
                self._trainer.optimizer, self._recipe.iterations, request.generation + 1, number, len(steps)
            )
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            size = StepSize(num_samples, sum(int(item.batch.mask_T.sum()) for item in step))
            step_metrics, kl = self._step(step, size)
            metrics.append(step_metrics)
            num_logprobs += size.num_tokens
        return TrainResponse(
            max_abs_logprob_difference=difference,
            num_logprobs=num_logprobs,
            kl=kl,
            steps=tuple(metrics),
            num_tokens=sum(item.batch.num_tokens for step in steps for item in step),
            seconds=monotonic() - began,
        )

    @torch.no_grad()
    def _reference(self, samples: Sequence[Sample]) -> list[Referenced]:
        rows = pack([positions_of(sample) for sample in samples], self._trainer.micro_batch_tokens)
        batches = make_micro_batches(samples, rows, CPU)
        return [Referenced(batch, self._logprobs(batch)) for batch in batches]

    def _step(self, step: Sequence[Referenced], size: StepSize) -> tuple[StepMetrics, float]:
        """Take one optimizer step; return its metrics and how far the policy has moved on its samples, nats."""
        self._optimizer.zero_grad()
        loss, moved = 0.0, 0.0
        for item in step:
            batch, logprob_T = item.batch, self._logprobs(item.batch)
            lengths_B = torch.tensor(batch.lengths)
            likelihoods = Likelihoods(logprob_T, item.reference_T, batch.sampled_T, batch.mask_T, lengths_B)
            part = policy_loss(self._recipe.objective, likelihoods, batch.advantage_B, size)
            torch.autograd.backward(part)
            loss += float(part.detach())
            moved += float(((item.reference_T - logprob_T.detach()) * batch.mask_T).sum())
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._trainer.optimizer.gradient_clip)
        self._optimizer.step()
        return StepMetrics(loss=loss, gradient_norm=float(norm)), moved / max(1, size.num_samples)

    def _logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """Return the log-probability of each label at the job's temperature, float32 [T].

        The row's samples pass through the model side by side, padded on the right: attention is causal.
        """
        ids_BS, labels_BS = (_side_by_side(row_T, batch.lengths) for row_T in (batch.token_ids_T, batch.labels_T))
        logits_BSV = self._model(input_ids=ids_BS, use_cache=False).logits.float()
        logprob_BSV = torch.log_softmax(logits_BSV / self._recipe.temperature, -1)
        logprob_BS = logprob_BSV.gather(2, labels_BS[:, :, None])[:, :, 0]
        return torch.cat([logprob_S[:length] for logprob_S, length in zip(logprob_BS, batch.lengths, strict=True)])


def _side_by_side(row_T: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return the samples of a row one below the other, [B, S], padded on the right."""
    return pad_sequence(list(torch.split(row_T, list(lengths))), batch_first=True)


def make_optimizer(model: torch.nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Return Adam with decoupled weight decay and empty moments; only matrices decay, as with Megatron-Core."""
    parameters = list(model.parameters())
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": spec.weight_decay},
        {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=spec.betas, eps=spec.epsilon)


def _gap(item: Referenced) -> float:
    """Return the largest distance to what the server said of a token of the current generation; a NaN is infinite."""
    gap_T = ((item.reference_T - item.batch.sampled_T) * item.batch.current_T).abs()
    return float(torch.nan_to_num(gap_T, nan=float("inf")).max())
