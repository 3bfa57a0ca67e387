"""Who offers a generation, as the registry says: trainers that have registered it, and pods that fetched it."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from tandem_api.registry import CopyRecord, Keys, MemberRecord
from tandem_api.weights import Shard
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import covers
from tandem_checkpoint.transfer.plan import Offer, Source, digest_of, plan_routes


def find_offers(
    values: Mapping[str, str], keys: Keys, generation: int, layout: SegmentLayout, lineage: str = ""
) -> tuple[Offer, ...]:
    """Return what trainers offer of a generation in `values` (key to JSON), by pod; nothing unless it is all of it.

    A shard counts only where the trainer that wrote it is still the one that is registered, and it is of this lineage.
    """
    prefix = keys.shards(generation)
    by_pod: defaultdict[str, list[Shard]] = defaultdict(list)
    for key, raw in values.items():
        if key.startswith(prefix):
            by_pod[key.removeprefix(prefix).rpartition("/")[0]].append(Shard.model_validate_json(raw))
    found = (_offer(values.get(keys.member(pod, "train")), pod, by_pod[pod], lineage) for pod in sorted(by_pod))
    offers = tuple(offer for offer in found if offer is not None)
    pieces = {(piece.tensor, piece.start, piece.stop): piece for offer in offers for piece in offer.pieces}
    return offers if covers(layout, tuple(pieces.values())) else ()


def find_peers(values: Mapping[str, str], keys: Keys, hybrid_pods: Collection[str]) -> tuple[str, ...]:
    """Return the rollout-only pods, which lack every byte unless they offer copies."""
    pods = (key.removeprefix(keys.members).rpartition("/")[0] for key in values if key.startswith(keys.members))
    return tuple(sorted({*pods} - {*hybrid_pods}))


def find_copies(
    values: Mapping[str, str], keys: Keys, generation: int, offers: Sequence[Offer], reader: str
) -> tuple[Offer, ...]:
    """Return what pods other than `reader` give on of what they have fetched, by pod.

    A copy counts where it is of the very pieces that `offers` make up, and the engine that has it is still the one that
    is registered: so it goes when the trainers' own shards go.
    """
    prefix = keys.copies(generation)
    copies = {key.removeprefix(prefix).rpartition("/")[0]: raw for key, raw in values.items() if key.startswith(prefix)}
    copies.pop(reader, None)
    known = {digest_of(route.pieces): route.pieces for route in plan_routes(offers, reader)} if copies else {}
    found = []
    for pod in sorted(copies):
        copy = CopyRecord.model_validate_json(copies[pod])
        raw = values.get(keys.member(pod, "rollout"))
        member = MemberRecord.model_validate_json(raw) if raw else None
        if member is not None and member.incarnation == copy.incarnation and copy.digest in known:
            found.append(Offer(Source(pod, member.url), known[copy.digest]))
    return tuple(found)


def _offer(raw: str | None, pod: str, shards: list[Shard], lineage: str) -> Offer | None:
    if raw is None:
        return None
    member = MemberRecord.model_validate_json(raw)
    if any(shard.incarnation != member.incarnation or shard.lineage != lineage for shard in shards):
        return None
    return Offer(Source(pod, member.url), tuple(piece for shard in shards for piece in shard.pieces))
