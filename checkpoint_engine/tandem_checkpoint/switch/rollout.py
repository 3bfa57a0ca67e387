"""The server's side: bind what a trainer exported and answer; abort, stop and give the devices back."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from tandem_api.engine import ENGINE_PORT_ROLLOUT, SERVER_PORT
from tandem_api.registry import Desired, MemberRecord, MemberState, Role
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import Manifest
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.side import Outcome, Surroundings
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.restart import Restart
from tandem_checkpoint.switch.supply import OtherPods, OwnPod, Supply

logger = logging.getLogger(__name__)

ZYGOTE_SECONDS = 300.0
"""Time for the zygote's imports on a busy machine."""
ZYGOTE_PROGRAM = "tandem_sidecars.vllm"


class RolloutSide:
    """See Side."""

    def __init__(self, around: Surroundings, token: GpuToken) -> None:
        self._around = around
        self._token = token
        self._strategy: Restart | None = None
        spec = around.settings.config.spec
        layout = segment_layout(read_policy_config(Path(spec.policy.model.path)), spec.policy.dtype.value.lower())
        self._supply: Supply = OwnPod(around, layout) if self.awaited else OtherPods(around, layout)

    @property
    def role(self) -> Role:
        return "rollout"

    @property
    def awaited(self) -> bool:
        return self._around.settings.is_hybrid

    def record(self) -> MemberRecord:
        settings = self._around.settings
        return MemberRecord(
            incarnation=self._around.incarnation,
            attempt=settings.attempt,
            role="rollout",
            address=settings.address,
            port=ENGINE_PORT_ROLLOUT,
            servers=tuple(f"http://{settings.address}:{port}" for port in self._ports()),
        )

    async def start(self) -> Outcome:
        settings = self._around.settings
        await self._supply.reserve()
        zygote = await Zygote.start(
            [sys.executable, "-m", ZYGOTE_PROGRAM, "--device", settings.config.device],
            child_variables(settings) | {"VLLM_API_KEY": settings.token},
            inherit=(self._token.descriptor,),
            deadline_seconds=ZYGOTE_SECONDS,
        )
        self._strategy = Restart(zygote, [server_command(settings, port) for port in self._ports()])
        return Outcome(MemberState.IDLE, None)

    async def to_infer(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        """Prepare the servers while trainers export; once the weights are here and the devices free, serve."""
        strategy = self._servers
        try:
            await strategy.prepare()
            manifest = self._write(await self._supply.bring(desired, stopwatch))
            await self._token.acquire(self._around.settings.config.spec.switch.train_to_infer_deadline_seconds)
            await strategy.serve(manifest, stopwatch)
        except BaseException:  # a cancelled switch too frees the devices; it is raised again
            await strategy.stop()
            self._token.release()
            raise
        return Outcome(MemberState.SERVING, desired.generation)

    async def to_train(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        with stopwatch.stage("abort"):
            await self._servers.abort()
        with stopwatch.stage("stop"):
            await self._servers.stop()
            self._token.release()
        return Outcome(MemberState.IDLE, None, device_bytes=0)

    async def first_end(self) -> str:
        return await self._servers.first_end()

    async def close(self) -> None:
        if self._strategy is not None:
            await self._strategy.close()
        self._token.release()

    @property
    def _servers(self) -> Restart:
        assert self._strategy is not None
        return self._strategy

    def _ports(self) -> range:
        spec = self._around.settings.config.spec
        num_devices = spec.hybrid.gpus_per_pod if self.awaited else spec.rollout.elastic.gpus_per_pod
        return range(SERVER_PORT, SERVER_PORT + num_devices // spec.rollout.parallelism.tensor)

    def _write(self, manifest: Manifest) -> Path:
        """Write the manifest for the servers, and remove those of earlier generations."""
        shared = self._around.settings.shared
        path = shared / f"manifest-{manifest.generation}.json"
        path.write_text(manifest.model_dump_json())
        for old in shared.glob("manifest-*.json"):
            if old != path:
                old.unlink(missing_ok=True)
        return path


def server_command(settings: Settings, port: int) -> Sequence[str]:
    """Return vLLM's command line: ours first, so that the user's own arguments win."""
    spec = settings.config.spec
    arguments = [
        *("--model", spec.policy.model.path, "--served-model-name", "policy"),
        *("--load-format", "tandem_segment", "--dtype", spec.policy.dtype.value.lower()),
        *("--max-model-len", str(_max_model_length(settings))),
        *("--seed", str(spec.recipe.seed), "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--tensor-parallel-size", str(spec.rollout.parallelism.tensor), "--disable-uvicorn-access-log"),
    ]
    if settings.config.device == "cpu":
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
    arguments += [word for name, value in spec.rollout.engine_args.items() for word in engine_argument(name, value)]
    return (*arguments, "--host", settings.address, "--port", str(port))


def _max_model_length(settings: Settings) -> int:
    spec = settings.config.spec
    policy = read_policy_config(Path(spec.policy.model.path))
    return min(spec.policy.max_length_tokens, policy.max_positions)


def engine_argument(name: str, value: JsonValue) -> list[str]:
    """Return one of vLLM's engine arguments as command-line words; true is a flag, false its negation."""
    option = "--" + name.replace("_", "-")
    if value is True:
        return [option]
    if value is False:
        return ["--no-" + name.replace("_", "-")]
    return [option, value if isinstance(value, str) else json.dumps(value)]
