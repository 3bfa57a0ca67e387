"""What benchmarks share: their options, what becomes of a part that fails, and the document that is written."""

import json
from pathlib import Path

import pytest
from benchmarks.report.document import document_of, publish
from benchmarks.report.machine import versions_of
from benchmarks.report.options import add_samples, option_parser, whole
from benchmarks.report.parts import Report
from benchmarks.report.result import PartError, Result, rounded, suffixed


def _failing() -> Result:
    raise PartError("the server has ended before its first token")


def test_a_part_that_fails_loses_nothing_of_the_others() -> None:
    report = Report()

    report.add("tiny", lambda: Result({"restart_seconds": 0.512345}, {}))
    report.add("large", _failing)
    report.add("tp2", lambda: Result({}, {}, {"full_switch_*_tp2": "spec.rollout: no"}))

    assert report.figures == {"restart_seconds": 0.5123}
    assert report.failed == {"large": "PartError: the server has ended before its first token"}
    assert report.left_out == {"full_switch_*_tp2": "spec.rollout: no"}


def test_the_document_says_what_the_figures_depend_on(tmp_path: Path) -> None:
    report, path = Report(load_before=0.25), tmp_path / "new" / "out.json"
    report.add("tiny", lambda: Result({"seconds": 1.5}, {"taken": [1.5]}))

    code = publish(document_of(report, ("numpy",), {"of_each": 3}), path)

    written = json.loads(path.read_text())
    assert code == 0
    assert list(written) == ["figures", "failed", "left_out", "machine", "versions", "samples"]
    assert written["samples"] == {"of_each": 3, "tiny": {"taken": [1.5]}}
    assert written["machine"]["load_before"] == 0.25
    assert set(written["versions"]) == {"numpy", "python"}


def test_a_failed_part_is_told_by_the_exit_code_too(tmp_path: Path) -> None:
    report = Report()
    report.add("large", _failing)

    code = publish(document_of(report, (), {}), tmp_path / "out.json")

    assert code == 1
    assert "large" in json.loads((tmp_path / "out.json").read_text())["failed"]


def test_a_package_that_is_not_there_is_said_to_be_absent() -> None:
    assert versions_of(("tandem-of-nowhere",))["tandem-of-nowhere"] == "absent"


def test_parts_can_be_chosen_by_name_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    parser = option_parser("measure", quick="less", parts=("tiny", "large"))

    assert parser.parse_args(["--only", "large", "--quick"]).only == ["large"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--only", "huge"])
    assert "invalid choice: 'huge'" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["1", "-3", "many", "2.5"])
def test_too_few_samples_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = option_parser("measure", quick="less")
    add_samples(parser, least=2)

    with pytest.raises(SystemExit):
        parser.parse_args([f"--samples={word}"])

    assert f"argument --samples: {word}: a whole number, at least 2" in capsys.readouterr().err


def test_a_number_within_its_bounds_is_read() -> None:
    assert [whole(1, 3)("1"), whole(1, 3)("3"), whole(2)("99")] == [1, 3, 99]


def test_figures_of_several_results_get_a_suffix() -> None:
    tiny, large = Result({"a": 1.0}, {"plain": [1]}), Result({"b": 2.0}, {}, {"c": "no"})

    both = suffixed({"tiny": tiny, "large": large}, "_tp2")

    assert both == Result({"a_tp2": 1.0, "b_tp2": 2.0}, {"tiny": {"plain": [1]}, "large": {}}, {"c_tp2": "no"})


def test_small_figures_keep_their_digits_and_whole_numbers_stay() -> None:
    assert rounded({"seconds": 0.000123456, "bytes": 1673000001}) == {"seconds": 0.0001235, "bytes": 1673000001}
