"""Which strategy a job has asked for, over a zygote that is always there."""

import sys
from collections.abc import Sequence

from tandem_api.job.operations import SwitchStrategy
from tandem_checkpoint.process.environment import child_variables
from tandem_checkpoint.process.keeper import ZygoteKeeper
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.strategies.resident import Resident
from tandem_checkpoint.switch.strategies.restart import Restart
from tandem_checkpoint.switch.strategies.sleep import Sleep, check_device
from tandem_checkpoint.switch.strategies.strategy import Strategy

ZYGOTE_SECONDS = 300.0
"""Time for the zygote's imports on a busy machine."""
ZYGOTE_PROGRAM = "tandem_sidecars.vllm"
STRATEGIES: dict[SwitchStrategy, type[Restart] | type[Sleep] | type[Resident]] = {
    SwitchStrategy.RESTART: Restart,
    SwitchStrategy.SLEEP: Sleep,
    SwitchStrategy.RESIDENT: Resident,
}


def check_strategy(settings: Settings) -> None:
    """Raise SleepRefused where the job's strategy does not work on its device; before anything is started."""
    if settings.config.spec.switch.strategy is SwitchStrategy.SLEEP:
        check_device(settings.config.device)


async def start_strategy(settings: Settings, commands: Sequence[Sequence[str]], token: int) -> Strategy:
    """Start a zygote and return the job's strategy over it. `token`: descriptor of the pod's token; servers inherit
    it.
    """
    zygote = await ZygoteKeeper.start(
        [sys.executable, "-m", ZYGOTE_PROGRAM, "--device", settings.config.device],
        child_variables(settings) | {"VLLM_API_KEY": settings.token},
        inherit=(token,),
        deadline_seconds=ZYGOTE_SECONDS,
    )
    return STRATEGIES[settings.config.spec.switch.strategy](zygote, commands)
