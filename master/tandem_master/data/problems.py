"""Problem sets: lines with `prompt` and `answer`, or in the layout of other trainers; what is malformed is counted."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from tandem_api.job.policy import ProblemFile
from tandem_api.resource import Resource
from tandem_api.trajectory import Message, Problem
from tandem_master.data.lines import Line, read_lines
from tandem_master.errors import DataError

logger = logging.getLogger(__name__)

MOST_NAMED = 20
"""Malformed lines of a set that are named in the log one by one."""


class MalformedLine(Exception):  # noqa: N818 - it is counted, and an error only where there are too many
    """What a line of a problem set lacks, beginning with the file and the line."""


class WrittenMessage(BaseModel):
    """One message of a prompt; other fields that chats carry are of no use here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str = Field(min_length=1)
    content: str


Prompt = Annotated[
    Annotated[str, Field(min_length=1), Tag("text")]
    | Annotated[tuple[WrittenMessage, ...], Field(min_length=1), Tag("messages")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "messages"),
]
"""A text, or messages."""
TAGS = frozenset({"text", "messages"})
"""What pydantic puts after `prompt` where it names a field within."""


class ProblemLine(Resource):
    """One line of a problem set in our own layout."""

    prompt: Prompt
    """Text the policy is given, or messages for its chat template."""
    answer: str
    """Ground truth."""
    id: str | None = Field(default=None, min_length=1)
    """Identity in its set; absent: the number of the line."""
    difficulty: float | None = Field(default=None, allow_inf_nan=False)
    """Label: larger is harder."""
    data_source: str | None = None
    """Where the problem is from, for rewards that tell sources apart."""


class RewardModel(BaseModel):
    """How other trainers tell the ground truth."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ground_truth: str | int | float


class RewardModelLine(BaseModel):
    """One line in the layout that verl and others read: `prompt`, `data_source`, `reward_model.ground_truth`.

    Its other fields are those trainers' own, and left alone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: Prompt
    reward_model: RewardModel
    data_source: str | None = None
    difficulty: float | None = Field(default=None, allow_inf_nan=False)

    @property
    def answer(self) -> str:
        return str(self.reward_model.ground_truth)

    @property
    def id(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """One problem set in memory."""

    name: str
    problems: tuple[Problem, ...]
    """Their ids are `<set>/<id>`: unique in a job."""
    lines: Mapping[str, str]
    """Problem id to `<file>:<line>`, for messages."""
    malformed: tuple[str, ...] = ()
    """What was left out, and why."""


def read_problem_set(spec: ProblemFile) -> LoadedSet:
    """Return the problems of one set, without those whose line is malformed.

    Errors: DataError with the file and the line where more of them are malformed than `spec` allows.
    """
    problems: dict[str, Problem] = {}
    lines: dict[str, str] = {}
    malformed: list[str] = []
    for line in read_lines(spec):
        try:
            problem = _problem(spec.name, line)
            if problem.id in lines:
                name = problem.id.partition("/")[2]
                raise MalformedLine(f"{line.where}: id {name!r} is used at {lines[problem.id]} too; change one")
        except MalformedLine as error:
            malformed.append(str(error))
            continue
        problems[problem.id] = problem
        lines[problem.id] = line.where
    refuse_malformed(spec, malformed, len(problems) + len(malformed))
    if not problems:
        raise DataError(f"{spec.path}: the file holds no problem; write one JSON object a line")
    return LoadedSet(spec.name, tuple(problems.values()), lines, tuple(malformed))


def refuse_malformed(spec: ProblemFile, malformed: Sequence[str], num_lines: int) -> None:
    """Raise DataError where more lines are malformed than `spec` allows; it names the first."""
    if len(malformed) > spec.max_malformed_share * num_lines:
        raise DataError(
            f"{malformed[0]} ({len(malformed)} of {num_lines} lines malformed, and"
            f" {spec.section}[{spec.name}].maxMalformedShare is {spec.max_malformed_share:g})"
        )


def tell_malformed(spec: ProblemFile, malformed: Sequence[str], num_lines: int) -> None:
    """Warn of malformed lines, which are left out."""
    for text in malformed[:MOST_NAMED]:
        logger.warning("left out: %s", text)
    if malformed:
        logger.warning("%s: %d of %d lines are malformed and left out", spec.path, len(malformed), num_lines)


def _problem(set_name: str, line: Line) -> Problem:
    """Return the problem of a line. Errors: MalformedLine."""
    try:
        parsed = _parsed(line.text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part not in TAGS)
        raise MalformedLine(f"{line.where}: {field + ': ' if field else ''}{first['msg']}") from error
    identity = parsed.id if parsed.id is not None else str(line.number)
    text, messages = (parsed.prompt, ()) if isinstance(parsed.prompt, str) else ("", parsed.prompt)
    return Problem(
        id=f"{set_name}/{identity}",
        prompt=text,
        messages=tuple(Message(role=item.role, content=item.content) for item in messages),
        answer=parsed.answer,
        difficulty=parsed.difficulty,
        data_source=parsed.data_source,
    )


def _parsed(text: str) -> ProblemLine | RewardModelLine:
    """Return a line in the layout that it has: ours, unless it names a reward model. Errors: ValidationError."""
    layout = RewardModelLine if '"reward_model"' in text and _names_reward_model(text) else ProblemLine
    return layout.model_validate_json(text)


def _names_reward_model(text: str) -> bool:
    """Return whether a line is an object with that field: its text may also stand in a prompt."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and "reward_model" in value
