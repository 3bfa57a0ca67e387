"""A run of the loop, from the election of the master to the record of its end."""

import asyncio
import logging
import os
import sqlite3
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from time import time
from typing import Literal

from tandem_api.history import IterationRecord, RunEnded, RunStarted
from tandem_api.registry import Progress
from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryError
from tandem_checkpoint.registry.store import Registry
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.checkpoints import Checkpoints
from tandem_master.client import pod_client
from tandem_master.data.catalogue import Catalogue, load_catalogue
from tandem_master.errors import (
    CheckpointsFailed,
    ElectionError,
    GenerationLost,
    MasterError,
    MembersError,
    Recoverable,
    Stopped,
    SwitchError,
    TrainError,
)
from tandem_master.evaluation.evaluator import Evaluator
from tandem_master.evaluation.final import evaluate_final
from tandem_master.evaluation.held_out import HeldOutSet, load_held_out, overlaps
from tandem_master.evaluation.store import EvaluationStore, open_store
from tandem_master.iteration import known_silence, run_iteration
from tandem_master.journal import Journal, open_journal
from tandem_master.mastership import ELECTION_SECONDS, Mastership, elected
from tandem_master.members import MemberId, Membership, hybrid_members, read_membership, wait_for_members
from tandem_master.observation import Observation, Scrape, observed
from tandem_master.phases import Parties, Switcher
from tandem_master.progress import ProgressBoard
from tandem_master.resume import Start, find_start, forget_weights, last_epoch, resume_generation
from tandem_master.retention import Retention
from tandem_master.rewards.scoring import Scorer, open_scorer
from tandem_master.run import Run
from tandem_master.settings import Settings
from tandem_master.stop import StopSignal
from tandem_master.tasks import alongside
from tandem_master.tracing import JobName
from tandem_master.trackers import open_trackers, params_of
from tandem_master.trainers import Trainer, TrainerApi
from tandem_master.watched import WatchedKeys, watched

logger = logging.getLogger(__name__)

MOST_TRIES = 6
"""Tries of one iteration; the last failure ends the job."""
MOST_RETURNS = 5
"""Times that a run goes back to a checkpoint."""
PAUSE_SECONDS = 1.0
"""Pause before the second try; it grows by as much with each."""
REELECTION_SECONDS = 600.0
"""Time for a registry that was away to come back."""


@dataclass(frozen=True, slots=True)
class Office:
    """What an elected master has before it knows anything of policy, problems and members."""

    settings: Settings
    registry: Registry
    mastership: Mastership
    journal: Journal
    board: ProgressBoard
    stop: StopSignal
    observation: Observation


async def run_job(settings: Settings, registry: Registry, stop: StopSignal) -> int:
    """Run the job to its end and return the exit code: 0 completed or stopped cleanly, 1 failed.

    A master whose lease is lost, because the registry was away, stands for election again and goes on. One that is
    not the job's one master any more changes nothing and returns 1.
    """
    job = JobName(settings.job.namespace, settings.job.name)
    scrape = Scrape(settings.address, settings.metrics_port, settings.token, settings.server_context)
    async with observed(job, scrape, os.environ) as observation:
        return await _run_while_elected(settings, registry, stop, observation)


async def _run_while_elected(settings: Settings, registry: Registry, stop: StopSignal, observation: Observation) -> int:
    patience_seconds = ELECTION_SECONDS
    while True:
        try:
            async with AsyncExitStack() as stack:
                election = stack.enter_async_context(elected(registry, settings.keys, settings.pod, patience_seconds))
                mastership = await stop.bound(election, grace_seconds=0.0)
                return await _run_as_master(settings, registry, mastership, stop, observation)
        except Stopped:
            logger.info("stopped before the election")
            return 0
        except LeaseLost as error:
            logger.error("%s; standing for election again", error)
            patience_seconds = REELECTION_SECONDS
        except ElectionError as error:
            logger.error("%s", error)
            return 1
        except Fenced as error:
            logger.error("this master is stale and stops: %s", error)
            return 1


