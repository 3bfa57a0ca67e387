"""Long responses in pieces, sampled by a real vLLM server: end to end they are what one piece would be, and each
piece has the log-probabilities of the generation that sampled it (report, section 2.6.2)."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest
import torch
from pydantic import JsonValue

from tandem_api.trajectory import TokenSegment, Trajectory, TrajectoryState
from tandem_master.rollout import server
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.capacity import read_capacity
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.ending import Ending
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Limits, Piece, extend, plan_asks
from tandem_master.rollout.server import CompletionApi, request_body
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.policies import changed_policy, logprobs
from tests.tandem_sidecars.serving import PORT, SERVE_SECONDS, Engine, serve
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 5e-5
"""Nats between transformers and the server, float32 on both sides."""
PROMPTS = ((3, 9, 27, 17, 51, 25), (4, 8, 15, 16, 23, 42))
MAX_LENGTH = 63
MOST_ITERATIONS = 130
"""Enough for two responses of 57 tokens where each brings one token."""
MOST_TRIES = 20
"""Of a cut that is to come before a response ends: on a busy machine a server may sample all of it first."""
CACHE_BYTES = 1 << 20
PREEMPTIONS = "vllm:num_preemptions_total{"
CHANGED = "model.norm.weight"


@pytest.fixture(autouse=True)
def no_response_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "request_body", lambda *of: {**request_body(*of), "ignore_eos": True})


class Iterations:
    """What the master does in its Infer phases, but for rewards and the buffer."""

    def __init__(self, engine: Engine, budget_tokens: int, temperature: float) -> None:
        self._url = f"http://{engine.address}:{PORT}"
        self._limits = Limits(budget_tokens, MAX_LENGTH)
        self._temperature = temperature
        self.trajectories: Mapping[str, Trajectory] = {
            f"1-{i}-0": Trajectory(id=f"1-{i}-0", group=f"1-{i}", problem_id=str(i), prompt_token_ids=prompt)
            for i, prompt in enumerate(PROMPTS)
        }

    async def run(self, iteration: int, cut_after: float | None = None) -> None:
        """Sample with generation iteration - 1 what is unfinished; end the phase after so many seconds."""
        generation, trajectories = iteration - 1, dict(self.trajectories)

        async def deliver(pieces: Sequence[Piece]) -> Sequence[Ask]:
            longer = [extend(piece.trajectory, piece.completion, generation, self._limits) for piece in pieces]
            trajectories.update((item.id, item) for item in longer)
            return ()

        async with asking() as client:
            ending = Ending()
            api = CompletionApi(client, self._temperature, heard=ending.heard)
            asks = plan_asks(self.unfinished(), generation, self._limits, seed=1, iteration=iteration, alone=True)
            # One at a time: a batch of another size adds in another order, and may turn a choice that was a tie.
            pool = ServerPool({self._url: "one"}, max_outstanding=1)
            seconds = SERVE_SECONDS if cut_after is None else cut_after
            striking = asyncio.create_task(ending.strike_after(seconds))
            await Dispatcher(Ahead(api, asks, ending), pool, deliver).run()
            striking.cancel()
            await asyncio.gather(striking, return_exceptions=True)
        self.trajectories = trajectories

    async def run_to_the_end(self, cut_after: float) -> None:
        """Run as many iterations as it takes."""
        for iteration in range(1, MOST_ITERATIONS):
            if self.unfinished():
                await self.run(iteration, cut_after)

    def unfinished(self) -> list[Trajectory]:
        return [item for item in self.trajectories.values() if item.state is TrajectoryState.UNFINISHED]

    def responses(self) -> list[tuple[int, ...]]:
        return [item.response_token_ids for item in self.trajectories.values()]

    def segments(self) -> list[tuple[TokenSegment, ...]]:
        return [item.segments for item in self.trajectories.values()]


async def cut_short(engine: Engine) -> Iterations:
    """Return iterations that were cut as soon as a token had come, and each response at least once."""
    for _ in range(MOST_TRIES):
        iterations = Iterations(engine, budget_tokens=100, temperature=0.0)
        await iterations.run_to_the_end(cut_after=0.0)
        if min(len(item) for item in iterations.segments()) > 1:
            return iterations
    pytest.fail(f"a response was sampled whole before it could be cut, {MOST_TRIES} times")


def largest_gap(trajectory: Trajectory, generation: int, policy: Path) -> float:
    """Return how far the log-probabilities of a generation's segment are from those that transformers gives, nats."""
    expected = iter(logprobs(policy, (*trajectory.prompt_token_ids, *trajectory.response_token_ids)))
    _ = [next(expected) for _ in trajectory.prompt_token_ids[1:]]
    pairs = [(item.generation, logprob, next(expected)) for item in trajectory.segments for logprob in item.logprobs]
    return max(abs(stored - own) for of, stored, own in pairs if of == generation)


