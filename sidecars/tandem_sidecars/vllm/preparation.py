"""What has to be set and imported before vLLM is forked: once, in the zygote."""

import functools
import importlib
import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from tandem_sidecars.vllm import modules

logger = logging.getLogger(__name__)

CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
"""Compilation costs more than it gives for small models, threads must not be pinned twice, one process is enough."""
CUDA_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HUMMING_DISABLE_PARALLEL_BUILD": "1",
    "TRITON_F32_DEFAULT": "ieee",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
"""Libraries of linear algebra start a thread a core when they are imported, vLLM's kernels for quantized weights one to
wait for each compiler; the zygote must have one thread when it forks. Triton's matrix products of float32, as in vLLM's
attention, would round what they multiply to ten bits (TF32). FlashInfer samples top-k and top-p only, gives no
log-probabilities of what it sampled, and its import takes seconds that cannot be spent before the fork."""


FORKED_FROM = (
    "vllm.utils.system_utils",
    "vllm.v1.engine.core",
    "vllm.v1.engine.coordinator",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
)
"""Modules of vLLM that start processes, or that these processes begin with."""


def prepare_environment(device: str) -> None:
    """Set what vLLM reads at import; the container's own variables win."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    for name, value in (CPU_ENVIRONMENT if device == "cpu" else CUDA_ENVIRONMENT).items():
        os.environ.setdefault(name, value)


def preload(device: str) -> None:
    """Do all that a server's start has in common with every other's, without touching a device."""
    warnings.filterwarnings("ignore")
    for name in (*modules.COMMON, *(modules.CPU if device == "cpu" else modules.CUDA)):
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.warning("%s is not preloaded, each server imports it anew: %s", name, error)
    import tandem_sidecars.vllm.server  # noqa: F401 - registers the loader and the weight transfer

    _register_model_classes((*modules.DENSE_MODELS, *modules.MIXTURES) if device == "cpu" else modules.DENSE_MODELS)
    _configure_logging()
    _fork_workers()
    _end_with_a_worker()
    _find_plugins_once()
    _hash_configurations_once()
    if device == "cpu":
        _keep_plain_weights()
        _keep_plain_experts()
        _keep_plain_scales()
        _override_kernels_once()
        _list_processors_once()


def _register_model_classes(classes: Sequence[tuple[str, str]]) -> None:
    """Name the classes of supported families: vLLM asks a new process about a class that it has not seen."""
    from vllm.model_executor.models.registry import ModelRegistry

    for module, name in classes:
        ModelRegistry.register_model(name, getattr(importlib.import_module(module), name))


def _configure_logging() -> None:
    """Configure vLLM's loggers here: a server then finds them configured and leaves them alone, as do its processes."""
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging_if_needed

    configure_logging_if_needed(LoggingConfig())
    for name in FORKED_FROM:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "configure_logging"):
            module.configure_logging = configure_logging_if_needed  # type: ignore[attr-defined]


def _find_plugins_once() -> None:
    """Look through the installed packages for plugins once: no package comes or goes while a container lives."""
    from vllm.plugins import STAT_LOGGER_PLUGINS_GROUP
    from vllm.v1.sample.logits_processor import LOGITSPROCS_GROUP

    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[assignment]
    for group in (STAT_LOGGER_PLUGINS_GROUP, LOGITSPROCS_GROUP):
        importlib.metadata.entry_points(group=group)


def _hash_configurations_once() -> None:
    """Remember the fingerprint of each configuration: a server asks for it with each kind of its routes."""
    from vllm.entrypoints.serve.utils import fingerprint

    build = fingerprint.build_system_fingerprint
    built: dict[tuple[int, object, object], str | None] = {}

    def build_once(config: object, mode: object = "full", custom_value: object = None) -> str | None:
        key = (id(config), mode, custom_value)
        if key not in built:
            built[key] = build(config, mode, custom_value)
        return built[key]

    fingerprint.build_system_fingerprint = build_once


