"""Known mistakes of trainers, each put into a rank's process before it builds its model."""

from typing import Any

import torch

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit

EXTRA_ROWS = 8


def other_softmax_order() -> None:
    """The router's softmax before the choice where it belongs after it, and the other way round."""
    from tandem_sidecars.megatron import configuration

    right = configuration.has_softmax_first
    configuration.has_softmax_first = lambda policy: not right(policy)


def unscaled_rope() -> None:
    """Rotary frequencies as if the policy had no scaling."""
    from dataclasses import replace

    from tandem_sidecars.megatron import configuration

    right = configuration.inverse_frequencies
    configuration.inverse_frequencies = lambda policy: right(replace(policy, rope_scaling=None))


def rope_of_megatron() -> None:
    """Rotary frequencies with the constants that Megatron has written into its code."""
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

    from tandem_sidecars.megatron import configuration

    def frequencies(policy: PolicyConfig) -> torch.Tensor:
        assert policy.rope_scaling is not None
        embedding = RotaryEmbedding(
            policy.head_dim,
            1.0,
            rotary_base=policy.rope_theta,
            rope_scaling=True,
            rope_scaling_factor=policy.rope_scaling.factor,
        )
        return embedding.inv_freq  # type: ignore[no-any-return]

    configuration.inverse_frequencies = frequencies


def ignored_scales() -> None:
    """Numbers of FP8 blocks taken as they are, without the scales of their blocks."""
    from tandem_sidecars import block_scales

    block_scales.dequantise = lambda matrix, *_: matrix.float()


def padded_embeddings() -> None:
    """No mistake yet: more rows than tokens, as a vocabulary that tensor ranks do not divide has."""
    from tandem_checkpoint.layouts import trainer
    from tandem_sidecars.megatron import model

    def padded_vocabulary(policy: PolicyConfig, split: TrainerSplit) -> int:
        return policy.vocabulary + EXTRA_ROWS

    trainer.padded_vocabulary = padded_vocabulary
    model.padded_vocabulary = padded_vocabulary  # type: ignore[attr-defined]


def padding_in_the_softmax() -> None:
    """Rows that are no tokens count in the log-probabilities."""
    from tandem_sidecars.megatron import trainer

    padded_embeddings()
    right = trainer._forward

    def with_padding(*args: Any, num_vocabulary: int, **named: Any) -> Any:
        named["num_vocabulary"] = num_vocabulary + EXTRA_ROWS
        return right(*args, **named)

    trainer._forward = with_padding  # type: ignore[assignment]
