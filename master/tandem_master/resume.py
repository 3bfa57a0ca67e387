"""Where a run begins: at the newest checkpoint, or at the initial policy."""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from tandem_api.registry import Desired, Keys
from tandem_checkpoint.registry.store import Registry
from tandem_master.buffer.store import Buffer
from tandem_master.checkpoints import latest_generation
from tandem_master.errors import BufferStateError

logger = logging.getLogger(__name__)


async def resume_generation(state: Path, buffer: Buffer) -> int:
    """Return the generation that the trainers start from, and undo in the buffer what came after it.

    Trainers read the same `latest`. What that very generation sampled before an interruption stays and is used again.
    Errors: BufferStateError.
    """
    generation = await asyncio.to_thread(latest_generation, state / "checkpoints")
    newest = await asyncio.to_thread(buffer.newest_iteration)
    if newest > generation:
        logger.warning("iterations %d to %d are run again: no checkpoint was made of them", generation + 1, newest)
    await asyncio.to_thread(buffer.rollback, generation)
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


async def forget_weights(registry: Registry, keys: Keys, generation: int) -> None:
    """Delete what the registry says about other generations than the one that this run starts from.

    Their numbers will be given again, to other weights.
    """
    for prefix in stale_weights(await registry.list(_weights(keys)), keys, generation):
        await registry.delete(prefix)


def stale_weights(found: Iterable[str], keys: Keys, generation: int) -> tuple[str, ...]:
    """Return what to delete of the weights' keys `found`: prefixes of other generations, and `published`."""
    numbers = {key.removeprefix(_weights(keys)).partition("/")[0] for key in found if key != keys.published}
    stale = sorted(number for number in numbers if number != str(generation))
    published = [keys.published] if keys.published in set(found) else []
    return (*published, *(f"{_weights(keys)}{number}/" for number in stale))


def _weights(keys: Keys) -> str:
    return keys.published.removesuffix("published")
