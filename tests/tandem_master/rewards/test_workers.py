"""Reward functions of the user's in processes of their own: good ones, and every way to be bad."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tandem_master.errors import RewardError
from tandem_master.rewards.verdict import Question, Trouble, Verdict
from tandem_master.rewards.workers import Function, Workers, reward_workers

SECONDS = 30.0
SOON = 0.5
MEMORY_BYTES = 1 << 30
GOOD = Question(problem_id="p1", prompt="3+4=", response="seven", answer="seven")
BAD = GOOD.model_copy(update={"response": "bad"})


@asynccontextmanager
async def workers(name: str, seconds: float = SECONDS, num_workers: int = 1) -> AsyncIterator[Workers]:
    function = Function(f"tests.tandem_master.rewards.functions:{name}", seconds, MEMORY_BYTES, (os.getcwd(),))
    async with reward_workers(function, num_workers) as made:
        yield made


async def test_a_function_is_asked_with_the_problem_and_the_response() -> None:
    async with workers("length") as made:
        assert await made.judge(GOOD) == Verdict(value=1.0)
        assert await made.judge(BAD) == Verdict(value=0.6)


async def test_a_truth_value_is_a_number_and_what_is_printed_disturbs_nothing() -> None:
    async with workers("correct") as made:
        assert [await made.judge(GOOD), await made.judge(BAD)] == [Verdict(value=1.0), Verdict(value=0.0)]


async def test_a_function_that_raises_has_crashed_and_answers_the_next_question() -> None:
    async with workers("raises") as made:
        assert await made.judge(BAD) == Verdict(trouble=Trouble.CRASHED, detail="KeyError: 'bad'")
        assert await made.judge(GOOD) == Verdict(value=1.0)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("nothing", "the answer is nothing, wanted a number"),
        ("not_a_number", "the answer is nan, wanted a finite number"),
    ],
)
async def test_an_answer_that_is_no_finite_number_is_not_zero(name: str, detail: str) -> None:
    async with workers(name) as made:
        assert await made.judge(GOOD) == Verdict(trouble=Trouble.INVALID, detail=detail)


async def test_a_function_that_hangs_is_killed_at_its_deadline_and_the_next_question_gets_another_process() -> None:
    async with workers("hangs", seconds=SOON) as made:
        verdict = await made.judge(BAD)

        assert verdict == Verdict(trouble=Trouble.TIMED_OUT, detail="no answer within 0.5 s")
        made.function = Function(made.function.entry_point, SECONDS, MEMORY_BYTES, (os.getcwd(),))
        assert await made.judge(GOOD) == Verdict(value=1.0)


async def test_a_function_that_allocates_without_end_meets_its_limit_and_nobody_elses() -> None:
    async with workers("swells") as made:
        verdict = await made.judge(BAD)

        assert (verdict.value, verdict.trouble) == (None, Trouble.CRASHED)
        assert verdict.detail.startswith("MemoryError")
        assert await made.judge(GOOD) == Verdict(value=1.0)


@pytest.mark.parametrize("name", ["leaves", "exits"])
async def test_a_function_that_ends_its_process_has_crashed(name: str) -> None:
    async with workers(name) as made:
        verdict = await made.judge(BAD)

    assert verdict.trouble is Trouble.CRASHED
    assert verdict.detail in ("its process ended with 7", "its process ended with 3")


async def test_as_many_questions_are_answered_at_once_as_there_are_processes() -> None:
    async with workers("length", num_workers=2) as made:
        verdicts = await asyncio.gather(*(made.judge(question) for question in (GOOD, BAD, GOOD, BAD)))

    assert [verdict.value for verdict in verdicts] == [1.0, 0.6, 1.0, 0.6]


async def test_a_call_that_is_given_up_leaves_no_process() -> None:
    async with workers("hangs") as made:
        call = asyncio.create_task(made.judge(BAD))
        await asyncio.sleep(SOON)
        call.cancel()
        await asyncio.wait({call})

        assert call.cancelled()
        assert await made.judge(GOOD) == Verdict(value=1.0)


async def test_a_function_does_not_learn_where_the_masters_secrets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TOKEN_FILE", "/run/secrets/token")

    async with workers("secrets") as made:
        assert await made.judge(GOOD) == Verdict(value=0.0)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("absent", "cannot be imported (AttributeError: module"),
        ("NOT_A_FUNCTION", "is a int, not a function); correct it"),
    ],
)
async def test_a_function_that_cannot_be_called_is_told_before_anything_is_scored(name: str, problem: str) -> None:
    with pytest.raises(RewardError) as caught:
        async with workers(name):
            pass

    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
