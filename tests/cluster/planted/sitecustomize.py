"""A planted fault: a trainer rank that takes more and more memory once a file asks for it.

Active only where PYTHONPATH names this folder: Python imports `sitecustomize` at every start.
"""

import os
from pathlib import Path
from threading import Thread
from time import sleep

POLL_SECONDS = 0.1
STEP_BYTES = 32 << 20
MOST_BYTES = 8 << 30


def leak_when_asked(order: Path) -> None:
    """Wait for the file, remove it so that no later process obeys it too, and take memory until the kernel minds."""
    while not order.exists():
        sleep(POLL_SECONDS)
    order.unlink()
    taken: list[bytes] = []
    while len(taken) * STEP_BYTES < MOST_BYTES:
        taken.append(b"x" * STEP_BYTES)


if "LOCAL_RANK" in os.environ:
    Thread(target=leak_when_asked, args=(Path(os.environ["TANDEM_STATE"]) / "leak",), daemon=True).start()
