"""One rank: its part of the model, its optimizer, and the passes over it. Megatron-Core's schedule runs every pass.

Ranks that hold the model together are given the same samples. Log-probabilities exist on the last stage only, once for
all tensor-parallel ranks: what is counted is counted there, over data-parallel ranks, and then told to all stages.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.utils import get_attr_wrapped_model

from tandem_api.engine import Sample, StepMetrics
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.process.commands import Refused, Train, Trained
from tandem_sidecars.megatron.batches import MicroBatch, idle_micro_batch, make_micro_batches
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss
from tandem_sidecars.megatron.optimizer_memory import OptimizerMemory
from tandem_sidecars.megatron.optimizer_state import LOAD_ERRORS


@dataclass(frozen=True, slots=True)
class PassRule:
    """Numbers of every pass."""

    objective: ObjectiveSpec
    temperature: float
    micro_batch_tokens: int
    num_vocabulary: int
    """Rows of the embeddings that are tokens; the rest pad them."""


@dataclass(frozen=True, slots=True)
class Referenced:
    """A micro-batch with the log-probabilities of its tokens under the reference policy.

    reference_BS: float [B, S]; on stages before the last one 0.
    """

    batch: MicroBatch
    reference_BS: torch.Tensor  # noqa: N815 - shape letters


Finish = Callable[[Any, torch.Tensor], tuple[torch.Tensor, Any]]
"""What becomes of one item's log-probabilities, float32 [B, S]: the loss, and what is kept."""


