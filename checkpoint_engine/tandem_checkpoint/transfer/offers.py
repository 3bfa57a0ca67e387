"""Who offers a generation, as the registry says: pods whose trainer has registered all of its pieces."""

from collections import defaultdict
from collections.abc import Mapping

from tandem_api.registry import Keys, MemberRecord
from tandem_api.weights import Shard
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import covers
from tandem_checkpoint.transfer.plan import Offer, Source


def find_offers(values: Mapping[str, str], keys: Keys, generation: int, layout: SegmentLayout) -> tuple[Offer, ...]:
    """Return the complete offers of a generation in `values` (key to JSON), by pod.

    A shard counts only where the trainer that wrote it is still the one that is registered.
    """
    prefix = keys.shards(generation)
    by_pod: defaultdict[str, list[Shard]] = defaultdict(list)
    for key, raw in values.items():
        if key.startswith(prefix):
            by_pod[key.removeprefix(prefix).rpartition("/")[0]].append(Shard.model_validate_json(raw))
    found = (_offer(values.get(keys.member(pod, "train")), pod, by_pod[pod], layout) for pod in sorted(by_pod))
    return tuple(offer for offer in found if offer is not None)


def _offer(raw: str | None, pod: str, shards: list[Shard], layout: SegmentLayout) -> Offer | None:
    if raw is None:
        return None
    member = MemberRecord.model_validate_json(raw)
    if any(shard.incarnation != member.incarnation for shard in shards):
        return None
    pieces = tuple(piece for shard in shards for piece in shard.pieces)
    return Offer(Source(pod, member.url), pieces) if covers(layout, pieces) else None
