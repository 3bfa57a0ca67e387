"""What has to be set and imported before vLLM is forked: once, in the zygote."""

import importlib
import logging
import os
import sys
import warnings

from tandem_sidecars.vllm import modules

logger = logging.getLogger(__name__)

CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Compilation costs more than it gives for small models, threads must not be pinned twice, one process is enough."""


def prepare_environment(device: str) -> None:
    """Set what vLLM reads at import; the container's own variables win."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device == "cpu":
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def preload(device: str) -> None:
    """Do all that a server's start has in common with every other's, without touching a device."""
    warnings.filterwarnings("ignore")
    for name in (*modules.COMMON, *(modules.CPU if device == "cpu" else modules.CUDA)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.warning("%s is not preloaded, each server imports it anew: %s", name, error)
    import tandem_sidecars.vllm.loader
    import tandem_sidecars.vllm.server  # noqa: F401 - registers the loader

    _register_model_classes()
    _configure_logging()
    _fork_workers()
    if device == "cpu":
        _keep_plain_weights()
        _override_kernels_once()


def _register_model_classes() -> None:
    """Name the classes of the supported families: vLLM asks a new process about a class that it has not seen."""
    from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
    from vllm.model_executor.models.registry import ModelRegistry

    ModelRegistry.register_model("Qwen2ForCausalLM", Qwen2ForCausalLM)


def _configure_logging() -> None:
    """Configure vLLM's loggers here: a server then finds them configured and leaves them alone."""
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging_if_needed

    configure_logging_if_needed(LoggingConfig())


def _keep_plain_weights() -> None:
    """Turn oneDNN's prepacking off: it would repack each linear weight and drop the bound original."""
    import vllm._custom_ops

    vllm._custom_ops._supports_onednn = False


def _override_kernels_once() -> None:
    """Put vLLM's CPU kernels in place of the Triton ones here; each engine would search all modules for them again."""
    from vllm.platforms import current_platform

    current_platform.register_triton_kernel_overrides()
    type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


def _fork_workers() -> None:
    """Have worker processes forked from the server rather than spawned: a spawn imports everything again."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    for name in (
        "vllm.utils.system_utils",
        "vllm.v1.engine.utils",
        "vllm.v1.engine.coordinator",
        "vllm.v1.executor.multiproc_executor",
    ):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "get_mp_context"):
            module.get_mp_context = lambda: context  # type: ignore[attr-defined]
