"""The protocol seam to etcd: the verbs that the engine, the master and the command line need."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Put:
    """One write of a transaction. `lease`: id, or 0 for a key that outlives its writer."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Is:
    """Guard: the key holds exactly this value."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Absent:
    """Guard: the key does not exist."""

    key: str


@dataclass(frozen=True, slots=True)
class Present:
    """Guard: the key exists, whatever it holds."""

    key: str


Guard = Is | Absent | Present


@dataclass(frozen=True, slots=True)
class Change:
    """One watched change; `value` is None when the key was deleted or its lease expired."""

    key: str
    value: str | None


class Lease(Protocol):
    """A lease that renews itself while its context is open."""

    @property
    def id(self) -> int: ...

    @property
    def alive(self) -> bool:
        """False once the lease has expired, or was not renewed for its whole time to live."""
        ...

    async def revoke(self) -> None:
        """End the lease now, and with it its keys; harmless where it has ended or the registry is away."""
        ...


class Registry(Protocol):
    """etcd, as far as Tandem uses it.

    Every call is safe to repeat, and is made again for some seconds while etcd is away; then it raises
    RegistryUnreachable. RegistryRefused where etcd does not let us.
    """

    async def get(self, key: str) -> str | None:
        """Return the value of `key`, None where absent."""
        ...

    async def list(self, prefix: str) -> Mapping[str, str]:
        """Return all keys under `prefix` with their values, in key order."""
        ...

    async def put(self, key: str, value: str, *, lease: int = 0) -> None:
        """Write one key."""
        ...

    async def transact(self, guards: Sequence[Guard], puts: Sequence[Put]) -> None:
        """Write all `puts` where all `guards` hold; else raise Fenced and write nothing.

        Values that are there already count as written: a call that is made again may have been carried out before.
        """
        ...

    async def delete(self, prefix: str, guards: Sequence[Guard] = ()) -> None:
        """Delete every key that starts with `prefix` where all `guards` hold.

        Else raise Fenced and delete nothing; where nothing is there to delete, guards do not matter.
        """
        ...

    def watch(self, prefix: str) -> AsyncIterator[tuple[Change, ...]]:
        """Yield first everything that is there (possibly an empty tuple), then changes as they come, without a gap.

        Survives reconnection: after one, everything that is there comes again, and a deletion of what has gone.
        """
        ...

    def lease(self, seconds: int) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease while the context is open; leaving it revokes the lease, and with it its keys."""
        ...
