"""A run of the loop, from the election of the master to the record of its end."""

import asyncio
import logging
import sqlite3
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from time import time
from typing import Literal

import httpx

from tandem_api.history import RunEnded, RunStarted
from tandem_api.registry import Progress
from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryError
from tandem_checkpoint.registry.store import Registry
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.checkpoints import Checkpoints
from tandem_master.data.catalogue import Catalogue, load_catalogue
from tandem_master.errors import ElectionError, MasterError, MembersError, Stopped, TrainError
from tandem_master.iteration import run_iteration
from tandem_master.journal import Journal, open_journal
from tandem_master.mastership import Mastership, elected
from tandem_master.members import MemberId, Membership, hybrid_members, wait_for_members
from tandem_master.phases import Parties, Switcher
from tandem_master.progress import ProgressBoard
from tandem_master.resume import forget_weights, last_epoch, resume_generation
from tandem_master.run import Run
from tandem_master.settings import Settings
from tandem_master.stop import StopSignal
from tandem_master.tasks import alongside
from tandem_master.trainers import Trainer, TrainerApi
from tandem_master.watched import WatchedKeys, watched

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""Deadline of a connection to an engine or a server; each request sets its own deadline for the answer."""


@dataclass(frozen=True, slots=True)
class Office:
    """What an elected master has before it knows anything of policy, problems and members."""

    settings: Settings
    registry: Registry
    mastership: Mastership
    journal: Journal
    board: ProgressBoard
    stop: StopSignal


async def run_job(settings: Settings, registry: Registry, stop: StopSignal) -> int:
    """Run the job to its end and return the exit code: 0 completed or stopped cleanly, 1 failed.

    A master that is not, or no longer, the job's one master changes nothing and returns 1.
    """
    try:
        async with AsyncExitStack() as stack:
            election = stack.enter_async_context(elected(registry, settings.keys, settings.pod))
            mastership = await stop.bound(election, grace_seconds=0.0)
            return await _run_as_master(settings, registry, mastership, stop)
    except Stopped:
        logger.info("stopped before the election")
        return 0
    except ElectionError as error:
        logger.error("%s", error)
    except (Fenced, LeaseLost) as error:
        logger.error("this master is stale and stops: %s", error)
    return 1


async def _run_as_master(settings: Settings, registry: Registry, mastership: Mastership, stop: StopSignal) -> int:
    first = Progress(activity="starting", iteration=0, iterations=settings.job.spec.recipe.iterations, generation=0)
    board = ProgressBoard(mastership, settings.keys.progress, first)
    with open_journal(settings.state) as journal:
        ended = await _run_to_end(Office(settings, registry, mastership, journal, board, stop))
        mastership.check()
        await journal.write(ended)
        logger.info("%s %s", ended.result, ended.message)
        await board.close(ended.result.lower(), ended.message if ended.result == "Failed" else None)
    return 1 if ended.result == "Failed" else 0


async def _run_to_end(office: Office) -> RunEnded:
    """Run the loop and return how it ended. Errors: Fenced and LeaseLost, after which nothing may be written."""
    try:
        await alongside(_run_loop(office), office.mastership.keep_checking(), office.board.publish())
    except Stopped as stopped:
        return _ended("Stopped", "" if stopped.weights_known else "the Train phase was cut; it will be run again")
    except (Fenced, LeaseLost):
        raise
    except (MasterError, RegistryError) as error:
        return _ended("Failed", str(error))
    except (OSError, sqlite3.Error) as error:
        return _ended("Failed", f"{office.settings.state}: {error}")
    except Exception as error:  # the top of the process: whatever happened, the run's end is recorded
        logger.exception("internal error")
        return _ended("Failed", f"internal error: {type(error).__name__}: {error}; see the master's log")
    return _ended("Completed")


async def _run_loop(office: Office) -> None:
    settings, keys = office.settings, office.settings.keys
    office.board.show(activity="reading the problems")
    catalogue = await asyncio.to_thread(load_catalogue, settings.job.spec.policy, settings.job.spec.data)
    async with AsyncExitStack() as stack:
        buffer = stack.enter_context(closing(await asyncio.to_thread(open_buffer, settings.state / "buffer.sqlite")))
        client = await stack.enter_async_context(_http_client(settings.token))
        members = await stack.enter_async_context(watched(office.registry, [keys.members, keys.statuses]))
        generation = await resume_generation(settings.state, buffer)
        await _announce(office, generation)
        await forget_weights(office.registry, keys, generation)
        wanted = hybrid_members(settings.job.hybrid_pods)
        attempt = settings.attempt
        waiting = wait_for_members(members, keys, wanted, attempt, lambda text: office.board.show(activity=text))
        membership = await office.stop.bound(waiting, grace_seconds=0.0)
        trainers = TrainerApi(client, find_trainers(membership, settings.job.hybrid_pods))
        switcher = await _switcher(office, members, wanted)
        run = _wire(office, catalogue, buffer, switcher, trainers)
        await run_iterations(run, generation)


async def run_iterations(run: Run, generation: int) -> None:
    """Run every iteration after `generation` and keep the policy at the end, also where a stop is the end."""
    done, every = generation, run.spec.checkpoints.every_iterations
    try:
        for iteration in range(generation + 1, run.spec.recipe.iterations + 1):
            run.stop.check()
            await run_iteration(run, iteration)
            done = iteration
            if iteration % every == 0:
                await run.checkpoints.save(iteration)
    except Stopped as stopped:
        await run.switcher.end_phase()
        if stopped.weights_known:
            await _save_at_stop(run, done)
        raise
    await run.switcher.end_phase()
    run.board.show(activity="saving the policy")
    await run.checkpoints.save(done)
    await run.checkpoints.save_policy()


async def _save_at_stop(run: Run, generation: int) -> None:
    """Keep what is new. A policy that a checkpoint already holds may be missing without loss."""
    run.board.show(activity="stopping")
    await run.checkpoints.save(generation)
    try:
        await run.checkpoints.save_policy()
    except TrainError as error:
        logger.warning("the policy was not written, the newest checkpoint is: %s", error)


def find_trainers(membership: Membership, pods: tuple[str, ...]) -> tuple[Trainer, ...]:
    """Return the trainers of the hybrid pods, by ordinal. Errors: MembersError where one has no rank."""
    trainers = tuple(Trainer(pod, membership.records[MemberId(pod, "train")]) for pod in pods)
    for trainer in trainers:
        if trainer.record.num_ranks == 0:
            raise MembersError(f"{trainer.pod}/train: registered without ranks; is the engine of another version?")
    return trainers


async def _announce(office: Office, generation: int) -> None:
    job = office.settings.job
    record = RunStarted(at=time(), job=job.name, iteration=generation, iterations=job.spec.recipe.iterations)
    await office.journal.write(record)
    office.board.show(activity="waiting for the pods", iteration=generation, generation=generation)


async def _switcher(office: Office, members: WatchedKeys, wanted: tuple[MemberId, ...]) -> Switcher:
    keys = office.settings.keys
    parties = Parties(office.registry, keys, office.mastership, members, wanted, office.journal)
    return Switcher(parties, office.settings.job.spec.switch, last_epoch=await last_epoch(office.registry, keys))


def _wire(office: Office, catalogue: Catalogue, buffer: Buffer, switcher: Switcher, trainers: TrainerApi) -> Run:
    spec = office.settings.job.spec
    return Run(
        spec=spec,
        catalogue=catalogue,
        buffer=buffer,
        journal=office.journal,
        board=office.board,
        switcher=switcher,
        trainers=trainers,
        checkpoints=Checkpoints(office.settings.state, buffer, trainers, keep_last=spec.checkpoints.keep_last),
        client=trainers.client,
        stop=office.stop,
    )


def _http_client(token: str) -> httpx.AsyncClient:
    """Return a client for the pods of the job: no proxy of the environment, no limit of connections."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        trust_env=False,
    )


def _ended(result: Literal["Completed", "Stopped", "Failed"], message: str = "") -> RunEnded:
    return RunEnded(at=time(), result=result, message=message)
