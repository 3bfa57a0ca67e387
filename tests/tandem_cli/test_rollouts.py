"""tandem rollouts: what a job has sampled."""

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from arro3.io import read_parquet, write_ndjson

from tandem_cli.report import parquet
from tandem_master.buffer.store import open_buffer
from tandem_master.sampling.state import Draw
from tests.tandem_cli.ground import USER, Here, refused
from tests.tandem_master.texts import finished, segment, trajectory, unfinished, write_policy


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has sampled two responses to [7, 8], one of them in two pieces."""
    folder = tmp_path / "run"
    short, long = trajectory("1-p-0"), trajectory("1-p-1")
    with closing(open_buffer(folder / "buffer.sqlite")) as buffer:
        buffer.begin(1, Draw(("p",), {"set": 1}), [short, long])
        buffer.record(1, [finished(trajectory("1-p-0", segment(0, 9, 0)))])
        buffer.record(1, [unfinished(trajectory("1-p-1", segment(0, 4, 5), segment(1, 6, 6, 6)))])
    (folder / "logs").mkdir()
    write_policy(folder / "checkpoints" / "generation-000001")
    return folder


def test_a_list_shows_the_longest_first_where_that_is_asked_for(here: Here, run: Path) -> None:
    listed = here.tandem("rollouts", run, "--sort", "length").output

    assert [line.split()[0] for line in listed[2:4]] == ["1-p-1", "1-p-0"]
    assert listed[-1] == "2 of 2"


def test_only_what_is_meant_is_listed_as_json(here: Here, run: Path) -> None:
    (line,) = here.tandem("rollouts", run, "--state", "finished", "--json").output

    assert json.loads(line) == {
        "id": "1-p-0",
        "problemId": "p",
        "state": "Finished",
        "iteration": 1,
        "finishedIteration": 1,
        "finishReason": "stop",
        "reward": 1.0,
        "correct": True,
        "terms": {},
        "numTokens": 2,
        "firstGeneration": 0,
        "lastGeneration": 0,
    }


def test_one_is_shown_in_words_with_its_segments_marked(here: Here, run: Path) -> None:
    told = here.tandem("rollouts", run, "1-p-1").output

    assert told[0] == "1-p-1: Unfinished"
    assert told[1].startswith("prompt of p, 2 tokens")
    assert told[3].startswith("segment 1: generation 0, 2 tokens, mean log-probability -0.005")
    assert told[5].startswith("segment 2: generation 1, 3 tokens, mean log-probability -1.010")
    assert [told[line] for line in (2, 4, 6)] == ["45", "12", "333"]


def test_what_is_exported_holds_every_token(here: Here, run: Path) -> None:
    target = run / "all.jsonl"

    told = here.tandem("rollouts", run, "--problem", "p", "--export", target).output

    assert told == (f"{target}: 2 trajectories",)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [[part["tokenIds"] for part in line["segments"]] for line in lines] == [[[4, 5], [6, 6, 6]], [[9, 0]]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every row of a Parquet file, nulls included."""
    content = io.BytesIO()
    write_ndjson(read_parquet(path), content, explicit_nulls=True)
    return [json.loads(line) for line in content.getvalue().splitlines()]


def test_a_parquet_file_holds_what_the_json_lines_hold(here: Here, run: Path) -> None:
    lines, table = run / "all.jsonl", run / "all.parquet"

    here.tandem("rollouts", run, "--export", lines)
    told = here.tandem("rollouts", run, "--export", table).output

    wanted = [json.loads(line) for line in lines.read_text().splitlines()]
    found = rows_of(table)
    assert told == (f"{table}: {len(wanted)} trajectories",)
    assert [row | {"terms": json.loads(row["terms"])} for row in found] == wanted
    assert [path for path in run.iterdir() if path.name.startswith(".all")] == []


def test_a_parquet_file_has_its_types_however_few_rows_are_in_memory_at_once(
    here: Here, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_OF_GROUP", 1)
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 1)

    told = here.tandem("rollouts", run, "--export", run / "all.parquet").output

    assert read_parquet(run / "all.parquet").schema == parquet.SCHEMA
    assert told == (f"{run}/all.parquet: {len(rows_of(run / 'all.parquet'))} trajectories",)


def test_nothing_that_is_meant_is_an_empty_table(here: Here, run: Path) -> None:
    told = here.tandem("rollouts", run, "--problem", "nobody", "--export", run / "none.parquet").output

    assert told == (f"{run}/none.parquet: 0 trajectories",)
    assert rows_of(run / "none.parquet") == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("absent",), "absent: no run folder, and runs/absent is none either; name a folder, or a job that ran here"),
        (("{run}", "nobody"), "TRAJECTORY: nobody is not in the buffer; take an id from the list"),
        (("{run}", "--export", "all.csv"), "--export: all.csv has no known ending; use .jsonl or .parquet"),
        (
            ("{run}/checkpoints",),
            "{run}/checkpoints: holds no buffer.sqlite; name the folder of a run that has started",
        ),
    ],
)
def test_a_mistake_is_one_line(here: Here, run: Path, words: tuple[str, ...], error: str) -> None:
    told = here.tandem("rollouts", *(word.format(run=run) for word in words))

    assert told == refused(USER, error.format(run=run))
