"""Micro-batches: samples of similar length side by side, padded on the right.

Axis letters: B samples, S positions. Padding on the right changes nothing before it: attention is causal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tandem_api.engine import Sample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass.

    token_ids_BS: int64, inputs. labels_BS: int64, the next tokens. mask_BS: float32, 1 where the label takes part in
    the loss. sampled_BS: float32, the label's log-probability at sampling, 0 elsewhere. advantage_B: float32.
    indices: places of its samples in the list that it was made from.
    """

    token_ids_BS: torch.Tensor  # noqa: N815 - shape letters
    labels_BS: torch.Tensor  # noqa: N815 - shape letters
    mask_BS: torch.Tensor  # noqa: N815 - shape letters
    sampled_BS: torch.Tensor  # noqa: N815 - shape letters
    advantage_B: torch.Tensor  # noqa: N815 - shape letters
    indices: tuple[int, ...]
    num_tokens: int


def make_micro_batches(samples: Sequence[Sample], max_tokens: int, device: torch.device) -> list[MicroBatch]:
    """Return micro-batches of at most `max_tokens` padded tokens; a longer sample gets one of its own."""
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].token_ids))
    batches: list[list[int]] = []
    for index in order:
        length = len(samples[index].token_ids) - 1
        if batches and (len(batches[-1]) + 1) * length <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [_pad(samples, indices, device) for indices in batches]


def idle_micro_batch(device: torch.device) -> MicroBatch:
    """Return a batch that adds nothing: a rank without samples still takes part in the reduction of gradients."""
    sample = Sample(token_ids=(0, 0), first_loss_token=1, sampled_logprobs=(0.0,), advantage=0.0)
    batch = _pad([sample], [0], device)
    batch.mask_BS.zero_()
    return MicroBatch(
        batch.token_ids_BS, batch.labels_BS, batch.mask_BS, batch.sampled_BS, batch.advantage_B, (), num_tokens=0
    )


def _pad(samples: Sequence[Sample], indices: Sequence[int], device: torch.device) -> MicroBatch:
    width = max(len(samples[index].token_ids) for index in indices) - 1
    shape = (len(indices), width)
    token_ids, labels = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    mask, sampled = torch.zeros(shape), torch.zeros(shape)
    for row, index in enumerate(indices):
        sample = samples[index]
        ids = torch.tensor(sample.token_ids, dtype=torch.int64)
        token_ids[row, : len(ids) - 1] = ids[:-1]
        labels[row, : len(ids) - 1] = ids[1:]
        mask[row, sample.first_loss_token - 1 : len(ids) - 1] = 1.0
        sampled[row, sample.first_loss_token - 1 : len(ids) - 1] = torch.tensor(sample.sampled_logprobs)
    advantage = torch.tensor([samples[index].advantage for index in indices])
    num_tokens = sum(len(samples[index].token_ids) for index in indices)
    return MicroBatch(
        token_ids.to(device),
        labels.to(device),
        mask.to(device),
        sampled.to(device),
        advantage.to(device),
        tuple(indices),
        num_tokens,
    )
