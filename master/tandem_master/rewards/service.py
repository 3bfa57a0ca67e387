"""A reward by HTTP: a service of the user's scores responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from tandem_master.rewards.verdict import Question, Trouble, Verdict, verdict_of

MOST_TRIES = 3
"""Times that one question is asked, all within its deadline."""
PAUSE_SECONDS = 0.5
"""Before the second try; twice as long before the next."""
MOST_CHARACTERS = 200
"""Of an answer that is shown."""


class Answer(BaseModel):
    """The body of a service's answer; other fields of it are of no use here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reward: float


@dataclass(frozen=True, slots=True)
class RewardService:
    """Asks one service. Its client carries no token of the job's."""

    client: httpx.AsyncClient
    url: str
    seconds: float
    """Deadline of one question, tries included."""

    async def judge(self, question: Question) -> Verdict:
        """Return what the service says. What a server or the network spoils is asked again; a refusal is not."""
        verdict = Verdict(trouble=Trouble.TIMED_OUT, detail=f"{self.url}: no answer within {self.seconds:g} s")
        try:
            async with asyncio.timeout(self.seconds):
                for number in range(MOST_TRIES):
                    if number:
                        await asyncio.sleep(PAUSE_SECONDS * 2 ** (number - 1))
                    verdict, again = await self._ask(question)
                    if not again:
                        break
        except TimeoutError:
            return verdict
        return verdict

    async def _ask(self, question: Question) -> tuple[Verdict, bool]:
        """Return a verdict, and whether asking again may help."""
        body = question.model_dump(by_alias=True)
        try:
            response = await self.client.post(self.url, json=body, timeout=self.seconds)
        except httpx.TransportError as error:
            return Verdict(trouble=Trouble.CRASHED, detail=f"{self.url}: {type(error).__name__} {error}".rstrip()), True
        if response.status_code != 200:
            detail = f"{self.url}: answered {response.status_code} {_line(response.text)}".rstrip()
            return Verdict(trouble=Trouble.CRASHED, detail=detail), response.status_code >= 500
        try:
            return verdict_of(Answer.model_validate_json(response.content).reward), False
        except ValidationError as error:
            detail = f'{self.url}: {error.errors()[0]["msg"]}; wanted a body such as {{"reward": 1.0}}'
            return Verdict(trouble=Trouble.INVALID, detail=detail), False


@asynccontextmanager
async def reward_service(url: str, seconds: float) -> AsyncIterator[RewardService]:
    """Keep a client for a service while the context is open."""
    async with httpx.AsyncClient(trust_env=False) as client:
        yield RewardService(client, url, seconds)


def _line(text: str) -> str:
    return " ".join(text.split())[:MOST_CHARACTERS]
