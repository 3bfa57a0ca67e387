"""An RLJob from an untrusted document, or every mistake in it at once: one line each, `field: problem; fix`."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tandem_api.crd import Schema, structural_schema
from tandem_api.invariant import BROKEN_INVARIANTS
from tandem_api.job.spec import NAME_PATTERN, NAMESPACE_PATTERN, RLJob
from tandem_api.job.text import (
    COMMIT,
    ENTRY_POINT,
    OBJECT_NAME,
    QUALIFIED_NAME,
    QUANTITY,
    REPO,
    WEB_ADDRESS,
)

Path = tuple[str | int, ...]
"""Field names and list indices from the root of the document."""

Context = Mapping[str, Any]
"""What pydantic knows about an error: the bound, the pattern, the expected values."""
Explanation = Callable[[Any, Context, Schema], str]
"""(value, context, schema of the field) -> `problem; fix`."""

MOST_LEVELS = 40
"""Deepest nesting that is read: a YAML anchor may name itself and would never end."""
EXPONENT = re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$")
"""A number without a decimal point, such as 1e-6: text to YAML 1.1, a number to YAML 1.2, to JSON and to kubectl."""
NAME_FIX = "use lower-case letters, digits and -, beginning with a letter and not ending with -"
PATTERN_FIXES = {
    NAME_PATTERN: NAME_FIX,
    NAMESPACE_PATTERN: "use lower-case letters, digits and -, neither first nor last a -",
    QUANTITY: "write a quantity such as 500m, 16 or 64Gi",
    OBJECT_NAME: "use lower-case letters, digits, - and ., beginning and ending with a letter or a digit",
    QUALIFIED_NAME: "write a name with a domain, such as kubernetes.io/hostname or rdma/hca",
    REPO: "write the owner and the name, such as Qwen/Qwen3-8B",
    ENTRY_POINT: "write a module and a function, such as my_rewards:score",
    WEB_ADDRESS: "write a URL such as http://judge.example/score",
    COMMIT: "write the commit in full, 40 digits of 0-9 and a-f",
}
WHOLE_FIXES = {("apiVersion",): "add apiVersion: tandem.dev/v1alpha1", ("kind",): "add kind: RLJob"}


class InvalidJob(ValueError):  # noqa: N818 - reads as what it says: this job is invalid
    """The document is no valid RLJob; `problems` holds one line for each mistake, sorted by field."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a document."""

    path: Path
    text: str
    """What is wrong and how to mend it: `problem; fix`."""
    meant: tuple[Path, ...] = ()
    """Fields that were probably meant, where the field is unknown."""

    @property
    def line(self) -> str:
        return f"{dotted(self.path)}: {self.text}"

    @property
    def order(self) -> tuple[tuple[bool, int, str], ...]:
        return tuple((isinstance(part, str), part if isinstance(part, int) else 0, str(part)) for part in self.path)


