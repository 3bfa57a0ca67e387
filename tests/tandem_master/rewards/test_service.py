"""Rewards by HTTP, from a service that answers well, late, badly or not at all."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from tandem_master.rewards import service
from tandem_master.rewards.service import RewardService
from tandem_master.rewards.verdict import Question, Trouble, Verdict

URL = "http://judge.example/score"
QUESTION = Question(problem_id="p1", prompt="3+4=", response="7", answer="7")
BUSY, GOOD = httpx.Response(503, text="busy\nnow"), httpx.Response(200, json={"reward": 0.5, "why": "half"})


class Script(httpx.AsyncBaseTransport):
    """Answers in turn with what it was given; the last answer is repeated."""

    def __init__(self, answers: Sequence[httpx.Response | Exception]) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Silence(httpx.AsyncBaseTransport):
    """Never answers."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAUSE_SECONDS", 0.0)


async def judged(transport: httpx.AsyncBaseTransport, seconds: float = 30.0) -> Verdict:
    async with httpx.AsyncClient(transport=transport) as client:
        return await RewardService(client, URL, seconds).judge(QUESTION)


async def test_a_service_is_sent_the_question_and_gives_the_reward() -> None:
    script = Script([GOOD])

    assert await judged(script) == Verdict(value=0.5)
    assert httpx.Response(200, content=script.requests[0].content).json() == {
        "problemId": "p1",
        "prompt": "3+4=",
        "response": "7",
        "answer": "7",
    }


async def test_what_a_busy_server_or_the_network_spoils_is_asked_again() -> None:
    assert await judged(Script([BUSY, httpx.ConnectError("refused"), GOOD])) == Verdict(value=0.5)


async def test_a_server_that_stays_busy_has_crashed() -> None:
    script = Script([BUSY])

    assert await judged(script) == Verdict(trouble=Trouble.CRASHED, detail=f"{URL}: answered 503 busy now")
    assert len(script.requests) == service.MOST_TRIES


async def test_a_refusal_is_not_asked_again() -> None:
    script = Script([httpx.Response(401)])

    assert (await judged(script)).trouble is Trouble.CRASHED
    assert len(script.requests) == 1


async def test_silence_has_timed_out() -> None:
    expected = Verdict(trouble=Trouble.TIMED_OUT, detail=f"{URL}: no answer within 0.05 s")

    assert await judged(Silence(), seconds=0.05) == expected


@pytest.mark.parametrize("body", [{"score": 1}, {"reward": "high"}, {"reward": None}, [1.0]])
async def test_a_body_without_a_number_is_invalid(body: object) -> None:
    assert (await judged(Script([httpx.Response(200, json=body)]))).trouble is Trouble.INVALID