def _keep_plain_weights() -> None:
    """Turn prepacking off, oneDNN's and that for AMX: either repacks linear weights and drops the bound original."""
    import vllm._custom_ops
    import vllm.model_executor.layers.utils

    vllm._custom_ops._supports_onednn = False
    vllm.model_executor.layers.utils.check_cpu_sgl_kernel = lambda *_: False


def _keep_plain_experts() -> None:
    """Have experts computed from their weights as they are; vLLM's own kernels for CPUs repack them."""
    from vllm.model_executor.layers.fused_moe.oracle import unquantized

    from tandem_sidecars.vllm.experts import PlainExperts

    choose = unquantized.backend_to_kernel_cls

    def backend_to_kernel_cls(backend: unquantized.UnquantizedMoeBackend) -> list[type]:
        return [PlainExperts] if backend is unquantized.UnquantizedMoeBackend.CPU else choose(backend)

    unquantized.backend_to_kernel_cls = backend_to_kernel_cls


def _keep_plain_scales() -> None:
    """Have FP8 with block scales computed on any CPU, from the weights as they are, in float32 too."""
    import torch
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe
    from vllm.model_executor.layers.fused_moe.oracle import fp8
    from vllm.model_executor.layers.quantization.fp8 import Fp8Config
    from vllm.platforms import PlatformEnum

    from tandem_sidecars.vllm.scaled import PlainScaledExperts, PlainScaledLinear

    choose = fp8.backend_to_kernel_cls
    ours: dict[object, list[type]] = {fp8.Fp8MoeBackend.CPU: [PlainScaledExperts], fp8.Fp8MoeBackend.CPU_W8A8: []}

    def backend_to_kernel_cls(backend: fp8.Fp8MoeBackend) -> list[type]:
        return ours[backend] if backend in ours else choose(backend)

    fp8.backend_to_kernel_cls = backend_to_kernel_cls
    cpu_moe.prepare_fp8_moe_layer_for_cpu = lambda *experts: experts
    linear._POSSIBLE_FP8_BLOCK_KERNELS[PlatformEnum.CPU] = [PlainScaledLinear]
    formats = [torch.float32, *Fp8Config.get_supported_act_dtypes()]
    Fp8Config.get_supported_act_dtypes = classmethod(lambda cls: formats)


def _override_kernels_once() -> None:
    """Put vLLM's CPU kernels in place of the Triton ones here; each engine would search all modules for them again."""
    from vllm.platforms import current_platform

    current_platform.register_triton_kernel_overrides()
    type(current_platform).register_triton_kernel_overrides = classmethod(lambda cls: None)


def _list_processors_once() -> None:
    """Ask lscpu for the machine's processors once; each engine would do so twice."""
    from vllm.utils import cpu_resource_utils

    cpu_resource_utils._get_cpu_list = functools.cache(cpu_resource_utils._get_cpu_list)
    cpu_resource_utils._get_cpu_list()


def _end_with_a_worker() -> None:
    """Have vLLM's engine end as soon as one of its workers has: a starting one would wait for its answer for good."""
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    start = MultiprocExecutor.start_worker_monitor

    def start_worker_monitor(executor: MultiprocExecutor, inline: bool = False) -> None:
        executor.failure_callback = _end
        start(executor, inline)

    def register_failure_callback(executor: MultiprocExecutor, callback: object) -> None:
        """Keep ours: the engine's own is a note to itself, which it reads once it has started."""

    MultiprocExecutor.start_worker_monitor = start_worker_monitor
    MultiprocExecutor.register_failure_callback = register_failure_callback


def _end() -> None:
    os._exit(1)  # no orderly shutdown: the other workers may wait for the one that is gone


def _fork_workers() -> None:
    """Have worker processes forked from the server rather than spawned: a spawn imports everything again."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    for name in FORKED_FROM:
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "get_mp_context"):
            module.get_mp_context = lambda: context  # type: ignore[attr-defined]
