"""What has to be set and imported before vLLM is forked: once, in the zygote."""

import importlib
import logging
import os
import sys
import warnings

logger = logging.getLogger(__name__)

CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Compilation costs more than it gives for small models, threads must not be pinned twice, and one process is enough:
https://docs.vllm.ai/en/latest/getting_started/installation/cpu/ names the variables."""
MODULES = (
    "uvicorn",
    "uvloop",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.rl.factories",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.registry",
    "vllm.renderers",
    "vllm.tokenizers",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.coordinator",
    "vllm.v1.engine.core",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.structured_output",
    "transformers.models.qwen2.configuration_qwen2",
)
"""What a server imports while it starts, measured as the difference of sys.modules over a start."""
CPU_MODULES = ("vllm.v1.attention.backends.cpu_attn", "vllm.v1.worker.cpu_model_runner", "vllm.v1.worker.cpu_worker")
CUDA_MODULES = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu_worker")


def prepare_environment(device: str) -> None:
    """Set what vLLM reads at import; the container's own variables win."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device == "cpu":
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def preload(device: str) -> None:
    """Import all that a server needs without touching a device, and have vLLM fork what it would spawn."""
    warnings.filterwarnings("ignore")
    for name in (*MODULES, *(CPU_MODULES if device == "cpu" else CUDA_MODULES)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.warning("%s is not preloaded, each server imports it anew: %s", name, error)
    import tandem_sidecars.vllm.loader
    import tandem_sidecars.vllm.server  # noqa: F401 - registers the loader
    import vllm._custom_ops

    if device == "cpu":
        # oneDNN would repack each linear weight and drop the original: bound weights must stay what they are.
        vllm._custom_ops._supports_onednn = False
    _register_model_classes()
    _fork_workers()


def _register_model_classes() -> None:
    """Name the classes of the supported families: vLLM asks a new process about a class that it has not seen."""
    from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
    from vllm.model_executor.models.registry import ModelRegistry

    ModelRegistry.register_model("Qwen2ForCausalLM", Qwen2ForCausalLM)


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