def parse_job(document: object) -> RLJob:
    """Return the RLJob that a YAML or JSON document describes. InvalidJob names every mistake at once.

    Reads as an API server does with our CRD: camelCase names only, no text where a number belongs.
    """
    if not isinstance(document, dict):
        wanted = "wanted an RLJob; begin with apiVersion, kind, metadata and spec"
        raise InvalidJob((f"document: is {_shown(document)}, {wanted}",))
    schema = _schema()
    problems: list[Problem] = [
        Problem((field,), f"is missing; {fix}") for (field,), fix in WHOLE_FIXES.items() if field not in document
    ]
    plain = _plain(document, (), schema, problems)
    try:
        job = RLJob.model_validate_json(json.dumps(plain), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        unfit = {problem.path for problem in problems}
        problems += [problem for problem in _explained(error, schema) if problem.path not in unfit]
        raise InvalidJob(_lines(problems)) from None
    if problems:
        raise InvalidJob(_lines(problems))
    return job


@cache
def _schema() -> Schema:
    """Return the schema of an RLJob, worked out once."""
    return structural_schema(RLJob)


def dotted(path: Path) -> str:
    """Return a path as people write it: `spec.rewards[0].builtin`, `limits["nvidia.com/gpu"]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text


def _lines(problems: list[Problem]) -> tuple[str, ...]:
    """Return the lines by field. A misspelt field is one mistake: the line that it is missing is left out."""
    meant = {path for problem in problems for path in problem.meant}
    told = [problem for problem in problems if not (problem.text.startswith("is missing") and problem.path in meant)]
    return tuple(problem.line for problem in sorted(told, key=lambda problem: problem.order))


def _plain(value: object, path: Path, schema: Schema, problems: list[Problem]) -> object:
    """Return the value as JSON has it, and add a problem for what YAML can say and JSON cannot."""
    if len(path) > MOST_LEVELS:
        problems.append(Problem(path[:3], f"is nested deeper than {MOST_LEVELS} levels; make it flatter"))
        return None
    if isinstance(value, dict):
        return _plain_mapping(value, path, schema, problems)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [_plain(item, (*path, index), items, problems) for index, item in enumerate(value)]
    if isinstance(value, str) and schema.get("type") == "number" and EXPONENT.match(value):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(path, f"is {value}, wanted a finite number; write one"))
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    problems.append(Problem(path, f"is {value}, which YAML reads as a {type(value).__name__}; put it in quotes"))
    return str(value)


def _plain_mapping(
    mapping: Mapping[object, object], path: Path, schema: Schema, problems: list[Problem]
) -> dict[str, object]:
    """Return a mapping with text keys only; another key (YAML reads `on` as true) is a problem and left out."""
    plain: dict[str, object] = {}
    for key, item in mapping.items():
        if not isinstance(key, str):
            problems.append(Problem(path, f"the key {_shown(key)} is not text; put it in quotes"))
            continue
        plain[key] = _plain(item, (*path, key), _below(schema, key), problems)
    return plain


def _below(schema: Schema, part: str | int) -> Schema:
    """Return the schema of a field, value or item; empty where the schema knows none."""
    if isinstance(part, int):
        items: Schema = schema.get("items", {})
        return items
    field: Schema = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or {}
    return field


def _schema_at(root: Schema, path: Path) -> Schema:
    """Return the schema of the place that a path names."""
    schema = root
    for part in path:
        schema = _below(schema, part)
    return schema


def _explained(error: ValidationError, root: Schema) -> Iterator[Problem]:
    """Yield one problem for each of pydantic's errors that is a mistake of its own."""
    for detail in error.errors(include_url=False):
        path: Path = detail["loc"]
        if detail["type"] == "extra_forbidden":
            yield _unknown_field(path, root)
        elif detail["type"] == BROKEN_INVARIANTS:
            yield from (Problem((*path, *_fields(field)), message) for field, message in detail["ctx"]["broken"])
        elif not _follows_from_items(detail):
            yield Problem(path, _text(detail, _schema_at(root, path)))


def _fields(dotted_path: str) -> Path:
    """Return the field names of a dotted path; none for an empty one."""
    return tuple(dotted_path.split(".")) if dotted_path else ()


def _follows_from_items(detail: ErrorDetails) -> bool:
    """Return whether a list counts as too short only because its items are invalid, which has its own lines."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _unknown_field(path: Path, root: Schema) -> Problem:
    """Return the problem of a field that does not exist, with the one that was probably meant."""
    *parent, name = path
    siblings = sorted(_schema_at(root, tuple(parent)).get("properties", {}))
    by_spelling = {_spelling(sibling): sibling for sibling in siblings}
    near = difflib.get_close_matches(_spelling(str(name)), by_spelling, n=1)
    elsewhere = [found for found in _object_paths(root, ()) if _spelling(str(found[-1])) == _spelling(str(name))]
    if near and (near[0] == _spelling(str(name)) or not elsewhere):
        meant: tuple[Path, ...] = ((*parent, by_spelling[near[0]]),)
    else:
        meant = tuple(elsewhere[:2])
    if not meant:
        return Problem(path, f"unknown field; use one of {', '.join(siblings)}")
    return Problem(path, f"unknown field; did you mean {' or '.join(map(dotted, meant))}?", meant)


def _spelling(name: str) -> str:
    """Return a field name without case, - and _, so that other conventions find their field."""
    return re.sub(r"[-_]", "", name).lower()


def _object_paths(schema: Schema, path: Path) -> Iterator[Path]:
    """Yield the path of every field of the spec that is reached without a list."""
    for name, below in schema.get("properties", {}).items():
        if path or name == "spec":
            yield (*path, name)
            yield from _object_paths(below, (*path, name))


def _shown(value: object) -> str:
    """Return a value as the user wrote it, or its kind where it is long."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _text(detail: ErrorDetails, schema: Schema) -> str:
    """Return `problem; fix` for one of pydantic's errors."""
    explain = EXPLANATIONS.get(detail["type"])
    if explain is not None:
        return explain(detail["input"], detail.get("ctx", {}), schema)
    return f"is {_shown(detail['input'])}, wrong here ({detail['msg']}); change it"


def _missing(value: Any, context: Context, schema: Schema) -> str:
    return "is missing; add it"


def _not_an_integer(value: Any, context: Context, schema: Schema) -> str:
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+", value):
        return f"is {_shown(value)}, wanted an integer; write {int(value)} without quotes"
    if isinstance(value, float) and value.is_integer():  # which no validation rule of an API server would read either
        return f"is {_shown(value)}, wanted an integer; write {int(value)}"
    return f"is {_shown(value)}, wanted an integer; write a number such as {schema.get('default', 1)}"


def _not_a_number(value: Any, context: Context, schema: Schema) -> str:
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", value):
        return f"is {_shown(value)}, wanted a number; write {float(value)} without quotes"
    return f"is {_shown(value)}, wanted a number; write one such as {schema.get('default', 1.0)}"


def _not_text(value: Any, context: Context, schema: Schema) -> str:
    if value is None or isinstance(value, list | dict):
        return f"is {_shown(value)}, wanted text; write some"
    return f'is {_shown(value)}, wanted text; put it in quotes: "{_shown(value)}"'


def _not_a_switch(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; use true or false"


def _not_a_mapping(value: Any, context: Context, schema: Schema) -> str:
    if value is None:
        return "is empty, wanted fields below it; fill them in or remove it"
    return f"is {_shown(value)}, wanted fields below it; write each as `name: value`"


def _not_a_list(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}, wanted a list; begin each item with -"


def _not_one_of(value: Any, context: Context, schema: Schema) -> str:
    wanted = {"True": "true", "False": "false"}.get(context["expected"], context["expected"].replace("'", ""))
    return f"is {_shown(value)}; use {wanted}"


def _too_few(value: Any, context: Context, schema: Schema) -> str:
    return f"has {_counted(len(value), 'item')}; write at least {context['min_length']}"


def _too_many(value: Any, context: Context, schema: Schema) -> str:
    return f"has {_counted(len(value), 'item')}; keep at most {context['max_length']}"


def _too_short(value: Any, context: Context, schema: Schema) -> str:
    return f"has {_counted(len(value), 'character')}; write at least {context['min_length']}"


def _too_long(value: Any, context: Context, schema: Schema) -> str:
    return f"has {_counted(len(value), 'character')}; keep at most {context['max_length']}"


def _mismatch(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; {PATTERN_FIXES.get(context['pattern'], 'match ' + context['pattern'])}"


def _below_least(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; use at least {_bound(context['ge'])}"


def _above_most(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; use at most {_bound(context['le'])}"


def _not_above(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; use more than {_bound(context['gt'])}"


def _not_under(value: Any, context: Context, schema: Schema) -> str:
    return f"is {_shown(value)}; use less than {_bound(context['lt'])}"


def _refused(value: Any, context: Context, schema: Schema) -> str:
    """Return what a validator of ours said: it already has the form `problem; fix`."""
    return str(context["error"])


def _bound(bound: float) -> str:
    """Return a bound without `.0`."""
    return str(int(bound)) if float(bound).is_integer() else str(bound)


def _counted(number: int, noun: str) -> str:
    """Return `1 item`, `2 items`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


EXPLANATIONS: Mapping[str, Explanation] = {
    "missing": _missing,
    "int_type": _not_an_integer,
    "int_from_float": _not_an_integer,
    "int_parsing_size": _not_an_integer,
    "float_type": _not_a_number,
    "string_type": _not_text,
    "bool_type": _not_a_switch,
    "model_type": _not_a_mapping,
    "model_attributes_type": _not_a_mapping,
    "dict_type": _not_a_mapping,
    "tuple_type": _not_a_list,
    "enum": _not_one_of,
    "literal_error": _not_one_of,
    "too_short": _too_few,
    "too_long": _too_many,
    "string_too_short": _too_short,
    "string_too_long": _too_long,
    "string_pattern_mismatch": _mismatch,
    "greater_than_equal": _below_least,
    "less_than_equal": _above_most,
    "greater_than": _not_above,
    "less_than": _not_under,
    "value_error": _refused,
}
"""Pydantic's kinds of errors in our words."""
