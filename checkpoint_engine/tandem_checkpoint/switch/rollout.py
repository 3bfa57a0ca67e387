"""The server's side: bind what a trainer exported and answer; abort, stop and give the devices back."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from tandem_api.engine import ENGINE_PORT_ROLLOUT, SERVER_PORT, FetchedWeights
from tandem_api.registry import Desired, MemberRecord, Role
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.architectures.split import check_split
from tandem_checkpoint.bearer import ServerGuard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import Manifest
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.protocol import Action
from tandem_checkpoint.switch.selftest import SelfTest
from tandem_checkpoint.switch.side import Act, Announce, Held, Surroundings
from tandem_checkpoint.switch.strategies.choice import start_strategy
from tandem_checkpoint.switch.strategies.strategy import Strategy
from tandem_checkpoint.switch.supply import OtherPods, OwnPod, Supply
from tandem_checkpoint.transfer.exports import Exports

logger = logging.getLogger(__name__)

GUARD = f"{ServerGuard.__module__}.{ServerGuard.__qualname__}"
"""Stands in front of every route of a server: vLLM itself asks for the token below /v1 only."""
DETERMINISTIC = ("--max-num-seqs", "1", "--no-enable-prefix-caching")
"""One sequence at a time, all of its prefix computed: the shape of no sum depends on what else is asked."""


class RolloutSide:
    """See Side."""

    def __init__(self, around: Surroundings, token: GpuToken) -> None:
        self._around = around
        self._token = token
        self._strategy: Strategy | None = None
        self._manifest: Path | None = None
        self._num_bytes = 0
        """Bytes of the tensors that the manifest names."""
        self._bound: int | None = None
        """Generation whose segment the servers bind, or are about to."""
        self._check: asyncio.Task[None] | None = None
        self._ahead: asyncio.Task[None] | None = None
        self._generation: int | None = None
        self._lineage = ""
        self._device_bytes: int | None = None
        spec = around.settings.config.spec
        policy = read_policy_config(Path(spec.policy.model.path))
        check_split(policy, spec.rollout.parallelism.tensor, spec.rollout.parallelism.pipeline)
        layout = segment_layout(policy, spec.policy.dtype.value.lower())
        self._self_test = SelfTest(around, layout)
        self._equal_tensors: int | None = None
        self._supply: Supply = OwnPod(around, layout) if self.awaited else OtherPods(around, layout)

    @property
    def role(self) -> Role:
        return "rollout"

    @property
    def awaited(self) -> bool:
        return self._around.settings.is_hybrid

    @property
    def held(self) -> Held:
        return Held(self._generation, self._lineage, self._device_bytes, self._equal_tensors)

    @property
    def exports(self) -> Exports | None:
        """Return what this pod has fetched; None where its own trainer writes the segments."""
        return self._supply.exports if isinstance(self._supply, OtherPods) else None

    async def fetch(self, generation: int) -> FetchedWeights:
        """Bring a published generation into the idle segment ahead of time. Errors: Conflict, FetchFailed."""
        if not isinstance(self._supply, OtherPods):
            raise Conflict("this pod's own trainer writes its segments; ask a rollout-only pod")
        bound = self._bound
        if generation == self._generation:
            return FetchedWeights(generation=generation, num_bytes=0, sources=(), seconds=0.0)
        if bound is not None and segment_name(bound) == segment_name(generation):
            raise Conflict(f"the segment of generation {generation} is in use: servers bind generation {bound} there")
        return await self._supply.fetch_ahead(generation)

    @property
    def acts(self) -> Mapping[Action, Act]:
        return {
            Action.PREPARE: self._prepare,
            Action.GATHER: self._gather,
            Action.TAKE: self._take,
            Action.LOAD: self._load,
            Action.REVIVE: self._revive,
            Action.ABORT: self._abort,
            Action.STOP: self._stop,
        }

    def record(self) -> MemberRecord:
        settings = self._around.settings
        return MemberRecord(
            incarnation=self._around.incarnation,
            attempt=settings.attempt,
            role="rollout",
            address=settings.address,
            port=ENGINE_PORT_ROLLOUT,
            scheme=settings.scheme,
            servers=tuple(f"{settings.scheme}://{settings.address}:{port}" for port in self._ports()),
        )

    async def start(self, announce: Announce) -> None:
        await self._supply.reserve()
        await self.close()
        commands = [server_command(self._around.settings, port) for port in self._ports()]
        self._strategy = await start_strategy(self._around.settings, commands, self._token.descriptor)

    async def fail(self) -> None:
        await self._free()

    async def leave(self) -> None:
        await self._free()

    async def restore(self) -> None:
        """Nothing: a server's engine that has rejoined acts on the master's word anew."""

    async def first_end(self) -> ChildGone:
        return ChildGone(await self._servers.first_end())

    async def close(self) -> None:
        self._forget_check()
        await self._end_ahead()
        if self._strategy is not None:
            await self._strategy.close()
        self._strategy = None
        self._token.release(kept_bytes=0)

    async def _prepare(self, desired: Desired, stopwatch: Stopwatch) -> None:
        """Have servers that wait; the trainer may need the devices meanwhile, to restore what it exports."""
        with stopwatch.stage("prepare"):
            await self._free()
            await self._end_ahead()
            await self._servers.prepare()

    async def _gather(self, desired: Desired, stopwatch: Stopwatch) -> None:
        """Wait for the weights; from then on compare their checksums beside all else."""
        self._bound = desired.generation
        manifest = await self._supply.gather(desired, stopwatch)
        self._num_bytes = sum(piece.num_bytes for piece in manifest.pieces)
        self._manifest = await asyncio.to_thread(self._write, manifest)
        check = self._supply.check(desired, manifest, stopwatch)
        self._check = asyncio.create_task(check, name="compare the checksums")

    async def _take(self, desired: Desired, stopwatch: Stopwatch) -> None:
        if self._servers.uses_token:
            with stopwatch.wait("token"):
                await self._token.acquire(self._around.settings.config.spec.switch.train_to_infer_deadline_seconds)

    async def _load(self, desired: Desired, stopwatch: Stopwatch) -> None:
        await self._servers.serve(self._checked, stopwatch)
        with stopwatch.stage("verify"):
            self._equal_tensors = await self._self_test.run(desired, self._servers)
        self._around.metrics.bound(self._num_bytes * len(self._ports()), _seconds_of("load", stopwatch))
        self._generation, self._lineage = desired.generation, desired.lineage

    async def _revive(self, desired: Desired, stopwatch: Stopwatch) -> None:
        await self._servers.revive()

    async def _abort(self, desired: Desired, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("abort"):
            await self._servers.abort()

    async def _stop(self, desired: Desired, stopwatch: Stopwatch) -> None:
        """Give the devices back; then have the next servers forked while the trainer trains."""
        with stopwatch.stage("stop"):
            await self._free()
        self._ahead = asyncio.create_task(self._servers.prepare(), name="fork the next servers")

    async def _end_ahead(self) -> None:
        """Wait for the fork of the next servers; one that failed is made again by whoever needs it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await asyncio.gather(ahead, return_exceptions=True)

    async def _checked(self) -> Path:
        """Return the manifest once it may be bound: published, and every checksum right."""
        assert self._check is not None
        assert self._manifest is not None
        await asyncio.shield(self._check)
        return self._manifest

    async def _free(self) -> None:
        """Free the devices, and give the token back only then (invariant 1)."""
        self._forget_check()
        self._generation, self._lineage, self._equal_tensors = None, "", None
        if self._strategy is not None:
            self._device_bytes = held = await self._strategy.release()
            if self._strategy.uses_token:
                self._token.release(kept_bytes=held // _num_devices(self._around.settings))
        self._bound = None

    def _forget_check(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check.add_done_callback(_take_note)
        self._check = None

    @property
    def _servers(self) -> Strategy:
        assert self._strategy is not None
        return self._strategy

    def _ports(self) -> range:
        settings = self._around.settings
        num_servers = _num_devices(settings) // settings.config.spec.rollout.parallelism.num_devices
        return range(SERVER_PORT, SERVER_PORT + num_servers)

    def _write(self, manifest: Manifest) -> Path:
        """Write the manifest for the servers, and remove those of earlier generations."""
        shared = self._around.settings.shared
        path = shared / f"manifest-{manifest.generation}.json"
        path.write_text(manifest.model_dump_json())
        for old in shared.glob("manifest-*.json"):
            if old != path:
                old.unlink(missing_ok=True)
        return path


def _seconds_of(stage: str, stopwatch: Stopwatch) -> float:
    return sum(span.seconds for span in stopwatch.spans if span.stage == stage)


def _take_note(check: "asyncio.Task[None]") -> None:
    """Look at how a check that nobody waits for has ended, so that asyncio does not complain of it."""
    if not check.cancelled():
        check.exception()


def server_command(settings: Settings, port: int) -> Sequence[str]:
    """Return vLLM's command line: ours first, so that the user's own arguments win, but for those of determinism."""
    spec, split = settings.config.spec, settings.config.spec.rollout.parallelism
    arguments = [
        *("--model", spec.policy.model.path, "--served-model-name", "policy"),
        *("--dtype", spec.policy.dtype.value.lower()),
        *("--max-model-len", str(_max_model_length(settings))),
        *("--seed", str(spec.recipe.seed), "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--tensor-parallel-size", str(split.tensor), "--pipeline-parallel-size", str(split.pipeline)),
        *("--disable-uvicorn-access-log", "--enable-scale-out"),  # which has the route that ends requests
    ]
    if settings.config.device == "cpu":
        # A prefix read in two parts costs a seeded sample its random numbers, and a CPU's generator cannot take them
        # back: vLLM's engine ends ("CPU Generator does not use offset"). So each prefix is read at once.
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill", "--distributed-executor-backend"]
        arguments += ["mp" if split.num_devices > 1 else "uni"]
    elif _num_devices(settings) > split.num_devices:
        arguments += ["--device-ids", ",".join(map(str, _devices_of(settings, port)))]
    if settings.token:
        arguments += ["--middleware", GUARD]
    if settings.tls is not None:
        arguments += ["--ssl-certfile", str(settings.tls.cert), "--ssl-keyfile", str(settings.tls.key)]
    arguments += [word for name, value in spec.rollout.engine_args.items() for word in engine_argument(name, value)]
    if spec.rollout.deterministic:
        arguments += DETERMINISTIC
    return (*arguments, "--host", settings.address, "--port", str(port))


def _num_devices(settings: Settings) -> int:
    """Return how many devices this pod has."""
    spec = settings.config.spec
    return spec.hybrid.gpus_per_pod if settings.is_hybrid else spec.rollout.elastic.gpus_per_pod


def _devices_of(settings: Settings, port: int) -> range:
    """Return which of the pod's visible devices the server at a port takes: servers lie side by side."""
    num_devices = settings.config.spec.rollout.parallelism.num_devices
    first = (port - SERVER_PORT) * num_devices
    return range(first, first + num_devices)


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
