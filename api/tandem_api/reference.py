"""The reference page of RLJob: `python -m tandem_api.reference > docs/rljob.md`."""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from enum import StrEnum

from tandem_api.crd import PRESERVE, Schema, custom_resource_definition
from tandem_api.invariant import VALIDATIONS
from tandem_api.job.failure import FailureAction, FailureReason
from tandem_api.job.immutability import ALWAYS_KEPT, KEPT_WHILE_RUNNING
from tandem_api.job.operations import GangProvider, SwitchStrategy
from tandem_api.job.pods import GpuSharing
from tandem_api.job.recipe import Normalization, ObjectiveName
from tandem_api.job.rewards import BuiltinReward
from tandem_api.job.sampling import DifficultySource, SamplingStrategy
from tandem_api.job.status import ConditionType

INTRODUCTION = """\
<!-- Generated from tandem_api by `python -m tandem_api.reference > docs/rljob.md`; a test fails when it is stale. -->
# RLJob

Every field of `tandem.dev/v1alpha1`, kind `RLJob` (`kubectl get rlj`, `kubectl get tandem`). Units are in the names:
`Seconds`, `Tokens`, `Iterations`; a quantity is written as in Kubernetes (`500m`, `64Gi`). A job needs `policy.model`,
`data.train` and `rewards`; everything else has a default. `kubectl explain rljob.spec` reads the same text.

An API server refuses a job that breaks a bound or a rule below, and `tandem validate` says the same of a file, every
mistake at once: `spec.field: problem; fix`. An API server drops a field that it does not know; `kubectl` refuses it.
"""
CHANGES = """\
## What may change after a job is applied

While the job runs: `suspend`, `activeDeadlineSeconds`, `ttlSecondsAfterFinished`, `failurePolicy`,
`rollout.elastic.replicas` (also by `kubectl scale rlj/<name> --replicas=2`) and `scheduling.priorityClassName`. Any
other change is refused with the way out: set `suspend: true` first, then change it, then set `suspend: false`, all
of which `kubectl apply` can do. One change escapes an API server: it cannot see that an engine argument in
`rollout.engineArgs` was exchanged for one of another name. The operator sees it, and makes all pods anew with it.
"""
LONGEST_DEFAULT = 100
"""Most characters of a default that is shown."""
WORDS = (
    ("spec.hybrid.gpu.sharing", GpuSharing),
    ("spec.rewards[].builtin", BuiltinReward),
    ("spec.recipe.objective.name", ObjectiveName),
    ("spec.recipe.objective.normalization", Normalization),
    ("spec.recipe.sampling.strategy", SamplingStrategy),
    ("spec.recipe.sampling.curriculum.difficulty", DifficultySource),
    ("spec.switch.strategy", SwitchStrategy),
    ("spec.failurePolicy.rules[].match.reason", FailureReason),
    ("spec.failurePolicy.rules[].action", FailureAction),
    ("spec.scheduling.gang", GangProvider),
    ("status.conditions[].type", ConditionType),
)
"""Fields with a choice of words."""


def reference() -> str:
    """Return the page."""
    root = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = root["properties"]
    parts = [
        INTRODUCTION,
        *_sections("spec", fields["spec"]),
        CHANGES,
        _kept(),
        *_sections("status", fields["status"]),
        "## Words\n",
        *(_words(field, choices) for field, choices in WORDS),
    ]
    return "\n".join(parts)


def _sections(path: str, node: Schema) -> Iterator[str]:
    """Yield the section of an object and those of all objects below it."""
    yield f"## {path}\n\n{node['description']}\n\n{_table(node)}{_rules(node)}"
    for name, below in node["properties"].items():
        if "properties" in below:
            yield from _sections(f"{path}.{name}", below)
        elif "properties" in below.get("items", {}):
            described = {**below["items"], "description": below["description"]}
            yield from _sections(f"{path}.{name}[]", described)


def _table(node: Schema) -> str:
    """Return the fields of an object as a table."""
    rows = [
        f"| `{name}` | {_kind(field)} | {_default(field, name in node.get('required', []))} | {_cell(field)} |"
        for name, field in node["properties"].items()
    ]
    return "\n".join(["| field | value | default | effect |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _cell(field: Schema) -> str:
    return str(field.get("description", "")).replace("|", "\\|")


def _kind(field: Schema) -> str:
    """Return what a field takes: its values, or its type with its bounds."""
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in field["enum"])
    if "items" in field:
        return f"list of {_count(field, 'Items')}: {_kind(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_count(field, 'Properties')}: {_kind(field['additionalProperties'])}"
    if PRESERVE in field:
        return "any fields"
    if field["type"] == "object":
        return "section"
    return f"{'text' if field['type'] == 'string' else field['type']}{_bounds(field)}"


def _count(field: Schema, unit: str) -> str:
    """Return how many items a list or a map takes."""
    least, most = field.get(f"min{unit}", 0), field.get(f"max{unit}")
    return str(most) if least == most else f"{least} to {most}"


def _bounds(field: Schema) -> str:
    """Return the bounds of a number."""
    least, most = field.get("minimum"), field.get("maximum")
    words = [] if least is None else [f"{'more than' if field.get('exclusiveMinimum') else 'at least'} {least:.16g}"]
    words += [] if most is None else [f"{'less than' if field.get('exclusiveMaximum') else 'at most'} {most:.16g}"]
    return "".join(f", {word}" for word in words)


def _default(field: Schema, required: bool) -> str:
    """Return the default; a section's is that of its fields."""
    if required:
        return "required"
    if "default" not in field or "properties" in field:
        return ""
    text = json.dumps(field["default"], ensure_ascii=False)
    return f"`{text.strip(chr(34))}`" if len(text) <= LONGEST_DEFAULT else ""


def _rules(node: Schema) -> str:
    """Return the relations between the fields of an object, as they are told to who breaks them."""
    told = [
        f"- `{validation.get('fieldPath', '').lstrip('.')}` {validation['message']}"
        if "fieldPath" in validation
        else f"- {validation['message']}"
        for validation in node.get(VALIDATIONS, [])
        if "oldSelf" not in validation["rule"]
    ]
    return "\n".join(["\nRefused:\n", *told]) + "\n" if told else ""


def _kept() -> str:
    """Return what may not change, by section."""
    running = ", ".join(_named(section, fields) for section, fields in KEPT_WHILE_RUNNING)
    never = " and ".join(_named(section, fields) for section, fields in ALWAYS_KEPT)
    return f"Changed while suspended only: {running}.\n\nNever changed: {never}.\n"


def _named(section: str, fields: tuple[str, ...]) -> str:
    """Return the fields of a section as the page names them."""
    return ", ".join(f"`{section}.{field.removesuffix('?')}`" for field in fields) or f"`{section}`"


def _words(field: str, choices: type[StrEnum]) -> str:
    """Return what each word of a field means."""
    meanings = _meanings(choices)
    rows = [f"- `{choice.value}`: {meanings[choice.name]}" for choice in choices]
    return "\n".join([f"`{field}`: {inspect.getdoc(choices)}\n", *rows]) + "\n"


def _meanings(choices: type[StrEnum]) -> dict[str, str]:
    """Return the text below each member of an enumeration, which Python itself does not keep."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(choices))).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for member, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            (name,) = (target.id for target in member.targets if isinstance(target, ast.Name))
            meanings[name] = " ".join(str(text.value.value).split())
    return meanings


if __name__ == "__main__":
    sys.stdout.write(reference())
