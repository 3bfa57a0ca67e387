"""What Megatron-Core takes for granted about CUDA, answered for a CPU.

Megatron-Core 0.16 asks torch.cuda for the current device and makes its small tensors with device="cuda". On a machine
without CUDA these few functions are replaced; the model, the schedules and the optimizer are Megatron's own.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "rand",
    "randn",
    "zeros_like",
    "empty_like",
    "ones_like",
)
CPU = torch.device("cpu")


def adapt_megatron() -> None:
    """Point Megatron's uses of CUDA at the CPU, for this process."""
    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]
    torch.cuda.current_stream = lambda *_: None  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None
    for name in FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    torch.Tensor.type = _cuda_type_name(torch.Tensor.type)  # type: ignore[method-assign]


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a factory function that makes on the CPU what was asked for on CUDA."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.device(kwargs.get("device") or CPU).type == "cuda":
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    return make


def _cuda_type_name(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return Tensor.type that reports CUDA names: gradient clipping asserts torch.cuda.FloatTensor."""

    def type_of(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return original(self, *args, **kwargs)
        return str(original(self)).replace("torch.", "torch.cuda.", 1)

    return type_of
