"""Micro-batches: samples end to end in one row, with no padding between them.

Axis letters: T positions of a row, B its samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tandem_api.engine import Sample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass over one row.

    token_ids_T: int64, inputs. labels_T: int64, the next tokens. mask_T: float32, 1 where the label takes part in the
    loss. current_T: float32, 1 where the current generation sampled such a label. sampled_T: float32, the label's
    log-probability at sampling, 0 elsewhere. advantage_B: float32.
    lengths: positions of each sample, in the row's order; what fills a row up counts as a sample that is in no loss.
    indices: places of its samples in the list that it was made from.
    """

    token_ids_T: torch.Tensor  # noqa: N815 - shape letters
    labels_T: torch.Tensor  # noqa: N815 - shape letters
    mask_T: torch.Tensor  # noqa: N815 - shape letters
    current_T: torch.Tensor  # noqa: N815 - shape letters
    sampled_T: torch.Tensor  # noqa: N815 - shape letters
    advantage_B: torch.Tensor  # noqa: N815 - shape letters
    lengths: tuple[int, ...]
    indices: tuple[int, ...]
    num_tokens: int


def positions_of(sample: Sample) -> int:
    """Return how many positions a sample takes: all tokens but the last one, which is no input."""
    return len(sample.token_ids) - 1


def make_micro_batches(
    samples: Sequence[Sample],
    rows: Sequence[Sequence[int]],
    device: torch.device,
    *,
    multiple: int = 1,
    equal: bool = False,
) -> list[MicroBatch]:
    """Return one micro-batch a row of sample numbers.

    A row without a sample is one of filling: a rank without samples still takes part in what ranks do together.

    Args:
        multiple: what the positions of each row are filled up to a multiple of.
        equal: whether all rows are filled up to the longest.
    """
    sizes = [sum(positions_of(samples[index]) for index in row) for row in rows]
    wanted = [_round_up(max(1, *sizes) if equal else max(1, size), multiple) for size in sizes]
    return [_lay(samples, row, size, device) for row, size in zip(rows, wanted, strict=True)]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _lay(samples: Sequence[Sample], row: Sequence[int], size: int, device: torch.device) -> MicroBatch:
    """Lay samples end to end, and fill up what is left of the row."""
    token_ids, labels = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    mask, current, sampled = (torch.zeros(size) for _ in range(3))
    lengths, advantages, start = [], [], 0
    for index in row:
        sample, length = samples[index], positions_of(samples[index])
        ids, end, first = torch.tensor(sample.token_ids), start + length, start + sample.first_loss_token - 1
        token_ids[start:end], labels[start:end] = ids[:-1], ids[1:]
        mask[first:end] = 1.0
        current[first + sample.num_old_tokens : end] = 1.0
        sampled[first:end] = torch.tensor(sample.sampled_logprobs)
        lengths.append(length)
        advantages.append(sample.advantage)
        start = end
    if start < size:
        lengths.append(size - start)
        advantages.append(0.0)
    return MicroBatch(
        token_ids.to(device),
        labels.to(device),
        mask.to(device),
        current.to(device),
        sampled.to(device),
        torch.tensor(advantages).to(device),
        tuple(lengths),
        tuple(row),
        num_tokens=sum(len(samples[index].token_ids) for index in row),
    )
