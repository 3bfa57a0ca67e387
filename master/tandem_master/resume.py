"""Where a run begins: at the newest checkpoint, or at the initial policy."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tandem_api.registry import Desired, Keys, MemberState, MemberStatus
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.registry.store import Registry
from tandem_master.buffer.store import Buffer
from tandem_master.checkpoints import count_complete, latest_generation, sweep_uncounted
from tandem_master.errors import BufferStateError
from tandem_master.mastership import Mastership
from tandem_master.phases import new_lineage
from tandem_master.watched import WatchedKeys

logger = logging.getLogger(__name__)


SETTLE_SECONDS = 120.0
"""Time for trainers that start or rejoin to say what they hold."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins."""

    generation: int
    lineage: str
    """That of the weights which the trainers hold; a new one where the run goes back to a checkpoint."""


async def find_start(state: Path, buffer: Buffer, weights: WatchedKeys, keys: Keys, pods: Sequence[str]) -> Start:
    """Return where to go on: after the last committed iteration where its weights are still held, else at a checkpoint.

    `weights` follows the job's `status/` and `weights/` keys. Errors: BufferStateError.
    """
    newest = await asyncio.to_thread(buffer.newest_iteration)
    if newest > await asyncio.to_thread(count_complete, state / "checkpoints", buffer):
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                lineage = await weights.until(lambda values: held_lineage(values, keys, pods, newest))
        except TimeoutError:
            lineage = ""
        if lineage:
            await asyncio.to_thread(buffer.rollback, newest)
            return Start(newest, lineage)
        logger.warning("generation %d is held by nobody any more", newest)
    return Start(await resume_generation(state, buffer), new_lineage())


def held_lineage(values: Mapping[str, str], keys: Keys, pods: Sequence[str], generation: int) -> str | None:
    """Return the lineage of a generation that every trainer holds, in ranks or in segments; "" where one does not.

    None while a trainer is still starting, and may have it in its segments. Weights that came from a checkpoint have no
    lineage yet, and need none: a checkpoint is there.
    """
    held = [_held_by(values, keys, pod, generation) for pod in pods]
    if "" in held or len({lineage for lineage in held if lineage is not None}) > 1:
        return ""
    return None if None in held else held[0]


def _held_by(values: Mapping[str, str], keys: Keys, pod: str, generation: int) -> str | None:
    """Return the lineage in which a pod's trainer holds a generation; "" where it does not, None where it is
    starting.
    """
    prefix = f"{keys.shards(generation)}{pod}/"
    shards = [Shard.model_validate_json(value) for key, value in values.items() if key.startswith(prefix)]
    if shards:
        return shards[0].lineage
    raw = values.get(keys.status(pod, "train"))
    status = MemberStatus.model_validate_json(raw) if raw else None
    if status is None or status.state is MemberState.STARTING:
        return None
    return status.lineage if status.generation == generation else ""


async def resume_generation(state: Path, buffer: Buffer) -> int:
    """Return the generation of the newest checkpoint, and undo in the buffer what came after it.

    Trainers read the same `latest`. What that very generation sampled before an interruption stays and is used again.
    Errors: BufferStateError.
    """
    generation = await asyncio.to_thread(latest_generation, state / "checkpoints")
    newest = await asyncio.to_thread(buffer.newest_iteration)
    if newest > generation:
        logger.warning("iterations %d to %d are run again: no checkpoint was made of them", generation + 1, newest)
    await asyncio.to_thread(buffer.rollback, generation)
    await asyncio.to_thread(sweep_uncounted, state / "checkpoints", generation)
    return generation


async def last_epoch(registry: Registry, keys: Keys) -> int:
    """Return the epoch that an earlier master reached, 0 where there was none. Errors: BufferStateError."""
    value = await registry.get(keys.desired)
    if value is None:
        return 0
    try:
        return Desired.model_validate_json(value).epoch
    except ValidationError as error:
        raise BufferStateError(f"{keys.desired}: {error.errors()[0]['msg']}; delete the key") from error


async def forget_weights(registry: Registry, mastership: Mastership, keys: Keys, start: Start) -> None:
    """Delete what the registry says about weights that this run does not go on from.

    Their numbers will be given again, to other weights. Errors: Fenced and LeaseLost, as Mastership.delete.
    """
    for prefix in stale_weights(await registry.list(keys.weights), keys, start):
        await mastership.delete(prefix)


def stale_weights(found: Mapping[str, str], keys: Keys, start: Start) -> tuple[str, ...]:
    """Return what to delete of the weights' keys `found`: other generations or lineages, and `published`."""
    numbers = {key.removeprefix(keys.weights).partition("/")[0] for key in found if key != keys.published}
    stale = sorted(number for number in numbers if not _is_of(found.get(keys.layout(int(number))), number, start))
    published = [keys.published] if keys.published in found else []
    return (*published, *(f"{keys.weights}{number}/" for number in stale))


def _is_of(layout: str | None, number: str, start: Start) -> bool:
    """Tell whether a layout belongs to the generation that a run starts from, or leads up to it in the same lineage."""
    if layout is None:
        return False
    found = Layout.model_validate_json(layout)
    return found.lineage == start.lineage and int(number) <= start.generation
