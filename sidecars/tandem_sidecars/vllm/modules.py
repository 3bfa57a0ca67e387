"""What a server imports while it starts: the difference of sys.modules over a start, named by what pulls it in.

A name that a version of vLLM does not have costs nothing but a warning; one that is missing here costs each start its
import.
"""

DENSE_MODELS = (
    ("vllm.model_executor.models.llama", "LlamaForCausalLM"),
    ("vllm.model_executor.models.qwen2", "Qwen2ForCausalLM"),
    ("vllm.model_executor.models.qwen3", "Qwen3ForCausalLM"),
)
"""Where vLLM has the classes of supported families."""
MIXTURES = (
    ("vllm.model_executor.models.mixtral", "MixtralForCausalLM"),
    ("vllm.model_executor.models.qwen3_moe", "Qwen3MoeForCausalLM"),
    ("vllm.model_executor.models.deepseek_v2", "DeepseekV3ForCausalLM"),
)
"""Those with experts. With CUDA they are left to each server: their kernels' packages may ask the device at import."""
COMMON = (
    "fastapi.staticfiles",
    "model_hosting_container_standards.sagemaker",
    "multiprocessing.popen_fork",
    "prometheus_fastapi_instrumentator",
    "pydantic.v1",
    "transformers.models.qwen2.configuration_qwen2",
    "transformers.models.qwen2.tokenization_qwen2_fast",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
    "uvloop",
    "vllm.entrypoints.anthropic.api_router",
    "vllm.entrypoints.cohere.api_router",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.generative_scoring.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.openai.chat_completion.api_router",
    "vllm.entrypoints.openai.chat_completion.batch_serving",
    "vllm.entrypoints.openai.completion.api_router",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.models.api_router",
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.rl.factories",
    "vllm.entrypoints.scale_out.derender.api_router",
    "vllm.entrypoints.scale_out.render.api_router",
    "vllm.entrypoints.scale_out.token_in_token_out.api_router",
    "vllm.entrypoints.serve.elastic_ep.api_router",
    "vllm.entrypoints.serve.instrumentator.metrics",
    "vllm.entrypoints.serve.instrumentator.offline_docs",
    "vllm.entrypoints.serve.lora.api_router",
    "vllm.entrypoints.serve.middleware.authenticate",
    "vllm.entrypoints.serve.profile.api_router",
    "vllm.entrypoints.serve.tokenize.api_router",
    "vllm.entrypoints.serve.utils.fingerprint",
    "vllm.entrypoints.serve.utils.orca_metrics",
    "vllm.entrypoints.serve.utils.sse_keep_alive",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.models.registry",
    "vllm.renderers.hf",
    "vllm.tokenizers",
    "vllm.transformers_utils.chat_templates",
    "vllm.v1.core.kv_cache_coordinator",
    "vllm.v1.core.kv_cache_manager",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.coordinator",
    "vllm.v1.engine.core",
    "vllm.v1.engine.utils",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.metrics.reader",
    "vllm.v1.pool.flash_maxsim.flash_maxsim_rerank",
    "vllm.v1.structured_output",
)
CPU = (
    "vllm.model_executor.layers.fused_moe.router.bf16x3_router_gemm_rocm",
    "vllm.triton_utils.dispatcher",
    "vllm.utils.cpu_triton_utils",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.attention.backends.mla.cpu_mla",
    "vllm.v1.attention.backends.mla.prefill.cpu_sdpa",
    "vllm.v1.attention.backends.mla.prefill.zen_cpu_sdpa",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.worker.cpu_worker",
)
CUDA = ("vllm.v1.worker.gpu_model_runner", "vllm.v1.worker.gpu_worker")
"""Neither flashinfer nor what imports it (vllm.compilation.backends, flashinfer's attention): such an import asks the
device, and where a process has done that, CUDA fails in each of its forks."""
