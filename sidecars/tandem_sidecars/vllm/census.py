"""What a server's model holds besides its parameters, and why it is right with every generation.

No generation brings buffers, nor what vLLM makes of weights and keeps beside them. Buffers are as the constructor has
left them, for no folder is loaded. Whatever appears once weights count as loaded is made of weights: nobody would make
it anew with the next ones. So a tensor that is not known here stops the server before it serves anything.
"""

from collections.abc import Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

import torch
from torch import nn

SCALES = frozenset({"_k_scale", "_v_scale", "_q_scale", "_prob_scale", "_k_scale_cpu", "_v_scale_cpu"})
"""Of a cache of keys and values in 8 bits: 1 where there is none, set by each attention's constructor."""
ROTATIONS = "cos_sin_cache"
"""Cosines left, sines right, a row a position; computed from config.json by the constructor."""
EXPERT_PLACES = "_expert_map"
"""By expert: its place on this rank, or -1; set by the constructor."""
PLAIN_KERNELS = frozenset({"PlainExperts", "PlainScaledExperts", "TritonExperts", "BatchedTritonExperts"})
"""Kernels for experts that read weights and scales as they are loaded; others repack them in place."""
PLAIN_PRODUCTS = frozenset(
    {
        "PlainScaledLinear",
        "TritonFp8BlockScaledMMKernel",
        "CutlassFp8BlockScaledMMKernel",
        "BlockWiseTorchFP8ScaledMMLinearKernel",
    }
)
"""Kernels for matrices in FP8 that read weight and scales as they are loaded; others repack or round them."""
NUM_ROWS = 16
"""Of a table of positions that are looked at."""
TOLERANCE = 2e-2
"""Of the square of a number in bfloat16."""
MAX_DEPTH = 4
"""Objects within objects that belong to a module: a method of quantization, its kernel, that kernel's parts."""

Tensors = dict[str, torch.Tensor]


def kept_beside(model: nn.Module) -> Tensors:
    """Return tensors that are neither parameters nor buffers but attributes of a model's modules and their parts."""
    return {
        _joined(path, name): tensor
        for path, module in model.named_modules()
        for name, tensor in _attributes(module, MAX_DEPTH).items()
        if tensor.numel()
    }


def misfit(model: nn.Module, built_with: Tensors, held_experts: range | None) -> str | None:
    """Return why a model that counts as loaded cannot be served from segments; None: it can.

    Args: built_with: what it kept beside before that. held_experts: this rank's; None: each rank has all.
    """
    known = {id(item) for item in [*model.parameters(), *model.buffers(), *built_with.values()]}
    for name, tensor in kept_beside(model).items():
        if id(tensor) not in known and not _is_scale(name, tensor):
            return f"{name} is made of weights, and nothing here would make it of the next ones"
    for name, tensor in model.named_buffers():
        reason = _oddness(name.rpartition(".")[2], tensor, held_experts)
        if tensor.numel() and reason:
            return f"{name} {reason}"
    for module in model.modules():
        kernel, product = _kernels_of(module)
        if kernel and kernel not in PLAIN_KERNELS:
            return f"{kernel} repacks the weights of experts, and would not repack the next ones"
        if product and product not in PLAIN_PRODUCTS:
            return f"{product} repacks matrices in FP8 or rounds their scales, and would not those of the next ones"
    return None


def _oddness(kind: str, buffer: torch.Tensor, held_experts: range | None) -> str | None:
    """Return what is wrong with a buffer; None: nothing."""
    if kind in SCALES:
        return None if _is_scale(kind, buffer) else "is not 1, as without a folder to load it should be"
    if kind == ROTATIONS:
        return None if _are_rotations(buffer) else "is no table of rotations; the constructor has not filled it"
    if kind == EXPERT_PLACES:
        return None if held_experts is not None and _holds(buffer, held_experts) else "deals out experts otherwise"
    return "is a buffer that no generation brings; without a folder to load nobody fills it"


def _is_scale(name: str, tensor: torch.Tensor) -> bool:
    return name.rpartition(".")[2] in SCALES and bool((tensor == 1).all())


def _are_rotations(table: torch.Tensor) -> bool:
    """Tell whether rows are cosines and sines of some angles, times one number; of no angle at the first position."""
    rows = table[torch.linspace(0, len(table) - 1, NUM_ROWS, device=table.device).long()].float()
    cosines, sines = rows.chunk(2, dim=-1)
    squares = cosines.square() + sines.square()
    square = float(squares[0, 0])
    return square > 0.0 and not sines[0].any() and bool(((squares - square).abs() <= TOLERANCE * square).all())


def _holds(places: torch.Tensor, experts: range) -> bool:
    """Tell whether just these experts have places on this rank, in this order."""
    wanted = [expert - experts.start if expert in experts else -1 for expert in range(len(places))]
    return bool(places.tolist() == wanted)


def _kernels_of(module: nn.Module) -> tuple[str | None, str | None]:
    """Return the names of the kernels that a layer of experts, or a matrix in FP8, uses, if it is one."""
    method = getattr(module, "quant_method", None)
    experts, product = getattr(method, "moe_kernel", None), getattr(method, "fp8_linear", None)
    return (
        None if experts is None else type(experts.fused_experts).__name__,
        None if product is None else type(product).__name__,
    )


def _attributes(owner: Any, depth: int) -> Tensors:
    """Return tensors that an object holds itself, or through functions and objects of vLLM's that are no modules."""
    found: Tensors = {}
    for name, value in _members(owner):
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif depth and (isinstance(value, list | tuple | Mapping) or _is_part(value)):
            found |= {_joined(name, key): tensor for key, tensor in _attributes(value, depth - 1).items()}
    return found


def _members(owner: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, Mapping):
        yield from ((str(key), value) for key, value in owner.items())
    elif isinstance(owner, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(owner))
    elif isinstance(owner, FunctionType):
        cells = zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if cell != CellType())
    else:
        hidden = ("_parameters", "_buffers", "_modules") if isinstance(owner, nn.Module) else ()
        yield from ((name, value) for name, value in getattr(owner, "__dict__", {}).items() if name not in hidden)


def _is_part(value: Any) -> bool:
    """Tell whether a function or an object belongs to a layer: no module, which comes of itself."""
    module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    is_other = isinstance(value, nn.Module | type)
    return not is_other and (module or "").startswith(("vllm.model_executor.", "vllm.v1.attention."))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
