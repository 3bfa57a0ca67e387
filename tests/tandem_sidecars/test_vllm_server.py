"""Real vLLM servers, forked from one zygote: what they answer is what the segment holds, and they leave nothing."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
import torch
from pydantic import BaseModel

from tandem_checkpoint.process.child import ChildGone, group_exists
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.rollout import ZYGOTE_PROGRAM, server_command
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.restart import Restart
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import TOKEN, job_config, settings_of
from tests.tandem_sidecars.generations import Generation, write_generation
from tests.tandem_sidecars.policies import changed_policy, logprobs, write_policy
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 1e-5
"""Nats between transformers and the server, float32 on both sides."""
ZYGOTE_SECONDS = 240.0
SERVE_SECONDS = 120.0
PORT = 8000
PROMPT = (3, 9, 27, 17, 51, 25)
CHANGED = "model.layers.1.mlp.down_proj.weight"


class Logprobs(BaseModel):
    token_logprobs: tuple[float, ...]


class Choice(BaseModel):
    token_ids: tuple[int, ...]
    logprobs: Logprobs
    finish_reason: str


class Completion(BaseModel):
    choices: tuple[Choice, ...]


@dataclass(slots=True)
class Engine:
    """One zygote, and servers of any policy forked from it."""

    zygote: Zygote
    address: str

    def settings(self, policy: Path) -> Settings:
        config = job_config(policy, engine_args={"kv_cache_memory_bytes": 33554432, "max_num_seqs": 256})
        return settings_of(config, policy.parent, self.address)

    @asynccontextmanager
    async def prepared(self, policy: Path) -> AsyncIterator[Restart]:
        """Fork one server of a policy; it is gone at the end."""
        strategy = Restart(self.zygote, [server_command(self.settings(policy), PORT)])
        await strategy.prepare()
        try:
            yield strategy
        finally:
            await strategy.stop()

    @asynccontextmanager
    async def serving(self, policy: Path, generation: Generation) -> AsyncIterator[Restart]:
        async with self.prepared(policy) as strategy:
            await serve(strategy, generation)
            yield strategy

    async def complete(self, num_samples: int = 4, max_tokens: int = 12, ignore_eos: bool = False) -> Completion:
        """Sample from the running server as the master does."""
        body = {
            "model": "policy",
            "prompt": PROMPT,
            "n": num_samples,
            "max_tokens": max_tokens,
            "temperature": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": ignore_eos,
            "seed": 5,
        }
        async with httpx.AsyncClient(timeout=SERVE_SECONDS, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            response = await client.post(f"http://{self.address}:{PORT}/v1/completions", json=body)
        return Completion.model_validate_json(response.raise_for_status().content)


async def serve(strategy: Restart, generation: Generation) -> None:
    async with asyncio.timeout(SERVE_SECONDS):
        await strategy.serve(generation.manifest, Stopwatch())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(untied_policy: Path) -> AsyncIterator[Engine]:
    address = free_address()
    settings = settings_of(job_config(untied_policy), untied_policy.parent, address)
    zygote = await Zygote.start(
        [sys.executable, "-m", ZYGOTE_PROGRAM, "--device", "cpu"],
        child_variables(settings)
        | {"VLLM_API_KEY": TOKEN, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        inherit=(),
        deadline_seconds=ZYGOTE_SECONDS,
    )
    yield Engine(zygote, address)
    await zygote.kill()


@pytest.fixture(scope="module")
def padded_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose vocabulary vLLM pads from 70 rows to 128."""
    return write_policy(tmp_path_factory.mktemp("padded") / "policy", tied=False, vocabulary=70)


def largest_gap(completion: Completion, policy: Path) -> float:
    """Return the largest distance between the server's log-probabilities and those that transformers gives."""
    return max(_gap(choice, policy) for choice in completion.choices)


def _gap(choice: Choice, policy: Path) -> float:
    expected = logprobs(policy, (*PROMPT, *choice.token_ids))[len(PROMPT) - 1 :]
    return max(abs(one - other) for one, other in zip(choice.logprobs.token_logprobs, expected, strict=True))


def shared_memory_of(pid: int) -> Sequence[Path]:
    """Return the files in /dev/shm that a server and its engine have mapped."""
    server = psutil.Process(pid)
    maps = [item.path for process in (server, *server.children(recursive=True)) for item in process.memory_maps()]
    return [Path(path) for path in maps if path.startswith("/dev/shm/")]


def existing(paths: Sequence[Path]) -> Sequence[Path]:
    return [path for path in paths if path.exists()]


