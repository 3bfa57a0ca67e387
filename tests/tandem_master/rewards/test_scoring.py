"""The reward of a response from all its terms."""

import os

import pytest

from tandem_api.job.rewards import BuiltinReward, PythonReward, RewardSpec
from tandem_master.errors import RewardError
from tandem_master.rewards.scoring import MOST_IN_A_ROW, Scorer, open_scorer
from tandem_master.rewards.verdict import Question, Trouble, Verdict

RIGHT = Question(problem_id="p", prompt="1+1=", response=" 2\n", answer="2")
WRONG = RIGHT.model_copy(update={"response": "3"})
BAD = RIGHT.model_copy(update={"response": "bad"})
EXACT = RewardSpec(name="answer", builtin=BuiltinReward.EXACT_MATCH, weight=2.0)


def mine(name: str, weight: float = 0.5) -> RewardSpec:
    function = PythonReward(entry_point=f"tests.tandem_master.rewards.functions:{name}", folder=os.getcwd())
    return RewardSpec(name="mine", python=function, weight=weight)


async def test_terms_of_all_kinds_are_added_by_weight() -> None:
    async with open_scorer([EXACT, mine("length")]) as scorer:
        right, wrong = await scorer.score(RIGHT), await scorer.score(WRONG)

    assert (right.reward, right.correct) == (2.0 + 0.5 * 3, False)
    assert (wrong.reward, wrong.correct) == (0.5, False)
    assert right.terms == {"answer": Verdict(value=1.0), "mine": Verdict(value=3.0)}


async def test_full_marks_of_every_term_are_correct() -> None:
    async with open_scorer([EXACT, mine("raises")]) as scorer:
        assert (await scorer.score(RIGHT)).correct


async def test_where_one_term_says_nothing_the_response_is_worth_nothing_at_all_and_not_zero() -> None:
    async with open_scorer([EXACT, mine("raises")]) as scorer:
        score = await scorer.score(BAD)

    assert (score.reward, score.correct) == (None, False)
    assert score.terms == {
        "answer": Verdict(value=0.0),
        "mine": Verdict(trouble=Trouble.CRASHED, detail="KeyError: 'bad'"),
    }


async def silent(question: Question) -> Verdict:
    if question.response == "bad":
        return Verdict(trouble=Trouble.TIMED_OUT, detail="no answer within 10 s")
    return Verdict(value=1.0)


async def test_a_term_that_says_nothing_for_very_long_ends_the_job_with_its_reason() -> None:
    scorer = Scorer([(EXACT, silent)])
    before = [await scorer.score(BAD) for _ in range(MOST_IN_A_ROW - 1)]

    with pytest.raises(RewardError) as caught:
        await scorer.score(BAD)

    assert {score.reward for score in before} == {None}
    assert str(caught.value) == (
        "rewards: answer: TimedOut: no answer within 10 s; so for 64 responses in a row: mend it, then resume"
    )


async def test_a_single_answer_in_between_begins_the_count_anew() -> None:
    scorer = Scorer([(EXACT, silent)])
    for _ in range(MOST_IN_A_ROW - 1):
        await scorer.score(BAD)
    await scorer.score(RIGHT)

    assert (await scorer.score(BAD)).reward is None
