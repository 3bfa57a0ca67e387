"""tandem-engine: PID 1 of a trainer's or a server's container."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import click
from fastapi import FastAPI

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN
from tandem_api.registry import Role
from tandem_checkpoint.architectures import UnsupportedArchitecture
from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.architectures.split import SplitRefused
from tandem_checkpoint.devices import choose_devices
from tandem_checkpoint.disk.policy_check import check_policy
from tandem_checkpoint.gpu_token import GpuToken, TokenTimeout
from tandem_checkpoint.http import build_app, serve
from tandem_checkpoint.metrics import EngineMetrics
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.parent import PARENT_VARIABLE, adopt_orphans, die_with_parent
from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.settings import Settings, SettingsError, is_loopback
from tandem_checkpoint.switch.member import Member, MemberEnded
from tandem_checkpoint.switch.rollout import RolloutSide
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.strategies.choice import check_strategy
from tandem_checkpoint.switch.strategies.sleep import SleepRefused
from tandem_checkpoint.switch.train import TrainSide
from tandem_checkpoint.transfer.fetch import FetchFailed
from tandem_checkpoint.transfer.mooncake import Lender, MooncakeMissing, Session, open_session

logger = logging.getLogger("tandem_checkpoint")

TOKEN_FILE = "gpu.token"
KNOWN_ERRORS = (
    RegistryError,
    ChildGone,
    FetchFailed,
    SegmentError,
    SettingsError,
    SleepRefused,
    PolicyFolderError,
    UnsupportedArchitecture,
    SplitRefused,
    MemberEnded,
    TokenTimeout,
    TimeoutError,
)
"""What ends an engine without being a bug of ours: the container is started again."""


@click.command()
@click.option("--role", type=click.Choice(["train", "rollout"]), required=True, help="Which container this is.")
def main(role: str) -> None:
    """Run the engine of one container until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if PARENT_VARIABLE in os.environ:
        die_with_parent(signal.SIGTERM)
    adopt_orphans()
    sys.exit(asyncio.run(_supervised(cast("Role", role))))


async def _supervised(role: Role) -> int:
    """Run until SIGTERM (0) or until something that cannot be mended here (1)."""
    running = asyncio.create_task(_run(role), name="engine")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        logger.info("stopped")
        return 0
    except KNOWN_ERRORS as error:
        logger.error("%s", error)
        return 1
    except BaseExceptionGroup as group:
        known, unknown = group.split(KNOWN_ERRORS)
        for cause in _leaves(known):
            logger.error("%s", cause)
        if unknown is not None:
            raise unknown from None
        return 1
    return 0


async def _run(role: Role) -> None:
    settings = Settings.from_environment()
    check_strategy(settings)
    if role == "train":
        await asyncio.to_thread(check_policy, Path(settings.config.spec.policy.model.path))
    token = GpuToken(settings.shared / TOKEN_FILE, choose_devices(settings.config.device))
    async with (
        connect(settings.etcd, settings.etcd_credentials) as registry,
        mirrored(registry, settings.keys.prefix) as mirror,
    ):
        around = Surroundings(settings, registry, mirror, metrics=EngineMetrics(), mooncake=open_mooncake(settings))
        side = TrainSide(around, token) if role == "train" else RolloutSide(around, token)
        member = Member(side, around)
        port = ENGINE_PORT_TRAIN if role == "train" else ENGINE_PORT_ROLLOUT
        app = _api(member, side, around)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(serve(app, settings.address, port, settings.tls), name="http")
                tasks.create_task(member.run(), name="member")
        finally:
            with suppress(ProcessLookupError):
                await asyncio.shield(side.close())


def _api(member: Member, side: TrainSide | RolloutSide, around: Surroundings) -> FastAPI:
    """Return the HTTP API of a member: what each side can do."""
    trainer = side if isinstance(side, TrainSide) else None
    return build_app(
        around.settings.token,
        lambda: member.status,
        trainer,
        side.exports,
        address=around.settings.address,
        phase=member,
        publisher=trainer,
        fetcher=side if isinstance(side, RolloutSide) and side.exports is not None else None,
        metrics=around.metrics.rendered,
        lender=Lender(around.mooncake) if around.mooncake else None,
    )


def open_mooncake(settings: Settings) -> Session | None:
    """Return what reads weights one-sidedly, where the container asks for it and it can be had; else say why not."""
    if not settings.wants_mooncake:
        return None
    if is_loopback(settings.address):
        logger.warning("Mooncake would listen on every address of this machine: weights cross pods by plain HTTP")
        return None
    try:
        session = open_session(settings.address)
    except MooncakeMissing as error:
        logger.warning("Mooncake cannot be used: %s; weights cross pods by plain HTTP", error)
        return None
    logger.info("weights cross pods by Mooncake over %s, at %s", session.protocol, session.name)
    return session


def _leaves(group: BaseExceptionGroup[BaseException] | None) -> list[BaseException]:
    """Return the errors themselves, out of however many task groups they went through."""
    found: list[BaseException] = []
    for error in group.exceptions if group else ():
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    main()
