"""A process that does nothing, with the words and the variables of one of a job."""

import asyncio
import os
import sys

CODE = "import time; print('here', flush=True); time.sleep(60)"


async def start_sleeper(*words: str, **variables: str) -> asyncio.subprocess.Process:
    """Start it and wait until it runs: for a moment after a start the kernel tells neither words nor variables."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, *words, env=os.environ | variables, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    return process
