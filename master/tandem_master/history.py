"""The run's diary, `metrics.jsonl`: one record a line, appended and never changed."""

from collections.abc import Sequence
from pathlib import Path

from tandem_api.history import IterationRecord, Record

ITERATION = b'{"kind":"iteration",'
"""How the line of an IterationRecord begins."""


class History:
    """Appends to the file at `path`; a line that a killed master left torn is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def append(self, record: Record) -> None:
        """Write one line and hand it to the operating system: a kill of the process cannot lose it."""
        self._file.write(record.model_dump_json() + "\n")
        self._file.flush()

    def holds(self, record: IterationRecord) -> bool:
        """Return whether the record of just this commit is there. An iteration that is run again has another one."""
        with self._path.open("rb") as file:
            lines = [line for line in file if line.startswith(ITERATION)]
        return any(IterationRecord.model_validate_json(line).at == record.at for line in lines)

    def missing(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """Return which of these records the file does not hold, by their very text."""
        wanted = {record.model_dump_json(): record for record in records}
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                wanted.pop(line.rstrip("\n"), None)
        return tuple(wanted.values())

    def close(self) -> None:
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
