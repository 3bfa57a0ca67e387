"""The real zygote, but memory that nobody writes is not a number; policies of some names get a fault in the model."""

import torch
from torch import nn

from tandem_sidecars.vllm.preparation import prepare_environment


def _leave_buffer_unfilled(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith("cos_sin_cache"):
            buffer.data = torch.empty_like(buffer)


def _keep_copy_of_weights(model: nn.Module) -> None:
    head = model.get_submodule("lm_head")
    head.packed = head.get_parameter("weight").detach().clone()


def _derive_nothing(_: nn.Module) -> None:
    from tandem_sidecars.vllm import binding

    setattr(binding, "remake", lambda *_, **__: None)  # noqa: B010 - a name of theirs


FAULTS = {
    "unfilled-buffer": _leave_buffer_unfilled,
    "copy-of-weights": _keep_copy_of_weights,
    "stale": _derive_nothing,
}
"""By the name of a policy's folder."""


def _main() -> None:
    prepare_environment("cpu")
    from vllm.config import ModelConfig
    from vllm.model_executor.model_loader import register_model_loader

    from tandem_sidecars.vllm import __main__, loader

    class FaultyLoader(loader.SegmentLoader):
        def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
            super().load_weights(model, model_config)
            for name, plant in FAULTS.items():
                if model_config.model.endswith(name):
                    plant(model)

    register_model_loader(loader.LOAD_FORMAT)(FaultyLoader)
    torch.use_deterministic_algorithms(True, warn_only=True)
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # noqa: B010 - not in the stubs
    __main__.main()


if __name__ == "__main__":
    _main()
