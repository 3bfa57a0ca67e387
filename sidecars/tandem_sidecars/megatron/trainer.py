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
from tandem_api.job.pods import OptimizerSpec
from tandem_api.job.recipe import ObjectiveSpec
from tandem_checkpoint.process.commands import Refused, Train, Trained
from tandem_sidecars.megatron.attention import boundaries_of
from tandem_sidecars.megatron.batches import MicroBatch, make_micro_batches, positions_of
from tandem_sidecars.megatron.model import set_rates
from tandem_sidecars.megatron.objective import Likelihoods, StepSize, policy_loss
from tandem_sidecars.megatron.optimizer_memory import OptimizerMemory
from tandem_sidecars.megatron.optimizer_state import LOAD_ERRORS
from tandem_sidecars.megatron.packing import pack
from tandem_sidecars.megatron.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class PassRule:
    """Numbers of every pass."""

    objective: ObjectiveSpec
    optimizer: OptimizerSpec
    iterations: int
    """Of the whole run."""
    temperature: float
    micro_batch_tokens: int
    num_vocabulary: int
    """Rows of the embeddings that are tokens; the rest pad them."""


@dataclass(frozen=True, slots=True)
class Referenced:
    """A micro-batch with the log-probabilities of its tokens under the reference policy.

    reference_T: float [T]; on stages before the last one 0.
    """

    batch: MicroBatch
    reference_T: torch.Tensor  # noqa: N815 - shape letters


Finish = Callable[[Any, torch.Tensor], tuple[torch.Tensor, Any]]
"""What becomes of one item's log-probabilities, float32 [T]: the loss, and what is kept."""


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
        for number, ((step, _), num_samples) in enumerate(zip(steps, command.samples_per_step, strict=True)):
            num_loss_tokens = self._num_loss_tokens(step)
            rate = learning_rate(
                self._rule.optimizer, self._rule.iterations, command.iteration, number, len(command.steps)
            )
            step_metrics, kl = self._step(step, StepSize(num_samples, num_loss_tokens), rate)
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
            return [Referenced(batch, torch.zeros_like(batch.mask_T)) for batch in batches], 0.0
        references = [Referenced(batch, logprob_T) for batch, logprob_T in zip(batches, outputs, strict=True)]
        return references, max(_gap(item) for item in references)

    def _micro_batches(self, samples: Sequence[Sample]) -> list[MicroBatch]:
        """Return a step's micro-batches, with idle ones where ranks that work together have more, or chunks want more.

        Stages tell each other the length of each row; chunks of a stage cannot, so there rows are filled up to the
        longest. Ranks that share experts pass the same number of rows. Tensor-parallel ranks that share positions each
        take as many.
        """
        lengths = [positions_of(sample) for sample in samples]
        rows = pack(lengths, self._rule.micro_batch_tokens)
        is_virtual = len(self._chunks) > 1
        wanted = len(rows)
        if self._config.expert_model_parallel_size > 1:
            wanted = int(self._largest(float(wanted)))
        if is_virtual:
            num_stages = self._config.pipeline_model_parallel_size
            wanted = -(-wanted // num_stages) * num_stages
        if wanted > len(rows):
            rows = pack(lengths, self._rule.micro_batch_tokens, at_least=wanted)
        multiple = self._config.tensor_model_parallel_size if self._config.sequence_parallel else 1
        return make_micro_batches(samples, rows, self._device, multiple=multiple, equal=is_virtual)

    def _step(self, step: Sequence[Referenced], size: StepSize, rate: float) -> tuple[StepMetrics, float]:
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
        set_rates(self._optimizer, rate, self._rule.optimizer.weight_decay)
        _, gradient_norm, _ = self._optimizer.step()
        self.memory.count_step()
        loss = self._total(sum(float(output[0]) for output in outputs))
        moved = self._total(sum(float(output[1]) for output in outputs))
        metrics = StepMetrics(loss=loss, gradient_norm=float(gradient_norm or 0.0), learning_rate=rate)
        return metrics, moved / max(1, size.num_samples)

    def _num_loss_tokens(self, step: Sequence[Referenced]) -> int:
        """Return the tokens in a step's loss over all ranks of the job."""
        own = sum(float(item.batch.mask_T.sum()) for item in step)
        return int(self._total(own if self._is_last else 0.0))

    def _run(self, items: Sequence[MicroBatch | Referenced], forward_only: bool, finish: Finish) -> list[Any]:
        """Pass all items through Megatron's schedule; return what `finish` kept of each."""
        schedule = get_forward_backward_func()
        longest = max(_batch_of(item).token_ids_T.shape[0] for item in items)
        iterators = [iter(items) for _ in self._chunks]
        outputs: list[Any] = schedule(
            forward_step_func=partial(
                _forward, finish=finish, temperature=self._rule.temperature, num_vocabulary=self._rule.num_vocabulary
            ),
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self._chunks,
            num_microbatches=len(items),
            seq_length=longest,
            micro_batch_size=1,
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
    row = boundaries_of(batch.lengths, batch.token_ids_T.device)
    # Positions follow from the boundaries, and attention's mask too
    output = model(batch.token_ids_T[None], None, None, packed_seq_params=row)
    if not get_attr_wrapped_model(model, "post_process"):
        return output, partial(finish, item)
    logits_TV = output[0].float() / temperature
    num_columns = logits_TV.shape[-1]
    num_tokens = max(0, num_vocabulary - parallel_state.get_tensor_model_parallel_rank() * num_columns)
    if num_tokens < num_columns:
        logits_TV[..., num_tokens:] = float("-inf")
    return -vocab_parallel_cross_entropy(logits_TV, batch.labels_T), partial(finish, item)


def _keep(item: MicroBatch, logprob_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the log-probabilities of a forward-only pass, float32 [T]."""
    return logprob_T.new_zeros(()), logprob_T.detach()


def _surrogate(
    item: Referenced, logprob_T: torch.Tensor, objective: ObjectiveSpec, size: StepSize, scale: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the loss of one micro-batch, times what Megatron divides by: micro-batches and data-parallel ranks."""
    batch = item.batch
    lengths_B = torch.tensor(batch.lengths, device=logprob_T.device)
    likelihoods = Likelihoods(logprob_T, item.reference_T, batch.sampled_T, batch.mask_T, lengths_B)
    loss = policy_loss(objective, likelihoods, batch.advantage_B, size)
    moved = ((item.reference_T - logprob_T.detach()) * batch.mask_T).sum()
    return loss * scale, (loss.detach(), moved)


def _gap(item: Referenced) -> float:
    """Return the largest distance between the server's and the trainer's log-probability of a token that the current
    generation sampled.

    A NaN on either side is the largest of all distances.
    """
    batch = item.batch
    gap_T = ((item.reference_T - batch.sampled_T) * batch.current_T).abs()
    return float(torch.nan_to_num(gap_T, nan=float("inf")).max())
