"""The trainers of a job as one group: who they are, where each rank stands, and when the group has changed.

A group of torch.distributed cannot take a new rank in. So each pod's ranks have a life, a random id in their member's
record, and a crew is what the lives of all pods are. Where one of them changes, every pod starts its ranks anew. They
meet once every pod has said that it is of the same crew: until then a rank of the crew before might still be listening.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from tandem_api.engine import RENDEZVOUS_PORT
from tandem_api.registry import MemberRecord
from tandem_checkpoint.layouts.pod import PodRanks, split_of
from tandem_checkpoint.process.commands import RankPlace
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.settings import Settings


@dataclass(frozen=True, slots=True)
class Crew:
    """The trainers of all hybrid pods, by ordinal."""

    lives: tuple[str, ...]
    address: str
    """Address of the pod that holds rank 0."""
    port: int
    """Port at which rank 0 gathers the others."""

    @property
    def name(self) -> str:
        """A name that this group shares with no other one."""
        return sha256("/".join(self.lives).encode()).hexdigest()[:16]


def find_crew(mirror: Mirror, settings: Settings, own_life: str) -> Crew | None:
    """Return the crew once every trainer of this attempt is registered with its ranks, ours with `own_life`; else None.

    A pod may wait for its devices for hours; ranks that meet wait for each other for minutes only.
    """
    raw = [mirror.values.get(settings.keys.member(pod, "train")) for pod in settings.config.hybrid_pods]
    records = [MemberRecord.model_validate_json(text) for text in raw if text]
    here = [record for record in records if record.attempt == settings.attempt and record.ranks_life]
    if len(here) != len(raw) or here[settings.config.hybrid_pods.index(settings.pod)].ranks_life != own_life:
        return None
    first = here[0]
    return Crew(tuple(record.ranks_life for record in here), first.address, first.rendezvous_port or RENDEZVOUS_PORT)


def is_agreed(mirror: Mirror, settings: Settings, crew: Crew) -> bool | None:
    """Return True once every pod has said that its ranks are of this crew, False once one cannot be, else None."""
    raw = [mirror.values.get(settings.keys.member(pod, "train")) for pod in settings.config.hybrid_pods]
    if all(text and MemberRecord.model_validate_json(text).crew == crew.name for text in raw):
        return True
    own_life = crew.lives[settings.config.hybrid_pods.index(settings.pod)]
    return None if find_crew(mirror, settings, own_life) in (crew, None) else False


def other_crew(mirror: Mirror, settings: Settings, crew: Crew) -> str | None:
    """Return the pods whose ranks have another life than in `crew`, in words; None while all are there as they were.

    A pod that is not registered just now may come back with the same ranks: that alone changes nothing.
    """
    changed = []
    for pod, life in zip(settings.config.hybrid_pods, crew.lives, strict=True):
        raw = mirror.values.get(settings.keys.member(pod, "train"))
        if raw is not None and MemberRecord.model_validate_json(raw).ranks_life != life:
            changed.append(pod)
    return f"the ranks of {', '.join(changed)} have started anew" if changed else None


def places_of(crew: Crew, settings: Settings) -> Sequence[RankPlace]:
    """Return the places of this pod's ranks."""
    pod = pod_ranks(settings)
    return [
        RankPlace(
            rank=pod.number(local),
            world_size=pod.num_pods * pod.num_ranks,
            local_rank=local,
            pod=pod.ordinal,
            rendezvous_address=crew.address,
            rendezvous_port=crew.port,
        )
        for local in range(pod.num_ranks)
    ]


def pod_ranks(settings: Settings) -> PodRanks:
    """Return the ranks of this pod among those of the job."""
    config = settings.config
    return PodRanks(
        split_of(config.spec.trainer.parallelism),
        config.spec.hybrid.gpus_per_pod,
        num_pods=len(config.hybrid_pods),
        ordinal=config.hybrid_pods.index(settings.pod),
    )
