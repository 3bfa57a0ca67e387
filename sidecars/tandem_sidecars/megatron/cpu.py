"""What Megatron-Core takes for granted about CUDA, answered for a CPU.

Megatron-Core 0.16 asks torch.cuda for the current device and makes its small tensors with device="cuda". On a machine
without CUDA these few functions are replaced; the model, the schedules and the optimizer are Megatron's own.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from tandem_sidecars.megatron.uneven import take_uneven_parts

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
    from megatron.core.transformer.moe import token_dispatcher

    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]
    torch.cuda.current_stream = lambda *_: None  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None
    for name in FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    take_uneven_parts()
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.cuda.Stream = Stream  # type: ignore[assignment,misc]
    torch.cuda.Event = Event  # type: ignore[assignment,misc]
    token_dispatcher.maybe_move_tensor_to_cpu = _to_host
    torch.Tensor.type = _cuda_type_name(torch.Tensor.type)  # type: ignore[method-assign]


class Event:
    """A point in a stream: on a CPU it is always past."""

    def synchronize(self) -> None:
        """Return at once."""


class Stream:
    """The order of work on a device: a CPU has one, the program's."""

    def wait_stream(self, _: object) -> None:
        """Return at once."""

    def record_event(self) -> Event:
        """Return a point that is past."""
        return Event()


def _to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Return what the token dispatcher counts with: NumPy arrays where it sends and receives by them."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


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
