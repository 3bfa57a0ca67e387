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
    the loss. current_BS: float32, 1 where the current generation sampled such a label. sampled_BS: float32, the
    label's log-probability at sampling, 0 elsewhere. advantage_B: float32.
    indices: places of its samples in the list that it was made from.
    """

    token_ids_BS: torch.Tensor  # noqa: N815 - shape letters
    labels_BS: torch.Tensor  # noqa: N815 - shape letters
    mask_BS: torch.Tensor  # noqa: N815 - shape letters
    current_BS: torch.Tensor  # noqa: N815 - shape letters
    sampled_BS: torch.Tensor  # noqa: N815 - shape letters
    advantage_B: torch.Tensor  # noqa: N815 - shape letters
    indices: tuple[int, ...]
    num_tokens: int


def make_micro_batches(
    samples: Sequence[Sample], max_tokens: int, device: torch.device, multiple: int = 1, equal: bool = False
) -> list[MicroBatch]:
    """Return micro-batches of at most `max_tokens` padded tokens; a longer sample gets one of its own.

    Args:
        multiple: what the number of positions is made a multiple of.
        equal: whether all get the same shape, that of the longest sample; rows without a sample add nothing.
    """
    widths = [_round_up(len(sample.token_ids) - 1, multiple) for sample in samples]
    order = sorted(range(len(samples)), key=widths.__getitem__)
    batches: list[list[int]] = []
    for index in order:
        width = max(widths) if equal else widths[index]
        if batches and (len(batches[-1]) + 1) * width <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    num_rows = max(map(len, batches), default=0) if equal else 0
    return [
        _pad(
            samples,
            indices,
            (max(num_rows, len(indices)), max(widths) if equal else widths[indices[-1]]),
            device,
        )
        for indices in batches
    ]


def idle_micro_batch(device: torch.device, shape: tuple[int, int] = (1, 1)) -> MicroBatch:
    """Return a batch that adds nothing: a rank without samples still takes part in what ranks do together."""
    return _pad([], [], shape, device)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(samples: Sequence[Sample], indices: Sequence[int], shape: tuple[int, int], device: torch.device) -> MicroBatch:
    token_ids, labels = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    mask, current, sampled = (torch.zeros(shape) for _ in range(3))
    advantage = torch.zeros(shape[0])
    for row, index in enumerate(indices):
        sample = samples[index]
        ids = torch.tensor(sample.token_ids, dtype=torch.int64)
        token_ids[row, : len(ids) - 1] = ids[:-1]
        labels[row, : len(ids) - 1] = ids[1:]
        mask[row, sample.first_loss_token - 1 : len(ids) - 1] = 1.0
        current[row, sample.first_loss_token - 1 + sample.num_old_tokens : len(ids) - 1] = 1.0
        sampled[row, sample.first_loss_token - 1 : len(ids) - 1] = torch.tensor(sample.sampled_logprobs)
        advantage[row] = sample.advantage
    return MicroBatch(
        token_ids.to(device),
        labels.to(device),
        mask.to(device),
        current.to(device),
        sampled.to(device),
        advantage.to(device),
        tuple(indices),
        num_tokens=sum(len(samples[index].token_ids) for index in indices),
    )