async def _run_as_master(
    settings: Settings, registry: Registry, mastership: Mastership, stop: StopSignal, observation: Observation
) -> int:
    first = Progress(activity="starting", iteration=0, iterations=settings.job.spec.recipe.iterations, generation=0)
    board = ProgressBoard(mastership, settings.keys.progress, first)
    spec = settings.job.spec
    trackers = open_trackers(spec.trackers, settings.state, settings.job.name, params_of(spec))
    with open_journal(settings.state, observation.record, trackers) as journal:
        ended = await _run_to_end(Office(settings, registry, mastership, journal, board, stop, observation))
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
    settings, keys, spec = office.settings, office.settings.keys, office.settings.job.spec
    office.board.show(activity="reading the problems")
    catalogue = await asyncio.to_thread(load_catalogue, spec.policy, spec.data, spec.recipe)
    held_out = await asyncio.to_thread(load_held_out, spec, catalogue)
    for text in await asyncio.to_thread(overlaps, held_out, catalogue):
        logger.warning("%s", text)
    async with AsyncExitStack() as stack:
        scorer = await stack.enter_async_context(open_scorer(spec.rewards))
        buffer = stack.enter_context(closing(await asyncio.to_thread(open_buffer, settings.state / "buffer.sqlite")))
        store = stack.enter_context(closing(await asyncio.to_thread(open_store, settings.state / "evaluation.sqlite")))
        client = await stack.enter_async_context(pod_client(settings.token, settings.trust))
        members = await stack.enter_async_context(watched(office.registry, [keys.prefix]))
        pods = settings.job.hybrid_pods
        wanted = hybrid_members(pods)
        waiting = wait_for_members(
            members, keys, wanted, settings.attempt, lambda text: office.board.show(activity=text)
        )
        await office.stop.bound(waiting, grace_seconds=0.0)
        start = await office.stop.bound(find_start(settings.state, buffer, members, keys, pods), grace_seconds=0.0)
        await complete_diary(office.journal, buffer, start.generation)
        await _announce(office, start.generation)
        await forget_weights(office.registry, office.mastership, keys, start)
        trainers = TrainerApi(client, lambda: find_trainers(read_membership(members.values, keys), pods))
        switcher = await _switcher(office, members, wanted, start.lineage)
        run = _wire(office, catalogue, buffer, switcher, trainers, scorer, held_out, store)
        stack.push_async_callback(run.checkpoints.close)
        await Evaluator(run).begin(start.generation)
        await run_from(run, office, start.generation)


async def run_from(run: Run, office: Office, generation: int) -> None:
    """Run every iteration after `generation`; where its weights are lost, go back to the newest checkpoint and go
    on.
    """
    for _ in range(MOST_RETURNS):
        try:
            return await run_iterations(run, generation)
        except GenerationLost as error:
            logger.error("%s", error)
            await run.checkpoints.settle()
            run.board.show(activity="going back to the newest checkpoint")
            generation = await resume_generation(run.state, run.buffer)
            run.switcher.begin_lineage()
            start = Start(generation, run.switcher.lineage)
            await forget_weights(office.registry, office.mastership, run.keys, start)
            await Evaluator(run).begin(generation)
    raise SwitchError(f"the job went back to a checkpoint {MOST_RETURNS} times; look at the trainers' logs")


async def run_iterations(run: Run, generation: int) -> None:
    """Run every iteration after `generation` and keep the policy at the end, also where a stop is the end."""
    done, every = generation, run.spec.checkpoints.every_iterations
    run.board.show(silent_iterations=await asyncio.to_thread(known_silence, run, generation))
    try:
        for iteration in range(generation + 1, run.spec.recipe.iterations + 1):
            run.stop.check()
            await run_until_committed(run, iteration)
            done = iteration
            if iteration % every == 0 or Evaluator(run).wants_checkpoint(iteration):
                await keep(run, iteration)
    except Stopped as stopped:
        await run.switcher.end_phase()
        if stopped.weights_known:
            await _save_at_stop(run, done)
        with suppress(CheckpointsFailed):
            await run.checkpoints.settle()
        raise
    await run.switcher.end_phase()
    run.board.show(activity="saving the policy")
    await _save(run, done, MOST_TRIES)
    await run.checkpoints.save_policy(done)
    await evaluate_final(run, done)


async def keep(run: Run, generation: int) -> None:
    """Begin a checkpoint; where a trainer has lost the weights, have it restore them and try once more.

    The job goes on without it, unless that happens again and again. Errors: CheckpointsFailed.
    """
    try:
        return await run.checkpoints.begin(generation)
    except TrainError as error:
        logger.error("checkpoint %d cannot be begun: %s; trying once more", generation, error)
    await asyncio.sleep(PAUSE_SECONDS)
    with suppress(Recoverable):
        await run.switcher.to_train(generation, generation)
    try:
        await run.checkpoints.begin(generation)
    except TrainError as error:
        await run.checkpoints.give_up(generation, error)


