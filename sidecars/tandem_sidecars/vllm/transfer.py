"""vLLM's weight transfer from a segment: the same way for a server's first weights and for the next in place.

Three of vLLM's calls make up an update: start, update, finish. Before them each worker is asked whether the generation
fits its model (SegmentWorker, an extension of vLLM's worker: only its calls have results). A worker that has said yes
has compared everything, and the update does nothing but point or copy.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from tandem_checkpoint.segments.manifest import BrokenSegment, Manifest
from tandem_checkpoint.segments.store import SegmentError
from tandem_sidecars.vllm.binding import Fit, Segments, fit
from tandem_sidecars.vllm.examination import examine
from tandem_sidecars.vllm.loader import MISFIT, place_of
from tandem_sidecars.vllm.stages import Runner, take_from_stage_before

BACKEND = "tandem_segment"
_segments = Segments()
"""Those of this worker's process."""


@dataclass
class NoInit(WeightTransferInitInfo):  # type: ignore[misc]
    """There is no connection to make."""


@dataclass
class Update(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Which of the generations that fit is to be put in place."""

    generation: int
    keeps_copy: bool


class SegmentTransfer(WeightTransferEngine[NoInit, Update]):  # type: ignore[misc]
    """Puts a generation that fits into this worker's model."""

    init_info_cls = NoInit
    update_info_cls = Update
    supports_draft_weight_update = False
    fitting: Fit | None = None
    """What the next update puts in place."""
    reads_segment = False
    """Whether the model's parameters lie in a segment now."""

    def prepare(self, manifest: Manifest, *, keeps_copy: bool) -> None:
        """Compare a generation with the model and remember it; errors as for `fit`."""
        self.fitting = None
        if keeps_copy and self.reads_segment:
            raise BrokenSegment("the server reads a segment itself; it cannot be told to keep a copy from now on")
        odd = getattr(self.model, MISFIT, None)
        if odd:
            raise BrokenSegment(f"{odd}; this build of vLLM cannot serve the policy from a segment")
        place = place_of(self.parallel_config)
        self.fitting = fit(self.model, manifest, Path(self.model_config.model), _segments, place)

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Nothing to set up: what fits is known, and the weights come as the kernels want them."""

    def receive_weights(self, update_info: Update) -> None:
        """Point to the weights or copy them. An error in here leaves a model that must answer nothing."""
        fitting, self.fitting = self.fitting, None
        if fitting is None or fitting.generation != update_info.generation:
            raise BrokenSegment(f"generation {update_info.generation} was not compared with the model")
        self.reads_segment = not update_info.keeps_copy and fitting.can_point
        if self.reads_segment:
            fitting.point()
        else:
            fitting.copy()

    def finish_weight_update(self) -> None:
        """Nothing to do: what vLLM derives from weights was made anew with them."""

    def shutdown(self) -> None:
        """Nothing to release."""


class SegmentWorker:
    """What vLLM's worker can do besides: `--worker-extension-cls`."""

    weight_transfer_engine: SegmentTransfer
    model_runner: Runner
    device: torch.device

    def segment_misfit(self, manifest: str, keeps_copy: bool) -> str | None:
        """Return why a manifest's generation cannot be put into this worker's model; None: it can."""
        try:
            parsed = Manifest.model_validate_json(Path(manifest).read_text())
            take_from_stage_before(self.model_runner)
            self.weight_transfer_engine.prepare(parsed, keeps_copy=keeps_copy)
        except (BrokenSegment, SegmentError) as error:
            return str(error)
        except (OSError, ValidationError) as error:
            return f"{manifest} cannot be read: {error}"
        return None

    def segment_fingerprints(self) -> str:
        """Return the fingerprints of what this worker's model holds now, as JSON of Fingerprinted."""
        transfer = self.weight_transfer_engine
        policy = Path(transfer.model_config.model)
        return examine(transfer.model, policy, place_of(transfer.parallel_config)).model_dump_json()

    def segment_held_bytes(self) -> int:
        """Return the memory in use: on a GPU the whole device's, as the driver sees it; else this process's own."""
        if self.device.type == "cpu":
            return _private_bytes()
        free, total = torch.cuda.mem_get_info(self.device)
        return int(total - free)


def _private_bytes() -> int:
    """Return the resident memory of this process that it shares with no other, bytes."""
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))


WeightTransferEngineFactory.register_engine(BACKEND, SegmentTransfer)
