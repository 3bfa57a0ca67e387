"""What a server's model holds besides its parameters: what is made of weights or left unfilled is found out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tandem_sidecars.block_scales import dequantise, quantise
from tandem_sidecars.vllm.census import kept_beside, misfit
from tandem_sidecars.vllm.derived import derived_parameters, remake

HEADS, KEY, VALUE, RANK = 2, 3, 5, 4


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(40.0), 10.0 ** -torch.arange(8.0))
        self.register_buffer("cos_sin_cache", 1.2 * torch.cat([angles.cos(), angles.sin()], dim=-1))


class Experts(nn.Module):
    """A layer of eight experts, of which this rank has the last four."""

    def __init__(self) -> None:
        super().__init__()
        self.w2_weight = nn.Parameter(torch.ones(4, 2, 2))
        self.register_buffer("_expert_map", torch.tensor([-1, -1, -1, -1, 0, 1, 2, 3]))
        self.quant_method = Method(Kernel(PlainExperts()))


class PlainExperts:
    """A kernel that reads the plain weights; its name is what counts."""


class RepackingExperts:
    """Another."""


class RoundingProduct:
    """A kernel for matrices in FP8 that changes their scales."""


@dataclass
class Kernel:
    fused_experts: object


@dataclass
class Method:
    moe_kernel: Kernel
    kept: dict[str, torch.Tensor] = field(default_factory=dict)


Method.__module__ = Kernel.__module__ = "vllm.model_executor.layers.planted"


class MLAAttention(nn.Module):
    """Latent attention, as vLLM leaves it behind: two parameters that are views of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qk_nope_head_dim, self.v_head_dim, self.kv_lora_rank = HEADS, KEY, VALUE, RANK
        self.kv_b_proj = nn.Linear(RANK, HEADS * (KEY + VALUE), bias=False)
        latent = self.kv_b_proj.weight.detach().T.view(RANK, HEADS, KEY + VALUE)
        self.W_UK_T = nn.Parameter(latent[..., :KEY].permute(1, 2, 0), requires_grad=False)
        self.W_UV = nn.Parameter(latent[..., KEY:].transpose(0, 1), requires_grad=False)

    def absorbed(self, query: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return queries in the latent space [heads, rank], and values [heads, value] of a latent."""
        return torch.einsum("np,npl->nl", query, self.W_UK_T), torch.einsum("l,nlv->nv", latent, self.W_UV)

    def plain(self, query: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same from the weight itself."""
        by_head = self.kv_b_proj.weight.view(HEADS, KEY + VALUE, RANK)
        return torch.einsum("np,npl->nl", query, by_head[:, :KEY]), by_head[:, KEY:] @ latent


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary = Rotary()
        self.experts = Experts()
        self.attention = MLAAttention()
        self.register_buffer("_k_scale", torch.tensor(1.0))


@pytest.fixture
def model() -> Model:
    return Model()


def test_a_model_as_it_should_be_built_fits(model: Model) -> None:
    assert misfit(model, kept_beside(model), range(4, 8)) is None


def _no_number(model: Model) -> None:
    model.rotary.cos_sin_cache = torch.full((40, 16), torch.nan)


def _zero(model: Model) -> None:
    model.rotary.cos_sin_cache = torch.zeros(40, 16)


def _noise(model: Model) -> None:
    model.rotary.cos_sin_cache = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))


def _scale(model: Model) -> None:
    model._k_scale = torch.tensor(torch.nan)


def _unknown_buffer(model: Model) -> None:
    model.register_buffer("normalizer", torch.empty(1))


def _attribute(model: Model) -> None:
    model.experts.packed = model.experts.w2_weight.detach().clone()


def _in_a_part(model: Model) -> None:
    model.experts.quant_method.kept["packed"] = torch.ones(3)


def _in_a_closure(model: Model) -> None:
    packed = torch.ones(3)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        return x @ packed

    multiply.__module__ = "vllm.model_executor.layers.utils"
    vars(model.experts)["multiply"] = multiply


def _other_order(model: Model) -> None:
    model.experts._expert_map = torch.tensor([-1, 0, -1, 1, -1, 2, -1, 3])


def _other_kernel(model: Model) -> None:
    model.experts.quant_method.moe_kernel.fused_experts = RepackingExperts()


def _other_product(model: Model) -> None:
    model.attention.kv_b_proj.quant_method = SimpleNamespace(fp8_linear=RoundingProduct())  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (_no_number, "rotary.cos_sin_cache is no table of rotations; the constructor has not filled it"),
        (_zero, "rotary.cos_sin_cache is no table of rotations; the constructor has not filled it"),
        (_noise, "rotary.cos_sin_cache is no table of rotations; the constructor has not filled it"),
        (_scale, "_k_scale is not 1, as without a folder to load it should be"),
        (_unknown_buffer, "normalizer is a buffer that no generation brings; without a folder to load nobody fills it"),
        (_attribute, "experts.packed is made of weights, and nothing here would make it of the next ones"),
        (_in_a_part, "experts.quant_method.kept.packed is made of weights, and nothing here would"),
        (_in_a_closure, "experts.multiply.packed is made of weights, and nothing here would"),
        (_other_order, "experts._expert_map deals out experts otherwise"),
        (_other_product, "RoundingProduct repacks matrices in FP8 or rounds their scales, and would not"),
        (_other_kernel, "RepackingExperts repacks the weights of experts, and would not repack the next ones"),
    ],
)
def test_what_the_next_weights_would_not_reach_is_found(
    model: Model, plant: Callable[[Model], None], reason: str
) -> None:
    built_with = kept_beside(model)
    plant(model)

    assert (misfit(model, built_with, range(4, 8)) or "").startswith(reason)


def test_what_a_model_was_built_with_is_not_made_of_weights(model: Model) -> None:
    _attribute(model)

    assert misfit(model, kept_beside(model), range(4, 8)) is None


@pytest.mark.parametrize("points", [True, False])
def test_latent_attention_follows_its_weight(model: Model, points: bool) -> None:
    query, latent = torch.randn(HEADS, KEY), torch.randn(RANK)
    weight = model.attention.kv_b_proj.weight
    weight.data = torch.randn_like(weight)

    remake(derived_parameters(model), points=points)

    assert _largest_difference(model.attention, query, latent) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("points", [True, False])
def test_latent_attention_follows_a_weight_in_fp8_and_its_scales(model: Model, points: bool) -> None:
    query, latent = torch.randn(HEADS, KEY), torch.randn(RANK)
    projection = model.attention.kv_b_proj
    quantised, scales = quantise(torch.randn_like(projection.weight))
    projection.weight = nn.Parameter(quantised, requires_grad=False)
    projection.weight_scale_inv = nn.Parameter(scales, requires_grad=False)

    remake(derived_parameters(model), points=points)

    projection.weight = nn.Parameter(dequantise(quantised, scales), requires_grad=False)
    assert _largest_difference(model.attention, query, latent) == pytest.approx(0.0, abs=1e-5)


def test_latent_attention_that_is_left_alone_does_not(model: Model) -> None:
    query, latent = torch.randn(HEADS, KEY), torch.randn(RANK)
    weight = model.attention.kv_b_proj.weight

    weight.data = torch.randn_like(weight)

    assert _largest_difference(model.attention, query, latent) > 0.1


def _largest_difference(attention: Any, query: torch.Tensor, latent: torch.Tensor) -> float:
    pairs = zip(attention.absorbed(query, latent), attention.plain(query, latent), strict=True)
    return max(float((one - other).detach().abs().max()) for one, other in pairs)
