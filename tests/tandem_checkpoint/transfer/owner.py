"""A pod in a process of its own, which can be killed, stopped and started again: `python -m` this module.

Arguments: folder, name, seed of its weights, address, and `lends`. Prints its shard when it serves.
"""

import asyncio
import sys
from pathlib import Path

from tests.tandem_checkpoint.transfer.pods import exporting_pod, mooncake_session


async def main(folder: str, name: str, seed: str, address: str, lends: str) -> None:
    session = mooncake_session(name) if lends == "lends" else None
    async with exporting_pod(Path(folder), name, int(seed), session, address) as pod:
        print(pod.shard.model_dump_json(), flush=True)  # noqa: T201 - read by the test
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
