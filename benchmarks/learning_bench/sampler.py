"""Sampling from a small model: many requests in one batch, a KV cache, a random stream for each request.

Axis letters: B samples, S positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """What a client asks for: `num_samples` continuations of one prefix."""

    prompt: tuple[int, ...]
    num_samples: int
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """One continuation."""

    token_ids: tuple[int, ...]
    """With the end token, where it ended by itself."""
    logprobs: tuple[float, ...]
    """Of each token at the request's temperature, nats."""
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What requests continue, one row each, padded on the left: so all go on at one position.

    token_ids_BS: int64. mask_BS: int64, 0 where padded. counts_B: int64, samples of each.
    """

    token_ids_BS: torch.Tensor  # noqa: N815 - shape letters
    mask_BS: torch.Tensor  # noqa: N815 - shape letters
    counts_B: torch.Tensor  # noqa: N815 - shape letters


@dataclass(frozen=True, slots=True)
class Rows:
    """How each sample is drawn, one row each.

    temperature_B: float32. max_tokens_B: int64. uniform_BS: float32 in [0, 1), the random number of each token to come:
    the request's own, whatever it is batched with.
    """

    temperature_B: torch.Tensor  # noqa: N815 - shape letters
    max_tokens_B: torch.Tensor  # noqa: N815 - shape letters
    uniform_BS: torch.Tensor  # noqa: N815 - shape letters


@torch.inference_mode()
def sample(model: Any, requests: Sequence[SampleRequest], eos_token_id: int) -> list[tuple[Sampled, ...]]:
    """Return the samples of each request. `model`: a causal language model of transformers, on a CPU."""
    rows = _rows(requests)
    token_ids_BS, logprob_BS = _generate(model, _prefixes(requests), rows, eos_token_id)
    limits = rows.max_tokens_B.tolist()
    samples = [
        _cut(token_ids[:limit], logprobs[:limit], eos_token_id)
        for token_ids, logprobs, limit in zip(token_ids_BS.tolist(), logprob_BS.tolist(), limits, strict=True)
    ]
    ends = accumulate(request.num_samples for request in requests)
    return [tuple(samples[end - request.num_samples : end]) for request, end in zip(requests, ends, strict=True)]


def _prefixes(requests: Sequence[SampleRequest]) -> Prefixes:
    width = max(len(request.prompt) for request in requests)
    token_ids = torch.zeros(len(requests), width, dtype=torch.int64)
    mask = torch.zeros(len(requests), width, dtype=torch.int64)
    for row, request in enumerate(requests):
        token_ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, width - len(request.prompt) :] = 1
    return Prefixes(token_ids, mask, torch.tensor([request.num_samples for request in requests]))


def _rows(requests: Sequence[SampleRequest]) -> Rows:
    longest = max(request.max_tokens for request in requests)
    counts_B = torch.tensor([request.num_samples for request in requests])
    uniforms = []
    for request in requests:
        generator = torch.Generator().manual_seed(request.seed)
        drawn = torch.rand(request.num_samples, request.max_tokens, generator=generator)
        uniforms.append(torch.nn.functional.pad(drawn, (0, longest - request.max_tokens)))
    return Rows(
        torch.tensor([request.temperature for request in requests]).repeat_interleave(counts_B),
        torch.tensor([request.max_tokens for request in requests]).repeat_interleave(counts_B),
        torch.cat(uniforms),
    )


def _generate(model: Any, prefixes: Prefixes, rows: Rows, eos_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens, int64 [B, S], and their log-probabilities, float32 [B, S], until all rows have ended.

    Prefixes are read once; the cache then gets a row for each sample. What is behind a row's end means nothing.
    """
    row_B = torch.arange(len(prefixes.counts_B)).repeat_interleave(prefixes.counts_B)
    positions_BS = (prefixes.mask_BS.cumsum(1) - 1).clamp(min=0)
    output = _forward(model, prefixes.token_ids_BS, prefixes.mask_BS, positions_BS, None)
    output.past_key_values.batch_select_indices(row_B)
    logits_BV, mask_BS, position_B1 = output.logits[row_B, -1], prefixes.mask_BS[row_B], positions_BS[row_B, -1:]
    tokens_BS = torch.zeros(rows.uniform_BS.shape, dtype=torch.int64)
    logprobs_BS = torch.zeros(rows.uniform_BS.shape)
    alive_B = torch.arange(len(row_B))
    for step in range(rows.uniform_BS.shape[1]):
        logprob_BV = torch.log_softmax(logits_BV.float() / rows.temperature_B[alive_B, None], -1)
        chosen_B = _draw(logprob_BV, rows.uniform_BS[alive_B, step])
        tokens_BS[alive_B, step] = chosen_B
        logprobs_BS[alive_B, step] = logprob_BV.gather(1, chosen_B[:, None])[:, 0]
        going_B = (tokens_BS[alive_B] != eos_token_id).all(1) & (rows.max_tokens_B[alive_B] > step + 1)
        if not bool(going_B.any()):
            break
        if int(going_B.sum()) * 2 <= len(alive_B):  # a row that has ended costs as much as one that goes on
            kept_B = going_B.nonzero()[:, 0]
            output.past_key_values.batch_select_indices(kept_B)
            alive_B, chosen_B = alive_B[kept_B], chosen_B[kept_B]
            mask_BS, position_B1 = mask_BS[kept_B], position_B1[kept_B]
        mask_BS, position_B1 = torch.nn.functional.pad(mask_BS, (0, 1), value=1), position_B1 + 1
        output = _forward(model, chosen_B[:, None], mask_BS, position_B1, output.past_key_values)
        logits_BV = output.logits[:, -1]
    return tokens_BS, logprobs_BS


def _forward(model: Any, ids_BS: torch.Tensor, mask_BS: torch.Tensor, positions_BS: torch.Tensor, cache: Any) -> Any:
    return model(
        input_ids=ids_BS,
        attention_mask=mask_BS,
        position_ids=positions_BS,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )


def _draw(logprob_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """Return where each uniform number falls into the cumulated probabilities, int64 [B]."""
    cumulated_BV = logprob_BV.exp().cumsum(1)
    drawn_B1 = torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True)
    return drawn_B1[:, 0].clamp(max=logprob_BV.shape[1] - 1)


def _cut(token_ids: list[int], logprobs: list[float], eos_token_id: int) -> Sampled:
    """Return a row up to its end token."""
    if eos_token_id not in token_ids:
        return Sampled(tuple(token_ids), tuple(logprobs), "length")
    end = token_ids.index(eos_token_id) + 1
    return Sampled(tuple(token_ids[:end]), tuple(logprobs[:end]), "stop")
