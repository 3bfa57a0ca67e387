"""The reward of a response: every term asked, the values added by weight (report, section 2.3.1)."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tandem_api.job.rewards import BuiltinReward, HttpReward, PythonReward, RewardSpec
from tandem_api.job.text import amount
from tandem_master.errors import RewardError
from tandem_master.rewards.rule import RULES
from tandem_master.rewards.service import reward_service
from tandem_master.rewards.verdict import Question, Verdict
from tandem_master.rewards.workers import Function, reward_workers
from tandem_master.tasks import side_by_side

logger = logging.getLogger(__name__)

Judge = Callable[[Question], Awaitable[Verdict]]
MOST_IN_A_ROW = 64
"""Responses in a row of which a term says nothing, before the job is ended: nothing it trains on is left."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one response is worth."""

    reward: float | None
    """Sum of the weighted terms; None where a term says nothing: that response counts for nothing, not for 0."""
    correct: bool
    """Full marks: every term gave 1. r(x, y, y*) = 1 of the report."""
    terms: Mapping[str, Verdict] = field(default_factory=dict)
    """By name; empty where none was asked."""


class Scorer:
    """Scores the responses of a job; `open_scorer` makes it."""

    def __init__(self, terms: Sequence[tuple[RewardSpec, Judge]]) -> None:
        self._terms = terms
        self._troubles_in_a_row = 0

    async def score(self, question: Question) -> Score:
        """Return the score of one response. Errors: RewardError where a term has said nothing for very long."""
        verdicts = await side_by_side([judge(question) for _, judge in self._terms])
        terms = {spec.name: verdict for (spec, _), verdict in zip(self._terms, verdicts, strict=True)}
        values = [verdict.value for verdict in verdicts]
        given = [value for value in values if value is not None]
        if len(given) < len(values):
            self._count_trouble(terms, question)
            return Score(None, correct=False, terms=terms)
        self._troubles_in_a_row = 0
        reward = math.fsum(spec.weight * value for (spec, _), value in zip(self._terms, given, strict=True))
        return Score(reward, correct=all(value == 1.0 for value in given), terms=terms)

    def _count_trouble(self, terms: Mapping[str, Verdict], question: Question) -> None:
        name, verdict = next((name, verdict) for name, verdict in terms.items() if verdict.trouble is not None)
        told = f"rewards: {name}: {verdict.trouble}: {verdict.detail}"
        logger.warning("%s (a response to %s)", told, question.problem_id)
        self._troubles_in_a_row += 1
        if self._troubles_in_a_row >= MOST_IN_A_ROW:
            raise RewardError(f"{told}; so for {MOST_IN_A_ROW} responses in a row: mend it, then resume")


@asynccontextmanager
async def open_scorer(specs: Sequence[RewardSpec]) -> AsyncIterator[Scorer]:
    """Keep what the terms need while the context is open. Errors: RewardError where one cannot be asked at all."""
    async with AsyncExitStack() as stack:
        yield Scorer([(spec, await _judge(spec, stack)) for spec in specs])


async def _judge(spec: RewardSpec, stack: AsyncExitStack) -> Judge:
    if spec.python is not None:
        workers = await stack.enter_async_context(reward_workers(_function(spec.python), spec.python.processes))
        return workers.judge
    if spec.http is not None:
        service = await stack.enter_async_context(reward_service(spec.http.url, spec.http.timeout_seconds))
        return _at_most(spec.http, service.judge)
    assert spec.builtin is not None
    return _by_rule(spec.builtin)


def _function(spec: PythonReward) -> Function:
    folders = (spec.folder,) if spec.folder is not None else ()
    return Function(spec.entry_point, spec.timeout_seconds, int(amount(spec.memory)), folders)


def _at_most(spec: HttpReward, judge: Judge) -> Judge:
    """Return a judge that is asked so many questions at once. A question's deadline begins with its turn."""
    seats = asyncio.Semaphore(spec.requests)

    async def seated(question: Question) -> Verdict:
        async with seats:
            return await judge(question)

    return seated


def _by_rule(builtin: BuiltinReward) -> Judge:
    rule = RULES[builtin]

    async def by_rule(question: Question) -> Verdict:
        return Verdict(value=rule(question.response, question.answer))

    return by_rule
