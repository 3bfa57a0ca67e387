"""What a Lease says about who leads, and what it says once somebody else does. Pure: times come in."""

from dataclasses import dataclass
from datetime import datetime

from tandem_operator.kube.manifest import Manifest, number, section, text
from tandem_operator.kube.resources import LEASE


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How long leading lasts; `duration > renew_deadline > retry`, or two may lead at once."""

    duration_seconds: float = 15.0
    """Others may take the lease so long after they last saw it renewed."""
    renew_deadline_seconds: float = 10.0
    """The holder stops leading so long after its last renewal that went through."""
    retry_seconds: float = 2.0
    """How often the holder renews and others look."""

    def __post_init__(self) -> None:
        if not self.duration_seconds > self.renew_deadline_seconds > self.retry_seconds > 0:
            raise ValueError(
                f"lease: duration {self.duration_seconds:g} s, renew deadline {self.renew_deadline_seconds:g} s and "
                f"retry {self.retry_seconds:g} s do not fall; give a duration above the deadline above the retry"
            )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The part of a Lease that says who leads."""

    holder: str
    """Empty where it was released."""
    duration_seconds: int
    mark: tuple[str, str]
    """Changes whenever the holder renews; only compared, because clocks differ."""


def record_of(lease: Manifest) -> LeaseRecord:
    """Return what a Lease says."""
    spec = section(lease, "spec")
    return LeaseRecord(
        holder=text(spec, "holderIdentity"),
        duration_seconds=number(spec, "leaseDurationSeconds"),
        mark=(text(spec, "holderIdentity"), text(spec, "renewTime")),
    )


def new_lease(namespace: str, name: str, identity: str, timing: LeaseTiming, now: datetime) -> Manifest:
    """Return a Lease that is there for the first time."""
    empty: Manifest = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"namespace": namespace, "name": name},
    }
    return taken(empty, identity, timing, now)


def taken(lease: Manifest, identity: str, timing: LeaseTiming, now: datetime) -> Manifest:
    """Return a Lease as its new holder writes it, at the same resourceVersion."""
    spec = section(lease, "spec")
    num_changes = number(spec, "leaseTransitions") + (1 if text(spec, "holderIdentity") else 0)
    return {
        **lease,
        "spec": {
            **spec,
            "holderIdentity": identity,
            "leaseDurationSeconds": max(1, round(timing.duration_seconds)),
            "acquireTime": _micro_time(now),
            "renewTime": _micro_time(now),
            "leaseTransitions": num_changes,
        },
    }


def renewed(lease: Manifest, now: datetime) -> Manifest:
    """Return a Lease as its holder renews it, at the same resourceVersion."""
    return {**lease, "spec": {**section(lease, "spec"), "renewTime": _micro_time(now)}}


def released(lease: Manifest, now: datetime) -> Manifest:
    """Return a Lease that nobody holds, at the same resourceVersion: anybody may take it at once."""
    return {**lease, "spec": {**section(lease, "spec"), "holderIdentity": "", "renewTime": _micro_time(now)}}


def _micro_time(now: datetime) -> str:
    """Return a time as a Lease writes it: UTC with microseconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
