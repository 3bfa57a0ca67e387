"""All kinds of faults, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tests.faults.injections.clock import MoveClock
from tests.faults.injections.injector import Injector
from tests.faults.injections.network import Unreachable
from tests.faults.injections.registry import EmptyEtcd, LoseLease, RepeatWord
from tests.faults.injections.signals import Freeze, Kill, KillEtcd
from tests.faults.injections.storage import CorruptSegment, FillSharedMemory
from tests.faults.injections.strangers import SecondMaster, StalePublication, StaleStatus, StaleWord
from tests.faults.stages import ALL_STAGES, FETCH, SERVING, TO_INFER, TO_TRAIN, WITH_A_SERVER, Stage

LONG_SECONDS = 30.0
"""Faults that stay longer have no place in a slice of a few minutes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    name: str
    seam: str
    """What is hurt."""
    make: Callable[[], Injector]
    stages: Sequence[Stage] = ALL_STAGES
    """Where it makes sense."""
    is_elastic: bool = False
    """Needs a rollout-only pod."""
    is_long: bool = False


def _processes() -> list[Kind]:
    seams = {
        "engine-train": ("train", 3.0, ALL_STAGES),
        "engine-rollout": ("rollout", 3.0, ALL_STAGES),
        "zygote": ("rollout", 3.0, ALL_STAGES),
        "server": ("rollout", 3.0, WITH_A_SERVER),
        "rank": ("train", 3.0, ALL_STAGES),
        "master": ("master", 3.0, ALL_STAGES),
    }
    kinds = []
    for name, (seam, seconds, stages) in seams.items():
        kinds.append(Kind(f"kill {name}", seam, partial(Kill, name), stages))
        kinds.append(Kind(f"stop {name}", seam, partial(Freeze, name, seconds), stages))
    return kinds


def _past_the_lease() -> list[Kind]:
    """Stops that outlast a lease of ten seconds: the process wakes as somebody stale."""
    return [
        Kind(f"stop {name} past its lease", seam, partial(Freeze, name, 13.0))
        for name, seam in (("engine-train", "train"), ("engine-rollout", "rollout"), ("master", "master"))
    ]


def _registry() -> list[Kind]:
    outages = [
        Kind(f"etcd away for {s:.0f} s", "etcd", partial(Freeze, "etcd", s), is_long=s > LONG_SECONDS)
        for s in (1.0, 10.0, 60.0)
    ]
    leases = [
        Kind(f"lost lease of {owner}", owner, partial(LoseLease, owner)) for owner in ("train", "rollout", "master")
    ]
    return [
        *outages,
        *leases,
        Kind("kill etcd", "etcd", KillEtcd),
        Kind("empty etcd", "etcd", EmptyEtcd),
        Kind("repeated word", "master", RepeatWord),
    ]


def _strangers() -> list[Kind]:
    return [
        Kind("stale desired", "master", StaleWord),
        Kind("stale published", "master", StalePublication),
        Kind("stale status", "train", StaleStatus),
        Kind("second master", "master", SecondMaster, is_long=True),
    ]


def _machine() -> list[Kind]:
    clocks = [
        Kind(
            f"clock of {container} {offset:+.0f} s",
            {"trainer": "train"}.get(container, container),
            partial(MoveClock, container, offset, 4.0),
        )
        for container in ("trainer", "rollout", "master")
        for offset in (3600.0, -3600.0)
    ]
    return [
        Kind("corrupt segment", "rollout", CorruptSegment, TO_INFER[:2]),
        Kind("full /dev/shm", "machine", partial(FillSharedMemory, 2.0)),
        *clocks,
    ]


def _peers() -> list[Kind]:
    stages = (FETCH, *TO_INFER[6:], SERVING, *TO_TRAIN[:1])
    return [
        Kind(f"unreachable {victim}", "peer", partial(Unreachable, victim, 5.0), stages, is_elastic=True)
        for victim in ("rollout", "trainer")
    ]


KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (*_processes(), *_past_the_lease(), *_registry(), *_strangers(), *_machine(), *_peers())
}
"""By name, in the order of the table."""
