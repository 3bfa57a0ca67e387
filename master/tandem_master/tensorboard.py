"""TensorBoard event files, written without torch."""

from pathlib import Path
from time import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tandem_api.history import IterationRecord, SwitchRecord


class EventFiles:
    """Writes scalars into a new event file in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))

    def iteration(self, record: IterationRecord) -> None:
        """Write the scalars of one committed iteration, at the step of its number."""
        scalars = {
            "reward": record.reward,
            "response_tokens": record.response_tokens,
            "tokens_per_second": record.tokens_per_second,
            "loss": record.loss,
            "kl": record.kl,
            "gradient_norm": record.gradient_norm,
            "max_abs_logprob_difference": record.max_abs_logprob_difference,
        }
        self._write(record.iteration, scalars)

    def switch(self, record: SwitchRecord) -> None:
        """Write the duration of one switch, at the step of its epoch: `switch/TrainToInfer_seconds` or the other."""
        self._write(record.epoch, {f"switch/{record.direction}_seconds": record.seconds})

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._writer.add_event(Event(wall_time=time(), step=step, summary=Summary(value=values)))
        self._writer.flush()
