"""What only a trainer does."""

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError

from tandem_api.engine import (
    ENGINE_PORT_TRAIN,
    CheckpointRequest,
    SaveRequest,
    SaveResponse,
    TrainRequest,
    TrainResponse,
)
from tandem_checkpoint.http.capabilities import Capabilities, Conflict, NotOffered, Trainer
from tandem_checkpoint.http.problems import refusals
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.switch.checkpointing import NotSaved
from tandem_checkpoint.switch.train import WrongPhase


def routes(offered: Capabilities) -> APIRouter:
    """Return /v1/train, /v1/save and /v1/checkpoints."""
    router = APIRouter(prefix="/v1", tags=["training"])
    common = (NotOffered, WrongPhase, RequestValidationError, ChildGone)

    @router.post("/train", responses=refusals(*common, CommandRefused))
    async def train(request: TrainRequest) -> TrainResponse:
        """Train one batch of the epoch that this trainer is in. 422 too where it and the server disagree by too much
        about the log-probabilities of the batch: then nothing is trained."""
        return await _trainer(offered).train(request)

    @router.post("/save", responses=refusals(*common))
    async def save(request: SaveRequest) -> SaveResponse:
        """Write the current weights as a Hugging Face folder, in whatever phase."""
        return await _trainer(offered).save(request)

    @router.post("/checkpoints", responses=refusals(*common, Conflict, TimeoutError, NotSaved))
    async def checkpoint(request: CheckpointRequest) -> SaveResponse:
        """Take a step of a checkpoint: the policy, and the optimizer's state where that is kept. Begin is answered once
        nothing that comes later can change what is written."""
        return await _trainer(offered).checkpoint(request)

    return router


def _trainer(offered: Capabilities) -> Trainer:
    if offered.trainer is None:
        raise NotOffered(f"this member is no trainer; ask port {ENGINE_PORT_TRAIN} of a hybrid pod")
    return offered.trainer
