"""Records of a run go to the diary, and to whoever looks on."""

from pathlib import Path

from tandem_api.history import RECORD as LINE
from tandem_api.history import Record, RunStarted
from tandem_master.journal import open_journal
from tests.tandem_master.test_history import ITERATION

RECORD = RunStarted(at=1.0, job="toy", iteration=0, iterations=5)


async def test_who_looks_on_gets_each_record_after_it_was_written(tmp_path: Path) -> None:
    seen: list[tuple[Record, str]] = []

    def observe(record: Record) -> None:
        seen.append((record, (tmp_path / "metrics.jsonl").read_text()))

    with open_journal(tmp_path, observe) as journal:
        await journal.write(RECORD)

    assert [record for record, _ in seen] == [RECORD]
    assert "runStarted" in seen[0][1]


async def test_a_commit_that_the_diary_lacks_is_written_once(tmp_path: Path) -> None:
    earlier = ITERATION.model_copy(update={"at": 1.0})
    with open_journal(tmp_path) as journal:
        await journal.write(earlier)

        await journal.complete(ITERATION)
        await journal.complete(ITERATION)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [LINE.validate_json(line) for line in lines] == [earlier, ITERATION]
