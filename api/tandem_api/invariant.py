"""Relations between fields, each said once: in Python for `parse_job`, in CEL for an API server, with one message."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from tandem_api.resource import Resource

BROKEN_INVARIANTS = "broken_invariants"
"""Pydantic's kind of the error; `broken` in its context holds (field, message) pairs."""
VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Invariant:
    """A relation that must hold within one object."""

    field: str
    """Dotted path of the field to mend, below the object that carries the invariant; empty for the object itself."""
    cel: str
    """The relation in the Common Expression Language, with the object as `self`."""
    holds: Callable[[Any], bool]
    """The same relation in Python."""
    message: str
    """`problem; fix`."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A relation between an object and what it was before an update: only an API server knows both."""

    field: str
    """Dotted path of the field that may not change so."""
    cel: str
    """The relation, with the object as `self` and the one before as `oldSelf`."""
    message: str
    """`problem; fix`."""


class Guarded(Resource):
    """A resource with relations between its fields, which its schema carries as validations."""

    invariants: ClassVar[tuple[Invariant, ...]] = ()
    """What must hold."""
    transitions: ClassVar[tuple[Transition, ...]] = ()
    """What an update must keep."""

    @model_validator(mode="after")
    def _keep_invariants(self) -> Self:
        broken = [(relation.field, relation.message) for relation in self.invariants if not relation.holds(self)]
        if broken:
            text = ", ".join(f"{field}: {message}" for field, message in broken)
            raise PydanticCustomError(BROKEN_INVARIANTS, "{text}", {"text": text, "broken": broken})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(schema)
        relations: tuple[Invariant | Transition, ...] = (*cls.invariants, *cls.transitions)
        if relations:
            handler.resolve_ref_schema(reference)[VALIDATIONS] = [_validation(relation) for relation in relations]
        return reference


def _validation(relation: Invariant | Transition) -> dict[str, str]:
    """Return one entry of `x-kubernetes-validations`."""
    validation = {"rule": relation.cel, "message": relation.message}
    return {**validation, "fieldPath": f".{relation.field}"} if relation.field else validation