@pytest.mark.parametrize("kind", ["untied_policy", "tied_policy", "padded_policy"])
async def test_a_server_samples_with_the_weights_of_its_segment(
    engine: Engine, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    policy: Path = request.getfixturevalue(kind)
    generation = write_generation(policy, weights_in(policy), tmp_path)

    async with engine.serving(policy, generation):
        completion = await engine.complete()

    assert len(completion.choices) == 4
    assert largest_gap(completion, policy) <= LIMIT


async def test_a_segment_with_one_weight_changed_answers_otherwise(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensor = weights_in(untied_policy)[CHANGED].clone()
    tensor[7, 11] += 3.0
    changed = changed_policy(untied_policy, tmp_path / "changed", {CHANGED: tensor})
    generation = write_generation(untied_policy, weights_in(changed), tmp_path)

    async with engine.serving(untied_policy, generation):
        completion = await engine.complete()

    assert largest_gap(completion, changed) <= LIMIT
    assert largest_gap(completion, untied_policy) > 100 * LIMIT


async def test_a_flipped_byte_is_never_served_and_its_tensor_is_named(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    generation.flip_byte(CHANGED)

    async with engine.prepared(untied_policy) as strategy:
        (server,) = strategy.servers
        with pytest.raises(ChildGone) as caught:
            await serve(strategy, generation)
        await asyncio.wait_for(asyncio.shield(server.ended), SERVE_SECONDS)

        assert str(caught.value) == f"checksum of {CHANGED} differs from what the trainer registered"
        with pytest.raises(httpx.ConnectError):
            await engine.complete()


async def test_a_segment_that_is_gone_is_named(engine: Engine, untied_policy: Path, tmp_path: Path) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    generation.segment.unlink()

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(ChildGone, match=r"weights-0\.segment is missing; was the shared volume emptied\?"):
            await serve(strategy, generation)


async def test_a_segment_of_another_policy_is_refused_by_its_parameters(
    engine: Engine, untied_policy: Path, tied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(tied_policy, weights_in(tied_policy), tmp_path)

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(ChildGone, match=r"server and segment differ in their parameters: lm_head\.weight"):
            await serve(strategy, generation)


async def test_a_segment_of_another_size_is_refused_by_both_shapes(
    engine: Engine, untied_policy: Path, padded_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(padded_policy, weights_in(padded_policy), tmp_path)

    async with engine.prepared(untied_policy) as strategy:
        with pytest.raises(ChildGone, match=r"embed_tokens\.weight is \(64, 128\) .* in the server, \(128, 128\)"):
            await serve(strategy, generation)


async def test_an_unknown_engine_argument_is_told_to_the_engine(engine: Engine, untied_policy: Path) -> None:
    strategy = Restart(engine.zygote, [("--no-such-argument", "--port", str(PORT))])

    with pytest.raises(ChildGone, match="vLLM could not serve"):
        await strategy.prepare()

    await strategy.stop()


async def test_a_stopped_server_leaves_no_process_and_no_shared_memory(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    async with engine.serving(untied_policy, generation) as strategy:
        (server,) = strategy.servers
        await engine.complete()
        mapped = shared_memory_of(server.pid)

    assert not group_exists(server.pid)
    assert psutil.Process(engine.zygote.pid).children() == []
    assert existing(mapped) == []


async def test_the_next_generation_is_served_at_once_on_the_same_port(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensor = weights_in(untied_policy)["model.norm.weight"] * torch.linspace(0.5, 2.0, 128)
    newer = changed_policy(untied_policy, tmp_path / "newer", {"model.norm.weight": tensor})
    first = write_generation(untied_policy, weights_in(untied_policy), tmp_path, number=0)
    second = write_generation(untied_policy, weights_in(newer), tmp_path, number=1)

    async with engine.serving(untied_policy, first) as strategy:
        before = await engine.complete()
        await strategy.prepare()
        await serve(strategy, second)
        after = await engine.complete()

    assert largest_gap(before, untied_policy) <= LIMIT
    assert largest_gap(after, newer) <= LIMIT


async def test_without_the_jobs_token_nothing_is_answered(engine: Engine, untied_policy: Path, tmp_path: Path) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.serving(untied_policy, generation), httpx.AsyncClient() as client:
        response = await client.get(f"http://{engine.address}:{PORT}/v1/models")

    assert response.status_code == 401


async def test_an_abort_hands_back_what_was_sampled_so_far_with_its_logprobs(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)

    async with engine.serving(untied_policy, generation) as strategy:
        sampling = asyncio.create_task(engine.complete(num_samples=256, max_tokens=57, ignore_eos=True))
        await asyncio.sleep(0.3)
        await strategy.abort()
        completion = await asyncio.wait_for(sampling, SERVE_SECONDS)

    assert "abort" in {choice.finish_reason for choice in completion.choices}
    partial = next(choice for choice in completion.choices if choice.token_ids)
    assert len(partial.token_ids) == len(partial.logprobs.token_logprobs)
    assert _gap(partial, untied_policy) <= LIMIT
