"""Problem sets: JSON lines with `prompt`, `answer` and optionally `id` and `difficulty`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from tandem_api.job.policy import ProblemSet
from tandem_api.resource import Resource
from tandem_api.trajectory import Problem
from tandem_master.errors import DataError


class ProblemLine(Resource):
    """One line of a problem set."""

    prompt: str = Field(min_length=1)
    """Text the policy is given."""
    answer: str
    """Ground truth."""
    id: str | None = Field(default=None, min_length=1)
    """Identity in its set; absent: the number of the line."""
    difficulty: float | None = None
    """Label: larger is harder."""


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """One problem set in memory."""

    name: str
    weight: float
    problems: tuple[Problem, ...]
    """Their ids are `<set>/<id>`: unique in a job."""
    lines: Mapping[str, str]
    """Problem id to `<file>:<line>`, for messages."""


def read_problem_set(spec: ProblemSet) -> LoadedSet:
    """Return the problems of one set. Errors: DataError with the file and the line."""
    problems: dict[str, Problem] = {}
    lines: dict[str, str] = {}
    for number, text in enumerate(_lines(spec), start=1):
        if not text.strip():
            continue
        where = f"{spec.path}:{number}"
        problem = _problem(spec.name, number, text, where)
        if problem.id in problems:
            raise DataError(
                f"{where}: id {problem.id.partition('/')[2]!r} is used at {lines[problem.id]} too; change one"
            )
        problems[problem.id] = problem
        lines[problem.id] = where
    if not problems:
        raise DataError(f"{spec.path}: the file holds no problem; write one JSON object a line")
    return LoadedSet(spec.name, spec.weight, tuple(problems.values()), lines)


def read_problem_sets(specs: Sequence[ProblemSet]) -> tuple[LoadedSet, ...]:
    """Return all sets of `spec.data.train`. Errors: DataError with the file and the line."""
    return tuple(read_problem_set(spec) for spec in specs)


def _lines(spec: ProblemSet) -> list[str]:
    try:
        return Path(spec.path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"spec.data.train[{spec.name}].path: {spec.path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{spec.path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _problem(set_name: str, number: int, text: str, where: str) -> Problem:
    try:
        line = ProblemLine.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error
    identity = line.id if line.id is not None else str(number)
    return Problem(id=f"{set_name}/{identity}", prompt=line.prompt, answer=line.answer, difficulty=line.difficulty)
