"""All that a server's command line decides, worked out once in the zygote: its forks find it done.

Arguments, vLLM's configuration, the policy's own, tokenizer, chat template and routes depend neither on the weights nor
on a device.
"""

import copy
import gc
import logging
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.serve.utils.fingerprint import get_system_fingerprint
from vllm.platforms import current_platform
from vllm.renderers import BaseRenderer, renderer_from_config
from vllm.tasks import SupportedTask
from vllm.usage.usage_lib import UsageContext
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_sidecars.vllm.arguments import parse

logger = logging.getLogger(__name__)

USAGE = UsageContext.OPENAI_API_SERVER
TASKS: tuple[SupportedTask, ...] = ("generate",)
"""What the supported families can do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a server of one command line is made of."""

    arguments: Namespace
    engine_arguments: AsyncEngineArgs
    config: VllmConfig
    variables: Mapping[str, str]
    """What vLLM has set in the environment meanwhile."""
    app: FastAPI
    """The routes of a server that can do TASKS."""
    renderer: BaseRenderer
    """Tokenizer and chat template at work."""


def make_recipe(words: Sequence[str]) -> Recipe:
    """Work out everything. Errors: whatever vLLM raises where it does not like a word, SystemExit included."""
    arguments = parse(words)
    engine_arguments = AsyncEngineArgs.from_cli_args(arguments)
    _prefer_plain_weights(engine_arguments, read_policy_config(Path(arguments.model)))
    with _noted_environment() as variables:
        config = engine_arguments.create_engine_config(USAGE)
    app = build_app(arguments, TASKS, config.model_config)
    # It fills vLLM's caches of tokenizers and chat templates too, and starts no thread before it is asked something.
    renderer = renderer_from_config(config)
    return Recipe(arguments, engine_arguments, config, variables, app, renderer)


def _prefer_plain_weights(engine_arguments: AsyncEngineArgs, policy: PolicyConfig) -> None:
    """Choose kernels that read weights as they are loaded, and answer right, where the command line leaves it open.

    On a CPU vLLM's rotary kernel takes the strides of latent queries for others, and is wrong by nats; its attention
    for AMX packs kv_b_proj and frees it. On a GPU all kernels for experts but Triton's may shuffle their weights, and
    of those for FP8 with block scales Marlin's repack them; DeepGEMM's round scales to powers of two on newer devices.
    """
    is_cpu = current_platform.is_cpu()
    if is_cpu and policy.kv_lora_rank:
        compilation = copy.deepcopy(engine_arguments.compilation_config)
        if not {"all", "none"} & set(compilation.custom_ops):
            compilation.custom_ops = ["none", *compilation.custom_ops]
        engine_arguments.compilation_config = compilation
        if engine_arguments.attention_backend is None and engine_arguments.attention_config.backend is None:
            engine_arguments.attention_backend = AttentionBackendEnum.CPU_MLA
    if not is_cpu and policy.num_experts and engine_arguments.moe_backend == "auto":
        engine_arguments.moe_backend = "triton"
    if not is_cpu and policy.block_scales is not None and engine_arguments.linear_backend == "auto":
        engine_arguments.linear_backend = "triton"


class Recipes:
    """The recipes of a zygote, by command line."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Recipe | None] = {}

    def recipe_of(self, words: tuple[str, ...]) -> Recipe | None:
        """Return the recipe of a command line; None: it is no good, and a fork that tries it will say why."""
        if words not in self._made:
            self._made[words] = self._make(words)
        return self._made[words]

    def _make(self, words: tuple[str, ...]) -> Recipe | None:
        try:
            recipe = make_recipe(words)
            get_system_fingerprint(recipe.config)
        except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, the zygote must go on for other servers
            return None
        gc.collect()
        gc.freeze()
        num_threads = len(os.listdir("/proc/self/task"))
        if num_threads > 1:
            logger.warning("vLLM's configuration has started %d threads; forking may deadlock", num_threads - 1)
        return recipe


@contextmanager
def _noted_environment() -> Iterator[dict[str, str]]:
    """Take back what is set in the environment meanwhile, and note it: other servers may need other values."""
    before = dict(os.environ)
    noted: dict[str, str] = {}
    try:
        yield noted
    finally:
        noted.update({name: value for name, value in os.environ.items() if before.get(name) != value})
        for name in noted:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
