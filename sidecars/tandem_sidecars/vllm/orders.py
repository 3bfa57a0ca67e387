"""What the engine tells a server that stands: bind weights, abort, sleep. Each by vLLM's own methods."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
from vllm.engine.protocol import EngineClient

from tandem_checkpoint.process.commands import (
    Abort,
    Bind,
    Examine,
    Fingerprinted,
    Go,
    Refused,
    ServerCommand,
    ServerStep,
    Sleep,
)
from tandem_checkpoint.segments.manifest import Manifest

Answer = Callable[[ServerStep | Fingerprinted | Refused], None]
WEIGHTS, CACHE = "weights", "kv_cache"
"""vLLM's names of what sleeps."""
SLEEP_LEVEL = 2
"""Weights are dropped, not copied to host memory: the next ones come from a segment."""


class Misfit(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A generation cannot be put in place; nothing has been written."""


def read_generation(manifest: Path) -> int:
    """Return the number of a manifest's generation. Errors: OSError, ValidationError."""
    return Manifest.model_validate_json(manifest.read_text()).generation


class Orders:
    """Carries out commands on one vLLM engine, one after another."""

    def __init__(self, engine: EngineClient, answer: Answer) -> None:
        self._engine = engine
        self._answer = answer
        self._paused = False
        self._holding: asyncio.Task[None] | None = None
        self._asleep: set[str] = set()

    async def carry_out(self, command: ServerCommand) -> None:
        """Do what the command says and answer it. After any error the server must end: its weights may be half new."""
        if self._holding is not None and self._holding.done():
            self._holding.result()
        match command:
            case Bind():
                await self._bind(command)
            case Examine():
                self._answer(await self._examine())
            case Abort():
                await self.pause()
                await self._step_and_memory("aborted")
            case Sleep():
                await self._sleep()
            case Go():
                self._answer(Refused(reason="the server runs already"))

    async def hold(self) -> None:
        """Have requests wait from the first one on. vLLM's pause rests 20 ms for what it has ended: nothing here."""
        self._holding = asyncio.create_task(self.pause(), name="pause")
        while not self._holding.done() and not await self._engine.is_paused():
            continue  # each turn is a question to vLLM's engine core, and its answer
        if self._holding.done():
            self._holding.result()

    async def pause(self) -> None:
        """Hand back what is being generated; new requests are taken and wait."""
        self._paused = True
        await self._engine.pause_generation(mode="abort")

    async def _bind(self, command: Bind) -> None:
        """Compare, then put in place, then answer with the new weights only. A misfit leaves all as it was."""
        was_serving = not self._paused
        if was_serving:
            await self.pause()
        try:
            generation = await self._compare(command)
        except Misfit as misfit:
            if was_serving:
                await self._resume()
            self._answer(Refused(reason=str(misfit)))
            return
        await self._put(generation, command.keeps_copy)
        self._step("loaded")
        await self._resume()
        self._step("listening")

    async def _compare(self, command: Bind) -> int:
        """Return the number of a generation that fits on every worker; raise Misfit where it does not."""
        try:
            generation = await asyncio.to_thread(read_generation, Path(command.manifest))
        except (OSError, ValidationError) as error:
            raise Misfit(f"{command.manifest} cannot be read: {error}") from None
        answers = await self._engine.collective_rpc("segment_misfit", args=(command.manifest, command.keeps_copy))
        for misfit in filter(None, answers):
            raise Misfit(misfit)
        return generation

    async def _put(self, generation: int, keeps_copy: bool) -> None:
        """Write a generation that fits over the weights. Nothing is generated meanwhile, nor after an error."""
        await self._wake(WEIGHTS)
        update = {"generation": generation, "keeps_copy": keeps_copy}
        await self._engine.start_weight_update()
        await self._engine.update_weights(WeightTransferUpdateRequest(update_info=update))
        await self._engine.finish_weight_update(str(generation))
        await self._engine.reset_prefix_cache()
        await self._wake(CACHE)  # vLLM generates again from here on, where it has slept

    async def _examine(self) -> Fingerprinted:
        """Return what all workers hold."""
        texts = await self._engine.collective_rpc("segment_fingerprints")
        answers = [Fingerprinted.model_validate_json(text) for text in texts]
        return Fingerprinted(
            boxes=tuple(box for answer in answers for box in answer.boxes),
            misfits=tuple(misfit for answer in answers for misfit in answer.misfits),
        )

    async def _sleep(self) -> None:
        """Free the devices. What vLLM keeps (context, graphs, communicators) stays on them."""
        if not self._paused:
            await self.pause()
        await self._engine.sleep(SLEEP_LEVEL)
        self._asleep |= {WEIGHTS, CACHE}
        await self._step_and_memory("asleep")

    async def _wake(self, what: str) -> None:
        """Give what sleeps its memory back; its content is lost."""
        if what in self._asleep:
            await self._engine.wake_up([what])
            self._asleep.discard(what)

    async def _resume(self) -> None:
        await self._engine.resume_generation()
        self._paused = False

    async def _step_and_memory(self, step: str) -> None:
        """Answer, with what the workers hold."""
        held = sum(await self._engine.collective_rpc("segment_held_bytes"))
        self._answer(ServerStep.model_validate({"step": step, "device_bytes": held}))

    def _step(self, step: str) -> None:
        self._answer(ServerStep.model_validate({"step": step}))