class Trainer:
    """Trains one batch after another."""

    def __init__(
        self,
        chunks: Sequence[DistributedDataParallel],
        optimizer: MegatronOptimizer,
        rule: PassRule,
        device: torch.device,
    ) -> None:
        self._chunks = list(chunks)
        self._config = self._chunks[0].config
        self._optimizer = optimizer
        self._rule = rule
        self._device = device
        is_kept = not rule.objective.reset_optimizer
        self.memory = OptimizerMemory(self._chunks, optimizer, device, is_kept=is_kept)
        self._config.finalize_model_grads_func = finalize_model_grads

    def train(self, command: Train) -> Trained | Refused:
        """Compare with the server, then take the steps; refuse, with nothing changed, when the two disagree."""
        try:
            self.memory.begin()
        except LOAD_ERRORS as error:
            return Refused(
                reason=f"the optimizer's state cannot be loaded ({error}); remove the checkpoint's folder `optimizer` "
                "to begin without moments"
            )
        steps = [self._reference(samples) for samples in command.steps]
        difference = self._largest(max((gap for _, gap in steps), default=0.0))
        if not difference <= command.max_logprob_difference:
            return Refused(
                reason=f"the log-probabilities of server and trainer differ by {difference:.3g} nats (limit "
                f"{command.max_logprob_difference:.3g}): the server does not hold the trainer's weights; nothing was "
                "trained. Look for a broken hand-over, or raise spec.switch.maxLogprobDifference"
            )
        metrics, kl, num_logprobs = [], 0.0, 0
        for (step, _), num_samples in zip(steps, command.samples_per_step, strict=True):
            num_loss_tokens = self._num_loss_tokens(step)
            step_metrics, kl = self._step(step, StepSize(num_samples, num_loss_tokens))
            metrics.append(step_metrics)
            num_logprobs += num_loss_tokens
        num_tokens = sum(item.batch.num_tokens for step, _ in steps for item in step)
        return Trained(
            max_abs_logprob_difference=difference,
            num_logprobs=num_logprobs,
            kl=kl,
            steps=tuple(metrics),
            num_tokens=int(self._total(float(num_tokens) if self._is_last else 0.0)),
        )

    def forget(self) -> None:
        """Drop the optimizer's moments: the next iteration starts without them anyway."""
        self.memory.forget()

    def restart(self) -> None:
        """Go on from the model's weights as they are now: no moments, main parameters rounded from nothing but them."""
        self.memory.forget()
        self._optimizer.reload_model_params()

    def _reference(self, samples: Sequence[Sample]) -> tuple[list[Referenced], float]:
        """Return the micro-batches with their reference log-probabilities, and the largest gap to the server's."""
        batches = self._micro_batches(samples)
        outputs = self._run(batches, forward_only=True, finish=_keep)
        if not self._is_last:
            return [Referenced(batch, torch.zeros_like(batch.mask_BS)) for batch in batches], 0.0
        references = [Referenced(batch, logprob_BS) for batch, logprob_BS in zip(batches, outputs, strict=True)]
        return references, max(_gap(item) for item in references)

    def _micro_batches(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        """Return a step's micro-batches, with idle ones where ranks that work together have more, or chunks want more.

        Chunks of a stage exchange tensors of one shape; ranks that share experts pass the same number of micro-batches.
        """
        num_stages = self._config.pipeline_model_parallel_size
        is_virtual = len(self._chunks) > 1
        multiple = self._config.tensor_model_parallel_size if self._config.sequence_parallel else 1
        batches = make_micro_batches(
            samples, self._rule.micro_batch_tokens, self._device, multiple=multiple, equal=is_virtual
        )
        wanted = max(1, len(batches))
        if self._config.expert_model_parallel_size > 1:
            wanted = int(self._largest(float(wanted)))
        if is_virtual:
            wanted = -(-wanted // num_stages) * num_stages
        num_rows, width = batches[0].token_ids_BS.shape if batches and is_virtual else (1, multiple)
        return batches + [idle_micro_batch(self._device, (num_rows, width)) for _ in range(wanted - len(batches))]

    def _step(self, step: Sequence[Referenced], size: StepSize) -> tuple[StepMetrics, float]:
        """Take one optimizer step; return its metrics and how far the policy has moved on its samples."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        finish = partial(
            _surrogate,
            objective=self._rule.objective,
            size=size,
            scale=len(step) * parallel_state.get_data_parallel_world_size(),
        )
        outputs = self._run(step, forward_only=False, finish=finish)
        _, gradient_norm, _ = self._optimizer.step()
        self.memory.count_step()
        loss = self._total(sum(float(output[0]) for output in outputs))
        moved = self._total(sum(float(output[1]) for output in outputs))
        return StepMetrics(loss=loss, gradient_norm=float(gradient_norm or 0.0)), moved / max(1, size.num_samples)

    def _num_loss_tokens(self, step: Sequence[Referenced]) -> int:
        """Return the tokens in a step's loss over all ranks of the job."""
        own = sum(float(item.batch.mask_BS.sum()) for item in step)
        return int(self._total(own if self._is_last else 0.0))

    def _run(self, items: Sequence[MicroBatch | Referenced], forward_only: bool, finish: Finish) -> list[Any]:
        """Pass all items through Megatron's schedule; return what `finish` kept of each."""
        schedule = get_forward_backward_func()
        widest = max(items, key=lambda item: _batch_of(item).token_ids_BS.shape[1])
        num_rows, width = _batch_of(widest).token_ids_BS.shape
        iterators = [iter(items) for _ in self._chunks]
        outputs: list[Any] = schedule(
            forward_step_func=partial(
                _forward, finish=finish, temperature=self._rule.temperature, num_vocabulary=self._rule.num_vocabulary
            ),
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self._chunks,
            num_microbatches=len(items),
            seq_length=width,
            micro_batch_size=num_rows,
            forward_only=forward_only,
        )
        return outputs

    @property
    def _is_last(self) -> bool:
        """Whether log-probabilities come out of this rank."""
        return bool(parallel_state.is_pipeline_last_stage())

    def _largest(self, value: float) -> float:
        return self._reduce(value, dist.ReduceOp.MAX)

    def _total(self, value: float) -> float:
        return self._reduce(value, dist.ReduceOp.SUM)

    def _reduce(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        tensor = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor, op=operation, group=parallel_state.get_data_parallel_group())
        dist.all_reduce(tensor, op=operation, group=parallel_state.get_pipeline_model_parallel_group())
        return float(tensor.item())


def _batch_of(item: MicroBatch | Referenced) -> MicroBatch:
    return item.batch if isinstance(item, Referenced) else item


def _forward(
    iterator: Iterator[MicroBatch | Referenced],
    model: torch.nn.Module,
    finish: Finish,
    temperature: float,
    num_vocabulary: int,
) -> tuple[torch.Tensor, Callable[[torch.Tensor], tuple[torch.Tensor, object]]]:
    """One forward pass of a chunk as Megatron's schedule calls it: the output, and what makes a loss of the last one.

    Log-probabilities are made of each tensor-parallel rank's own columns of the logits; none gathers all of them.
    """
    item = next(iterator)
    batch = _batch_of(item)
    length = batch.token_ids_BS.shape[1]
    positions = torch.arange(length, device=batch.token_ids_BS.device).expand_as(batch.token_ids_BS)
    later = torch.ones(1, 1, length, length, dtype=torch.bool, device=batch.token_ids_BS.device).triu(1)
    output = model(batch.token_ids_BS, positions, later)
    if not get_attr_wrapped_model(model, "post_process"):
        return output, partial(finish, item)
    logits_BSV = output.float() / temperature
    num_columns = logits_BSV.shape[-1]
    num_tokens = max(0, num_vocabulary - parallel_state.get_tensor_model_parallel_rank() * num_columns)
    if num_tokens < num_columns:
        logits_BSV[..., num_tokens:] = float("-inf")
    nll_SB = vocab_parallel_cross_entropy(
        logits_BSV.transpose(0, 1).contiguous(), batch.labels_BS.transpose(0, 1).contiguous()
    )
    return -nll_SB.transpose(0, 1), partial(finish, item)


def _keep(item: MicroBatch, logprob_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the log-probabilities of a forward-only pass, float32 [B, S]."""
    return logprob_BS.new_zeros(()), logprob_BS.detach()


def _surrogate(
    item: Referenced, logprob_BS: torch.Tensor, objective: ObjectiveSpec, size: StepSize, scale: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the loss of one micro-batch, times what Megatron divides by: micro-batches and data-parallel ranks."""
    batch = item.batch
    likelihoods = Likelihoods(logprob_BS, item.reference_BS, batch.sampled_BS, batch.mask_BS)
    loss = policy_loss(objective, likelihoods, batch.advantage_B, size)
    moved = ((item.reference_BS - logprob_BS.detach()) * batch.mask_BS).sum()
    return loss * scale, (loss.detach(), moved)


def _gap(item: Referenced) -> float:
    """Return the largest distance between the server's and the trainer's log-probability of a token that the current
    generation sampled.

    A NaN on either side is the largest of all distances.
    """
    batch = item.batch
    gap_BS = ((item.reference_BS - batch.sampled_BS) * batch.current_BS).abs()
    return float(torch.nan_to_num(gap_BS, nan=float("inf")).max())
