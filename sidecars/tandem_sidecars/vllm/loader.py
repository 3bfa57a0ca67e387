"""vLLM's loader for weight segments, `--load-format tandem_segment`: it loads nothing.

The engine is built before there are weights. They come by vLLM's weight transfer (see transfer.py), and nothing is
generated until then. On a GPU the engine runs the model while it is built, to measure it and to capture graphs; its
weights are zero then.
"""

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

LOAD_FORMAT = "tandem_segment"


@register_model_loader(LOAD_FORMAT)
class SegmentLoader(BaseModelLoader):  # type: ignore[misc]
    """Builds a model whose weights come later."""

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing to download."""

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Clear a GPU's memory, where nobody knows what it holds; leave a CPU's, whose pages are not even there yet."""
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.device.type != "cpu":
                    parameter.zero_()
