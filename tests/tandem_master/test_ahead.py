"""Requests that are sent before their servers are ready."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys, MemberRecord, MemberState, MemberStatus
from tandem_checkpoint.switch.protocol import State
from tandem_master.rollout import dispatch as dispatching
from tandem_master.rollout.ahead import Ahead, spread
from tandem_master.rollout.dispatch import Dispatcher
from tandem_master.rollout.pool import ServerPool
from tandem_master.rollout.segments import Ask, Completion, Piece
from tandem_master.rollout.server import CompletionApi
from tandem_master.serving import WAITING, Serving
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script
from tests.tandem_master.conftest import Job
from tests.tandem_master.engine_stub import streamed
from tests.tandem_master.test_dispatch import CHOICE
from tests.tandem_master.texts import trajectory

SOON = 5.0
KEYS = Keys("default", "toy")
INFER = Desired(epoch=3, phase=Phase.INFER, generation=1, iteration=2, deadline=0.0)
FIRST, SECOND = (Ask((trajectory(name),), (7, 8), max_tokens=4, seed=11) for name in "ab")
ANSWER = httpx.Response(200, text=streamed([{"index": 0, **CHOICE}]))
A, B = "http://a:8000", "http://b:8000"

Handler = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]


@dataclass(slots=True)
class Scene:
    """A switch that runs, and who has been asked in it so far."""

    registry: FakeRegistry
    ahead: Ahead
    asked: "asyncio.Queue[str]"

    async def tell(self, pod: str, stage: str, *, epoch: int = 3, incarnation: str = "one") -> None:
        """Have a pod with one server, named like it, say how far it is."""
        record = MemberRecord(
            incarnation=incarnation, role="rollout", address=pod, port=8702, servers=(f"http://{pod}:8000",)
        )
        state = MemberState.SERVING if stage == "Serving" else MemberState.SWITCHING
        status = MemberStatus(incarnation=incarnation, epoch=epoch, state=state, stage=stage)
        await self.registry.put(KEYS.member(pod, "rollout"), record.model_dump_json())
        await self.registry.put(KEYS.status(pod, "rollout"), status.model_dump_json())

    async def completed(self, server: str, ask: Ask) -> Sequence[Completion]:
        """Return what a server answers, to what was sent ahead or else now."""
        exchange, _ = self.ahead.take(server, ask)
        pieces = await exchange.ended_samples()
        await exchange.close()
        return [piece.completion for piece in pieces]

    async def next_asked(self) -> str:
        async with asyncio.timeout(SOON):
            return await self.asked.get()


@asynccontextmanager
async def switching(handler: Handler, *asks: Ask) -> AsyncIterator[Scene]:
    """Follow a switch whose servers answer by `handler`."""
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def note(request: httpx.Request) -> httpx.Response:
        asked.put_nowait(f"http://{request.url.netloc.decode()}")
        return await handler(request)

    registry = FakeRegistry()
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(note)) as client,
        watched(registry, [KEYS.members, KEYS.statuses]) as members,
    ):
        ahead = Ahead(CompletionApi(client, temperature=1.0), asks)
        following = asyncio.create_task(ahead.follow(Serving(members, KEYS, INFER)))
        try:
            yield Scene(registry, ahead, asked)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await ahead.close()


async def at_once(_: httpx.Request) -> httpx.Response:
    return ANSWER


async def never(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(60)
    return ANSWER


def test_requests_are_spread_over_all_servers_until_these_are_full() -> None:
    wide = Ask((trajectory("c"), trajectory("d")), (7, 8), max_tokens=4, seed=11)

    assert spread([wide, FIRST, SECOND, wide], [A, B], max_outstanding=2) == (A, B, B, None)
    assert spread([FIRST], []) == (None,)


@pytest.mark.parametrize("stage", ["Gathering", "Taking", "Loading", "Serving"])
async def test_a_server_that_waits_is_asked_and_its_answer_is_handed_on(stage: str) -> None:
    async with switching(at_once, FIRST) as scene:
        await scene.tell("a", stage)
        asked = await scene.next_asked()
        scene.ahead.keep({A: "one"})

        (completion,) = await scene.completed(A, FIRST)

    assert (asked, completion.token_ids) == (A, (5, 0))
    assert scene.asked.empty()


@pytest.mark.parametrize(("stage", "epoch"), [("Preparing", 3), ("Stopping", 3), ("Loading", 2), ("Serving", 2)])
async def test_a_server_that_does_not_wait_in_this_epoch_is_not_asked(stage: str, epoch: int) -> None:
    async with switching(at_once, FIRST, SECOND) as scene:
        await scene.tell("a", stage, epoch=epoch)
        await scene.tell("b", "Gathering")

        assert await scene.next_asked() == B

    assert scene.asked.empty()


async def test_no_more_wait_at_a_server_than_it_needs_to_begin_with() -> None:
    third = Ask((trajectory("c"),), (7, 8), max_tokens=4, seed=11)

    async with switching(never, FIRST, SECOND, third) as scene:
        await scene.tell("a", "Gathering")
        await scene.next_asked()
        await scene.next_asked()

        assert [scene.ahead.server_of(ask) for ask in (FIRST, SECOND, third)] == [A, A, None]


async def test_a_request_whose_server_dies_before_it_is_ready_is_sent_again_and_has_used_no_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "MAX_ATTEMPTS", 0)
    alive = asyncio.Event()
    delivered: list[Piece] = []

    async def handler(_: httpx.Request) -> httpx.Response:
        if not alive.is_set():
            raise httpx.ReadError("connection reset by peer")
        return ANSWER

    async def deliver(pieces: Sequence[Piece]) -> Sequence[Ask]:
        delivered.extend(pieces)
        return ()

    async with switching(handler, FIRST) as scene, asyncio.timeout(SOON):
        await scene.tell("a", "Gathering")
        await scene.next_asked()
        alive.set()

        await Dispatcher(scene.ahead, ServerPool({A: "one"}), deliver).run()

    assert [piece.completion.token_ids for piece in delivered] == [(5, 0)]
    assert scene.asked.qsize() == 1


async def test_what_an_engine_was_asked_before_it_was_started_anew_does_not_count() -> None:
    async with switching(at_once, FIRST) as scene:
        await scene.tell("a", "Loading")
        await scene.next_asked()

        scene.ahead.keep({A: "two"})

        assert scene.ahead.server_of(FIRST) is None


async def test_an_engine_that_is_started_anew_is_asked_anew() -> None:
    async with switching(never, FIRST) as scene:
        await scene.tell("a", "Loading")
        await scene.next_asked()
        await scene.tell("a", "Loading", incarnation="two")

        assert await scene.next_asked() == A
        scene.ahead.keep({A: "two"})
        assert scene.ahead.server_of(FIRST) == A


async def test_what_is_asked_of_another_server_is_not_waited_for() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        return await (never if request.url.host == "a" else at_once)(request)

    async with switching(handler, FIRST) as scene, asyncio.timeout(SOON):
        await scene.tell("a", "Loading")
        await scene.next_asked()

        (completion,) = await scene.completed(B, FIRST)

    assert completion.token_ids == (5, 0)


async def test_requests_of_a_switch_that_fails_are_cancelled() -> None:
    cancelled = asyncio.Event()

    async def handler(_: httpx.Request) -> httpx.Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ANSWER

    async with switching(handler, FIRST) as scene:
        await scene.tell("a", "Gathering")
        await scene.next_asked()

    assert cancelled.is_set()


async def test_a_job_asks_every_request_once_though_its_servers_were_asked_ahead(job: Job) -> None:
    job.script = Script(servers_wait=True)

    exit_code = await job.run()

    assert exit_code == 0
    assert len(job.stub.answered) == len(set(job.stub.answered))


def test_the_stages_of_a_waiting_server_are_states_of_the_protocol() -> None:
    assert {State.GATHERING, State.TAKING, State.LOADING} == WAITING
