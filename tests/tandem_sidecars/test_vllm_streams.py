"""What streams in from a real vLLM server: the same as a whole answer, and cut where a response repeats itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tandem_api.trajectory import Trajectory
from tandem_master.rollout import server
from tandem_master.rollout.exchange import Exchange, end_all
from tandem_master.rollout.repeats import RepeatRule
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Piece
from tandem_master.rollout.server import CompletionApi, request_body
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_sidecars.generations import write_generation
from tests.tandem_sidecars.serving import (
    LIMIT,
    PORT,
    PROMPT,
    SERVE_SECONDS,
    Choice,
    Engine,
    Logprobs,
    gap,
    running_engine,
)
from tests.tandem_sidecars.serving import Completion as WholeAnswer
from tests.tandem_sidecars.training import weights_in

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

SEEDS = range(8)
MAX_TOKENS = 57
MANY = 200
"""Samples: so many take a server a while."""
AT_ONCE = 20
ENOUGH = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(untied_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """One server for all tests."""
    folder = tmp_path_factory.mktemp("streams")
    async with running_engine(untied_policy) as engine:
        generation = write_generation(untied_policy, weights_in(untied_policy), folder)
        async with engine.serving(untied_policy, generation):
            yield engine


@pytest.fixture(autouse=True)
def few_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STREAM_TOKENS", 5)


def body_that_stops(ask: Ask, temperature: float) -> dict[str, object]:
    """The master's own; with even seeds nothing ends a response, with odd ones a token that is sampled before long."""
    is_odd = ask.seed % 2 == 1
    return {**request_body(ask, temperature), "stop_token_ids": [7] if is_odd else [], "ignore_eos": not is_odd}


async def whole(engine: Engine, ask: Ask) -> Choice:
    """Ask for the same, all at once."""
    body = {**body_that_stops(ask, 1.0), "stream": False, "stream_interval": None}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(headers=headers, timeout=SERVE_SECONDS) as client:
        response = await client.post(f"http://{engine.address}:{PORT}/v1/completions", json=body)
    return WholeAnswer.model_validate_json(response.raise_for_status().content).choices[0]


def ask_for(num_samples: int, seed: int) -> Ask:
    trajectories = (
        Trajectory(id=str(i), group="g", problem_id="p", prompt_token_ids=PROMPT) for i in range(num_samples)
    )
    return Ask(tuple(trajectories), PROMPT, MAX_TOKENS, seed)


@asynccontextmanager
async def asking(engine: Engine, ask: Ask, rule: RepeatRule | None = None) -> AsyncIterator[Exchange]:
    """Ask as the master does."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(headers=headers, timeout=SERVE_SECONDS) as client:
        exchange = Exchange(CompletionApi(client, 1.0, rule), f"http://{engine.address}:{PORT}", ask)
        try:
            yield exchange
        finally:
            await exchange.close()


async def taken(exchange: Exchange) -> Sequence[Completion]:
    """Return what came of each sample, once the exchange is over."""
    pieces: list[Piece] = []
    while ended := await exchange.ended_samples():
        pieces += ended
    assert exchange.failure is None
    pieces += exchange.answer.take_rest()
    return [piece.completion for piece in sorted(pieces, key=lambda piece: piece.trajectory.id)]


async def streamed(engine: Engine, ask: Ask, rule: RepeatRule | None = None) -> Sequence[Completion]:
    """Ask, and wait for the end."""
    async with asking(engine, ask, rule) as exchange:
        return await taken(exchange)


def as_choice(completion: Completion) -> Choice:
    """Return what `gap` compares."""
    logprobs = Logprobs(token_logprobs=completion.logprobs)
    return Choice(token_ids=completion.token_ids, logprobs=logprobs, finish_reason=completion.finish_reason)


async def until_idle(engine: Engine) -> None:
    """Wait until the server works on no request, by its own count."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://{engine.address}:{PORT}/metrics"
    async with asyncio.timeout(SERVE_SECONDS), httpx.AsyncClient(headers=headers) as client:
        while not is_idle((await client.get(url)).text):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)


def is_idle(metrics: str) -> bool:
    line = next(line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running{"))
    return float(line.rpartition(" ")[2]) == 0


async def test_what_streams_in_is_what_a_whole_answer_holds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "request_body", body_that_stops)
    at_once = [await whole(engine, ask_for(1, seed)) for seed in SEEDS]

    parts = [(await streamed(engine, ask_for(1, seed)))[0] for seed in SEEDS]

    assert [part.token_ids for part in parts] == [choice.token_ids for choice in at_once]
    assert [part.logprobs for part in parts] == [choice.logprobs.token_logprobs for choice in at_once]
    assert [part.finish_reason for part in parts] == [choice.finish_reason for choice in at_once]
    assert {part.finish_reason for part in parts} == {FinishReason.STOP, FinishReason.LENGTH}


async def test_a_server_ends_a_request_that_is_cut_and_what_it_had_sampled_is_right(
    engine: Engine, untied_policy: Path
) -> None:
    rule = RepeatRule(window_tokens=12, ngram_tokens=1, max_share=0.1)

    completions = await streamed(engine, ask_for(8, seed=3), rule)
    await until_idle(engine)

    assert FinishReason.REPEAT in {completion.finish_reason for completion in completions}
    assert max(gap(as_choice(completion), untied_policy) for completion in completions if completion.token_ids) <= LIMIT


async def test_what_a_server_had_sampled_and_not_sent_comes_when_it_is_told_to_end(
    engine: Engine, untied_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STREAM_TOKENS", AT_ONCE)
    monkeypatch.setattr(server, "request_body", body_that_stops)

    async with asking(engine, ask_for(MANY, seed=2)) as exchange:
        while exchange.answer.num_tokens <= MANY:  # noqa: ASYNC110 - the first ones come at once, then AT_ONCE
            await asyncio.sleep(0.001)
        await end_all(exchange.api, exchange.server, [exchange])
        completions = await taken(exchange)
    await until_idle(engine)

    aborted = [item for item in completions if item.finish_reason is FinishReason.ABORT and item.token_ids]
    assert {len(item.token_ids) % AT_ONCE for item in aborted} - {1} != set()
    assert max(gap(as_choice(item), untied_policy) for item in aborted[:ENOUGH]) <= LIMIT
