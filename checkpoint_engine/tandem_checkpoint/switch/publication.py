"""What a trainer says of a generation that somebody had it export and register."""

from tandem_api.engine import PublishedWeights
from tandem_api.registry import Desired
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.segments.record import ExportRecord
from tandem_checkpoint.switch.side import Surroundings


def word_epoch(around: Surroundings, record: ExportRecord) -> int:
    """Return the epoch of the master's word where it is about these very weights, 0 where it is not."""
    raw = around.mirror.values.get(around.settings.keys.desired)
    word = Desired.model_validate_json(raw) if raw else None
    if word is None or (word.generation, word.lineage) != (record.generation, record.lineage):
        return 0
    return word.epoch


async def published_weights(around: Surroundings, record: ExportRecord) -> PublishedWeights:
    """Return what the registry has of an export. Errors: RegistryError; Conflict where it has another lineage's."""
    settings, generation = around.settings, record.generation
    keys = settings.keys
    found = await around.registry.list(keys.layout(generation).removesuffix("layout"))
    layout = Layout.model_validate_json(raw) if (raw := found.get(keys.layout(generation))) else None
    if layout is None or layout.lineage != record.lineage:
        raise Conflict(
            f"generation {generation} is registered of another run of generations; wait for the master's word"
        )
    prefix = keys.shards(generation)
    names = {
        key.removeprefix(prefix)
        for key, value in found.items()
        if key.startswith(prefix) and Shard.model_validate_json(value).lineage == record.lineage
    }
    return PublishedWeights(
        generation=generation,
        num_shards=sum(name.startswith(f"{settings.pod}/") for name in names),
        num_bytes=sum(piece.num_bytes for shard in record.shards for piece in shard.pieces),
        is_complete=names.issuperset(layout.shards),
    )
