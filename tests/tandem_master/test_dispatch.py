"""Requests to servers: what is asked, who is asked, and what a bad answer leads to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import pytest

from tandem_master.errors import RolloutError
from tandem_master.rollout import dispatch as dispatching
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.repeats import RepeatRule
from tandem_master.rollout.segments import Ask, Completion, FinishReason, Piece
from tandem_master.rollout.server import CompletionApi, request_body
from tests.tandem_master.engine_stub import streamed
from tests.tandem_master.texts import trajectory

ASK = Ask((trajectory("a"), trajectory("b")), (7, 8), max_tokens=4, seed=11)
CHOICE = {"token_ids": [5, 0], "logprobs": {"token_logprobs": [-0.25, -0.5]}, "finish_reason": "stop", "text": "x"}
GOOD = streamed([{"index": 1, **CHOICE}, {"index": 0, **CHOICE, "token_ids": [6, 0]}])

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "PAUSE_SECONDS", 0.0)


def pool_of(*servers: str, max_outstanding: int = 256) -> ServerPool:
    """Return a pool of servers whose engines have not been started anew."""
    return ServerPool(dict.fromkeys(servers, "one"), max_outstanding=max_outstanding)


async def answers(handler: Handler, *servers: str, rule: RepeatRule | None = None) -> tuple[Completion, ...]:
    """Send ASK to a world of servers that answer by `handler`; return what is delivered of each of its samples."""
    delivered: dict[str, Completion] = {}

    async def deliver(pieces: Sequence[Piece]) -> tuple[Ask, ...]:
        delivered.update((piece.trajectory.id, piece.completion) for piece in pieces)
        return ()

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        await Dispatcher(Ahead(CompletionApi(client, 0.7, rule), [ASK]), pool_of(*servers), deliver).run()
    return tuple(delivered[item.id] for item in ASK.trajectories)


class Endless(httpx.AsyncByteStream):
    """An answer that begins and does not end."""

    def __init__(self, begin: str) -> None:
        self._begin = begin.removesuffix("data: [DONE]\n\n")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._begin.encode()
        await asyncio.sleep(60)


async def ignore(_: Sequence[Piece]) -> tuple[Ask, ...]:
    """Take a delivery that a test does not look at."""
    return ()


def test_every_parameter_that_changes_the_distribution_is_given() -> None:
    body = request_body(ASK, temperature=0.7)

    assert body["prompt"] == [7, 8]
    assert (body["n"], body["max_tokens"], body["seed"]) == (2, 4, 11)
    assert (body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"]) == (0.7, 1.0, -1, 1.0)
    assert (body["logprobs"], body["return_token_ids"], body["stream"]) == (0, True, True)


async def test_completions_come_in_the_order_of_their_index() -> None:
    completions = await answers(lambda _: httpx.Response(200, text=GOOD), "http://a")

    assert completions == (
        Completion((6, 0), (-0.25, -0.5), FinishReason.STOP),
        Completion((5, 0), (-0.25, -0.5), FinishReason.STOP),
    )


async def test_a_request_goes_to_another_server_when_one_is_gone() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=GOOD)

    assert len(await answers(handler, "http://a", "http://b")) == 2


async def test_servers_that_die_one_after_the_other_do_not_use_up_a_requests_attempts() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host != "e":
            raise httpx.ReadError("connection reset by peer")
        return httpx.Response(200, text=GOOD)

    assert len(await answers(handler, *(f"http://{name}" for name in "abcde"))) == 2


async def test_a_dead_server_is_asked_once_and_not_by_every_request() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        if request.url.host == "a":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=GOOD)

    pool = pool_of("http://a", "http://b", max_outstanding=2)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        await Dispatcher(Ahead(CompletionApi(client, temperature=0.7), [ASK] * 40), pool, ignore).run()

    assert (hosts.count("a"), hosts.count("b")) == (1, 40)


async def test_a_server_whose_connections_break_is_tried_three_times_where_it_is_the_only_one() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        raise httpx.ReadError("connection reset by peer")

    with pytest.raises(RolloutError, match=r"3 servers in turn gave no samples; the last: http://a: ReadError"):
        await answers(handler, "http://a")

    assert len(hosts) == 3


async def test_a_request_that_kills_every_server_ends() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("connection reset by peer")

    with pytest.raises(RolloutError, match="3 servers in turn gave no samples"):
        await answers(handler, *(f"http://{name}" for name in "abcdefgh"))


async def test_a_request_at_a_server_that_leaves_goes_to_another_one() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def handler(request: httpx.Request) -> httpx.Response:
        asked.put_nowait(request.url.host)
        if request.url.host == "a":
            await asyncio.sleep(60)
        return httpx.Response(200, text=GOOD)

    pool = pool_of("http://a", "http://b")
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client, asyncio.timeout(5):
        ahead = Ahead(CompletionApi(client, temperature=0.7), [ASK])
        running = asyncio.create_task(Dispatcher(ahead, pool, ignore).run())
        first = await asked.get()
        pool.let_go({"http://b": "one"})
        await running

    assert (first, asked.get_nowait()) == ("a", "b")


async def test_an_error_of_the_server_is_tried_three_times() -> None:
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(503, text="busy")

    with pytest.raises(RolloutError, match=r"3 servers in turn gave no samples; the last: http://\w: 503 busy"):
        await answers(handler, "http://a", "http://b")

    assert len(hosts) == 3
    assert hosts[0] != hosts[1]


async def test_a_refused_request_is_not_tried_again() -> None:
    with pytest.raises(RolloutError, match="http://a: refused a request for samples: 400 too long"):
        await answers(lambda _: httpx.Response(400, text="too long"), "http://a", "http://b")


async def test_an_answer_without_logprobs_is_named() -> None:
    choice = {key: value for key, value in CHOICE.items() if key != "logprobs"}

    missing = r"its answer cannot be used: Object missing required field `logprobs` - at `\$.choices\[0\]`"
    with pytest.raises(RolloutError, match=missing):
        await answers(lambda _: httpx.Response(200, text=streamed([{"index": 0, **choice}])), "http://a")


async def test_a_sample_that_was_not_asked_for_is_named() -> None:
    body = streamed([{"index": 2, **CHOICE}])

    with pytest.raises(RolloutError, match="cannot be used: 2 samples were asked for, and number 2 came"):
        await answers(lambda _: httpx.Response(200, text=body), "http://a")


async def test_a_stream_that_ends_before_its_samples_goes_to_another_server() -> None:
    short = streamed([{"index": 0, **CHOICE}])

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=short if request.url.host == "a" else GOOD)

    assert len(await answers(handler, "http://a", "http://b")) == 2


async def test_an_error_in_a_stream_goes_to_another_server() -> None:
    broken = 'data: {"error": {"message": "out of memory", "code": 500}}\n\ndata: [DONE]\n\n'

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=broken if request.url.host == "a" else GOOD)

    assert len(await answers(handler, "http://a", "http://b")) == 2


async def test_what_comes_in_many_events_is_put_together() -> None:
    more = {"index": 0, "token_ids": [4], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": None}
    end = {"index": 0, "token_ids": [], "logprobs": {"token_logprobs": []}, "finish_reason": "length"}
    body = streamed([more, {"index": 1, **CHOICE}, {**more, "token_ids": [5]}, end])

    completions = await answers(lambda _: httpx.Response(200, text=body), "http://a")

    assert completions[0] == Completion((4, 5), (-1.0, -1.0), FinishReason.LENGTH)


async def test_an_answer_is_cut_where_a_response_repeats_itself_and_the_others_go_on_from_there() -> None:
    rule = RepeatRule(window_tokens=6, ngram_tokens=1, max_share=0.5)
    loop = {"index": 0, "token_ids": [5] * 20, "logprobs": {"token_logprobs": [-1.0] * 20}, "finish_reason": None}
    more = {"index": 1, "token_ids": [4, 6], "logprobs": {"token_logprobs": [-1.0] * 2}, "finish_reason": None}
    body = Endless(streamed([more, loop]))

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404) if request.url.path.endswith("abort_requests") else httpx.Response(200, stream=body)

    first, second = await answers(handler, "http://a", rule=rule)

    assert first == Completion((5,) * 6, (-1.0,) * 6, FinishReason.REPEAT)
    assert second == Completion((4, 6), (-1.0, -1.0), FinishReason.ABORT)


async def test_what_an_answer_leads_to_is_asked_too() -> None:
    follow_up = Ask((trajectory("c"), trajectory("d")), (7, 8), max_tokens=4, seed=12)
    seeds: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seeds.append(json.loads(request.content)["seed"])
        return httpx.Response(200, text=GOOD)

    async def deliver(pieces: Sequence[Piece]) -> tuple[Ask, ...]:
        return (follow_up,) if pieces[0].trajectory in ASK.trajectories else ()

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        await Dispatcher(Ahead(CompletionApi(client, temperature=0.7), [ASK]), pool_of("http://a"), deliver).run()

    assert seeds == [11, 12]


def test_a_phase_without_servers_is_an_error() -> None:
    with pytest.raises(RolloutError, match="no server is ready"):
        ServerPool({})
