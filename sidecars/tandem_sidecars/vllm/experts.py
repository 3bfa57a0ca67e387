"""Experts on a CPU that read the weights as they are loaded.

vLLM's own kernel for experts repacks them once they are there (fused_moe/experts/cpu_moe.py below
vllm/model_executor/layers): a generation copied into a repacked weight would be nonsense, and it could not lie in the
segment. It also takes no note of which experts a rank holds, so with expert parallelism its answers are wrong.
"""

from typing import Any, Protocol

import torch
from torch.nn.functional import linear, silu
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts


class PlainExperts(CPUUnquantizedExperts):  # type: ignore[misc]
    """Gated experts, one after the other, each with all of its tokens at once."""

    @classmethod
    def _supports_grouped_gemm(cls, moe_config: FusedMoEConfig) -> tuple[bool, str | None]:
        return True, None

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation is MoEActivation.SILU

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave the weights alone."""

    def apply(
        self,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: MoEActivation,
        global_num_experts: int,
        expert_map: torch.Tensor | None,
        *_: Any,
        apply_router_weight_on_input: bool = False,
        **__: Any,
    ) -> None:
        """Write into `output` [tokens, hidden] the sum over each token's experts; see vLLM's FusedMoEExpertsModular."""
        local = topk_ids.long() if expert_map is None else expert_map[topk_ids.long()].long()
        weights = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights
        gate_up, down = self.matrices(w1, w2)
        output.copy_(mixture(hidden_states, gate_up, down, local, weights))

    def matrices(self, gate_up: torch.Tensor, down: torch.Tensor) -> tuple["Matrices", "Matrices"]:
        """Return the experts' matrices in plain numbers."""
        return gate_up, down


class Matrices(Protocol):
    """A matrix an expert, such as a tensor of them."""

    def __getitem__(self, expert: int, /) -> torch.Tensor: ...


def mixture(
    hidden: torch.Tensor, gate_up: Matrices, down: Matrices, experts: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return what a mixture of gated experts makes of each token: [tokens, hidden].

    Args: hidden: [tokens, hidden]. gate_up: [experts, gate above up, hidden]. down: [experts, hidden, intermediate].
        experts: [tokens, choices], which of them; below 0: one of another rank, which adds nothing here.
        weights: [tokens, choices].
    """
    choices, flat = experts.shape[1], experts.flatten()
    order, counts = flat.argsort(stable=True), torch.bincount(flat + 1).tolist()
    made, first = hidden.new_zeros(flat.numel(), hidden.shape[1]), 0
    for expert, count in enumerate(counts, start=-1):
        chosen = order[first : first + count]
        first += count
        if count and expert >= 0:
            gate, up = linear(hidden[chosen // choices], gate_up[expert]).chunk(2, dim=-1)
            made[chosen] = linear(silu(gate) * up, down[expert])
    return (made.view(*experts.shape, -1) * weights.unsqueeze(-1)).sum(1)
