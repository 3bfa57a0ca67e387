"""vLLM's loader for weight segments: `--load-format tandem_segment`.

On a CPU each parameter is pointed at the mapped segment, nothing is copied; on a GPU it is copied from there. Every
checksum is compared first: a server never answers from bytes that the trainer did not register (invariant 2).
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from tandem_checkpoint.segments.manifest import BrokenSegment, Manifest, verify
from tandem_checkpoint.segments.store import SegmentError, map_for_reading

Report = Callable[[str], None]


class Binding:
    """What the next model shall be bound to; set by the server before the engine is built."""

    manifest: Path | None = None
    on_step: Report = staticmethod(lambda _: None)
    on_failure: Report = staticmethod(lambda _: None)


@register_model_loader("tandem_segment")
class SegmentLoader(BaseModelLoader):  # type: ignore[misc]
    """Binds a model to the segment that the manifest names."""

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing to download: the segment is there."""

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Bind every parameter; raise BrokenSegment where bytes or shapes are not those registered.

        vLLM runs this in a process of its own, whose errors the server never sees: the cause is reported from here.
        """
        assert Binding.manifest is not None
        Binding.on_step("loading")
        try:
            _bind_segment(model, Binding.manifest)
        except (BrokenSegment, SegmentError) as error:
            Binding.on_failure(str(error))
            raise
        Binding.on_step("loaded")


def _bind_segment(model: nn.Module, path: Path) -> None:
    """Check and bind the segment that a manifest names."""
    manifest = Manifest.model_validate_json(path.read_text())
    mapped = map_for_reading(Path(manifest.segment))
    verify(mapped, manifest.pieces)
    bind(model, manifest, torch.frombuffer(mapped, dtype=torch.uint8))


def bind(model: nn.Module, manifest: Manifest, segment: torch.Tensor) -> None:
    """Point or copy each parameter of `model` to its place in `segment` (uint8 [bytes])."""
    parameters = dict(model.named_parameters())
    wanted = {parameter.name for parameter in manifest.parameters}
    if wanted != parameters.keys():
        odd = sorted(wanted ^ parameters.keys())
        raise BrokenSegment(f"server and segment differ in their parameters: {', '.join(odd[:3])}")
    dtype = getattr(torch, manifest.dtype)
    with torch.no_grad():
        for entry in manifest.parameters:
            target = parameters[entry.name]
            if tuple(target.shape) != entry.shape or target.dtype is not dtype:
                raise BrokenSegment(
                    f"{entry.name} is {tuple(target.shape)} {target.dtype} in the server, "
                    f"{entry.shape} {dtype} in the segment"
                )
            num_bytes = target.numel() * target.element_size()
            view = segment[entry.offset_bytes : entry.offset_bytes + num_bytes].view(dtype).view(entry.shape)
            if target.device.type == "cpu":
                target.data = view
            else:
                target.data.copy_(view, non_blocking=True)