async def test_segments_end_to_end_are_the_tokens_of_one_greedy_rollout_where_weights_do_not_change(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    whole, budgeted = (Iterations(engine, budget, temperature=0.0) for budget in (100, 10))

    async with engine.serving(untied_policy, generation):
        await whole.run(1)
        for iteration in range(1, 7):
            await budgeted.run(iteration)
        cut = await cut_short(engine)

    assert [len(item) for item in whole.responses()] == [57, 57]
    assert [len(item) for item in budgeted.segments()] == [6, 6]
    assert budgeted.responses() == whole.responses()
    assert cut.responses() == whole.responses()


async def test_each_segment_has_the_log_probabilities_of_the_generation_that_sampled_it(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    tensor = weights_in(untied_policy)[CHANGED] * torch.linspace(0.5, 2.0, 128)
    newer = changed_policy(untied_policy, tmp_path / "newer", {CHANGED: tensor})
    first = write_generation(untied_policy, weights_in(untied_policy), tmp_path, number=0)
    second = write_generation(untied_policy, weights_in(newer), tmp_path, number=1)
    iterations = Iterations(engine, budget_tokens=20, temperature=1.0)

    async with engine.serving(untied_policy, first) as strategy:
        await iterations.run(1)
        await strategy.prepare()
        await serve(strategy, second)
        await iterations.run(2)

    trajectories = list(iterations.trajectories.values())
    assert [[segment.generation for segment in item.segments] for item in trajectories] == [[0, 1], [0, 1]]
    assert max(largest_gap(item, 0, untied_policy) for item in trajectories) <= LIMIT
    assert max(largest_gap(item, 1, newer) for item in trajectories) <= LIMIT
    assert min(largest_gap(item, 1, untied_policy) for item in trajectories) > 100 * LIMIT


async def test_no_sample_is_put_off_by_a_server_that_says_what_its_cache_holds(
    engine: Engine, untied_policy: Path, tmp_path: Path
) -> None:
    generation = write_generation(untied_policy, weights_in(untied_policy), tmp_path)
    small: dict[str, JsonValue] = {"kv_cache_memory_bytes": CACHE_BYTES, "block_size": 32}

    async with engine.serving(untied_policy, generation, **small), asking() as client:
        url = f"http://{engine.address}:{PORT}"
        capacity = await read_capacity(client, url)
        await sample_all(client, ServerPool({url: "one"}, {url: capacity}))
        num_where_tokens_count = await num_preemptions(client, url)
        await sample_all(client, ServerPool({url: "one"}))
        num_where_samples_count = await num_preemptions(client, url)

    assert capacity is not None
    assert num_where_tokens_count == 0
    assert num_where_samples_count > 0


def asking() -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=SERVE_SECONDS)


async def sample_all(client: httpx.AsyncClient, pool: ServerPool) -> None:
    """Sample more responses at once than a small cache holds."""
    drawn = [
        Trajectory(id=f"1-{p}-{i}", group=f"1-{p}", problem_id=str(p), prompt_token_ids=PROMPTS[0])
        for p in range(6)
        for i in range(8)
    ]
    asks = plan_asks(drawn, 0, Limits(100, MAX_LENGTH), seed=1, iteration=1)

    async def deliver(_: Sequence[Piece]) -> Sequence[Ask]:
        return ()

    await Dispatcher(Ahead(CompletionApi(client, 1.0), asks), pool, deliver).run()


async def num_preemptions(client: httpx.AsyncClient, url: str) -> float:
    page = (await client.get(f"{url}/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(PREEMPTIONS))
