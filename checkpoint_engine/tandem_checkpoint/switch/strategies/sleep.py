"""Sleep: the servers live on without their memory; they wake up for the next weights, which are written in place.

vLLM's sleep mode, level 2: weights and cache are dropped, while processes, captured graphs and communicators stay. What
these hold stays on the device, so the trainer must leave room for it. CUDA only.
"""

from collections.abc import Sequence

from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.servers import Servers
from tandem_checkpoint.switch.strategies.staying import Staying
from tandem_checkpoint.switch.strategies.strategy import Forker, Weights

SLEEP_ARGUMENT = "--enable-sleep-mode"


class SleepRefused(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The job's device has no sleep mode; the message names the field and the fix."""


def check_device(device: str) -> None:
    """Raise SleepRefused where servers cannot sleep; to be called before anything is started."""
    if device != "cuda":
        raise SleepRefused("spec.switch.strategy: Sleep needs a CUDA device; use Restart or Resident on a CPU")


class Sleep(Staying):
    """See Strategy."""

    uses_token = True

    def __init__(self, zygote: Forker, commands: Sequence[Sequence[str]]) -> None:
        super().__init__(Servers(zygote, [(*command, SLEEP_ARGUMENT) for command in commands]))
        self._asleep = False

    async def serve(self, weights: Weights, stopwatch: Stopwatch) -> None:
        """Wake the servers in stage load, when the weights are there: a sleeping one has nothing to do before."""
        self._asleep = False
        await self._servers.start(weights, stopwatch)

    async def release(self) -> int:
        """Put the servers to sleep; what graphs and communicators hold stays on the devices."""
        if not self._asleep:
            await self._servers.bury()
            await self._servers.put_to_sleep()
            self._asleep = True
        return self._servers.held_bytes
