"""The registry as it was before each change."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.faults.history import Change
from tests.faults.values import Value


@dataclass(frozen=True, slots=True)
class Step:
    """One change, and what was there before it. `before` is live: read it before the next step."""

    change: Change
    before: Mapping[str, Value]


def replay(changes: Iterable[Change]) -> Iterator[Step]:
    """Yield every change with the keys before it; a new life of the registry begins empty."""
    values: dict[str, Value] = {}
    life = None
    for change in changes:
        if change.life != life:
            values.clear()
            life = change.life
        yield Step(change, values)
        if change.value is None:
            values.pop(change.key, None)
        else:
            values[change.key] = change.value


def owner_of(key: str) -> tuple[str, str]:
    """Return pod and role of a key `members/<pod>/<role>` or `status/<pod>/<role>`."""
    _, pod, role = key.split("/")
    return pod, role
