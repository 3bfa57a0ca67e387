"""FP8 with block scales on any CPU: matrices are read as they are loaded, and multiplied by their scales at each use.

vLLM's own kernels need a processor with AMX, and repack what they are given. These are for small policies and for
tests: numbers are exact, and each product dequantises its whole matrix.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import linear
from vllm.model_executor.kernels.linear.scaled_mm import Fp8BlockScaledMMLinearKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    QuantKey,
    kFp8Dynamic128Sym,
    kFp8Static128BlockSym,
)

from tandem_sidecars.block_scales import dequantise
from tandem_sidecars.vllm.experts import Matrices, PlainExperts


class PlainScaledLinear(Fp8BlockScaledMMLinearKernel):  # type: ignore[misc]
    """A product with activations as they are: they are not quantised."""

    apply_input_quant = False

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Leave the weights alone."""

    def apply_block_scaled_mm(
        self,
        A: torch.Tensor,
        B: torch.Tensor,
        As: torch.Tensor,
        Bs: torch.Tensor,
    ) -> torch.Tensor:
        """Return A [tokens, in] times the matrix B [out, in], whose scales are Bs."""
        return linear(A, dequantise(B, Bs).to(A.dtype))


class PlainScaledExperts(PlainExperts):
    """Gated experts of such matrices."""

    @staticmethod
    def _supports_quant_scheme(weight_key: QuantKey | None, activation_key: QuantKey | None) -> bool:
        return (weight_key, activation_key) == (kFp8Static128BlockSym, kFp8Dynamic128Sym)

    def matrices(self, gate_up: torch.Tensor, down: torch.Tensor) -> tuple[Matrices, Matrices]:
        """Return what gives each expert's matrices when it is their turn."""
        return _Scaled(gate_up, self.w1_scale), _Scaled(down, self.w2_scale)


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Experts' matrices, and their scales."""

    matrices: torch.Tensor
    scales: torch.Tensor

    def __getitem__(self, expert: int, /) -> torch.Tensor:
        return dequantise(self.matrices[expert], self.scales[expert])