async def _save(run: Run, generation: int, most_tries: int) -> None:
    """Write a checkpoint and wait for it; where a trainer has lost the weights, have it restore them and try again."""
    for number in range(1, most_tries + 1):
        try:
            return await run.checkpoints.save(generation)
        except TrainError as error:
            if number == most_tries:
                raise
            logger.error("checkpoint %d, try %d of %d: %s", generation, number, most_tries, error)
            await asyncio.sleep(PAUSE_SECONDS * number)
            with suppress(Recoverable):
                await run.switcher.to_train(generation, generation)


async def run_until_committed(run: Run, iteration: int) -> None:
    """Run an iteration; what fails on the way is run again, with new epochs, as often as MOST_TRIES allows.

    Nothing counts before the commit: what was sampled is in the buffer, and a Train phase begins from the generation
    that its word names, whatever became of the one before.
    """
    for number in range(1, MOST_TRIES + 1):
        try:
            return await run_iteration(run, iteration)
        except Stopped as stopped:
            raise Stopped(weights_known=stopped.weights_known and number == 1) from None
        except Recoverable as error:
            if number == MOST_TRIES:
                raise
            logger.error("iteration %d, try %d of %d: %s", iteration, number, MOST_TRIES, error)
            run.board.show(activity=f"recovering: {error}")
            if await run.stop.within(PAUSE_SECONDS * number):
                raise Stopped(weights_known=False) from None  # a trainer may have trained, and nobody heard of it


async def _save_at_stop(run: Run, generation: int) -> None:
    """Keep what is new. A policy that a checkpoint already holds may be missing without loss.

    An optimizer's state is written from the trainer's devices: where servers have them, it takes them first.
    """
    run.board.show(activity="stopping")
    try:
        await _save(run, generation, 1 if run.spec.recipe.objective.reset_optimizer else 2)
        await run.checkpoints.save_policy(generation)
    except (TrainError, CheckpointsFailed) as error:
        logger.warning("the policy was not written, the newest checkpoint is: %s", error)


def find_trainers(membership: Membership, pods: tuple[str, ...]) -> tuple[Trainer, ...]:
    """Return the trainers of the hybrid pods, by ordinal. Errors: TrainError where one has gone, MembersError where one
    no rank.
    """
    gone = [pod for pod in pods if MemberId(pod, "train") not in membership.records]
    if gone:
        raise TrainError(f"{gone[0]}/train has gone; look at that container's log")
    trainers = tuple(Trainer(pod, membership.records[MemberId(pod, "train")]) for pod in pods)
    for trainer in trainers:
        if trainer.record.num_ranks == 0:
            raise MembersError(f"{trainer.pod}/train: registered without ranks; is the engine of another version?")
    return trainers


async def complete_diary(journal: Journal, buffer: Buffer, generation: int) -> None:
    """Write down the newest commit, where a master was killed between it and its line in the diary."""
    record = await asyncio.to_thread(buffer.record_of, generation)
    if record is not None:
        await journal.complete(IterationRecord.model_validate_json(record))


async def _announce(office: Office, generation: int) -> None:
    job = office.settings.job
    record = RunStarted(at=time(), job=job.name, iteration=generation, iterations=job.spec.recipe.iterations)
    await office.journal.write(record)
    office.board.show(activity="waiting for the pods", iteration=generation, generation=generation)


async def _switcher(office: Office, members: WatchedKeys, wanted: tuple[MemberId, ...], lineage: str) -> Switcher:
    keys = office.settings.keys
    parties = Parties(
        office.registry,
        keys,
        office.mastership,
        members,
        wanted,
        office.journal,
        office.settings.pod,
        office.observation.metrics.switch_failed,
    )
    epoch = await last_epoch(office.registry, keys)
    return Switcher(parties, office.settings.job.spec.switch, last_epoch=epoch, lineage=lineage)


def _wire(
    office: Office,
    catalogue: Catalogue,
    buffer: Buffer,
    switcher: Switcher,
    trainers: TrainerApi,
    scorer: Scorer,
    held_out: tuple[HeldOutSet, ...],
    store: EvaluationStore,
) -> Run:
    spec = office.settings.job.spec
    return Run(
        spec=spec,
        catalogue=catalogue,
        buffer=buffer,
        journal=office.journal,
        board=office.board,
        switcher=switcher,
        trainers=trainers,
        state=office.settings.state,
        keys=office.settings.keys,
        checkpoints=Checkpoints(
            office.settings.state,
            buffer,
            trainers,
            office.journal,
            retention=Retention(spec.checkpoints.keep_last, spec.checkpoints.keep_every),
        ),
        client=trainers.client,
        stop=office.stop,
        scorer=scorer,
        held_out=held_out,
        evaluations=store,
    )


def _ended(result: Literal["Completed", "Stopped", "Failed"], message: str = "") -> RunEnded:
    return RunEnded(at=time(), result=result, message=message)
