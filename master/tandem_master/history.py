"""The run's diary, `metrics.jsonl`: one record a line, appended and never changed."""

from pathlib import Path

from tandem_api.history import (
    CheckpointRecord,
    IterationRecord,
    PhaseRecord,
    RunEnded,
    RunStarted,
    SelfTestRecord,
    SwitchRecord,
)

AnyRecord = RunStarted | SwitchRecord | PhaseRecord | IterationRecord | CheckpointRecord | SelfTestRecord | RunEnded


class History:
    """Appends to the file at `path`; a line that a killed master left torn is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: AnyRecord) -> None:
        """Write one line and hand it to the operating system: a kill of the process cannot lose it."""
        self._file.write(record.model_dump_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
