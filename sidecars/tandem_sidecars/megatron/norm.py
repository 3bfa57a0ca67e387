"""Root mean square norm for Megatron's own layers; Megatron's wrapper of torch's refuses sequence parallelism."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from megatron.core.transformer.transformer_config import TransformerConfig


class RmsNorm(torch.nn.Module):
    """x / sqrt(mean(x²) + epsilon) * weight over the last axis (arXiv:1910.07467)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Each rank sees its share of the positions: Megatron is to add up the ranks' gradients
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self._epsilon = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the normed tensor, of the same shape."""
        return F.rms_norm(hidden, self.weight.shape, self.weight, self._epsilon)
