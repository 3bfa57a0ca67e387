"""Histories and the values in them, as they are read and kept."""

from pathlib import Path

import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, MemberState, MemberStatus
from tests.faults.history import read_history, write_history
from tests.faults.values import DesiredValue, OtherValue, PublishedValue, StatusValue, parse_value
from tests.faults.written import calm


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    write_history(calm(), tmp_path / "history.json")

    assert read_history(tmp_path / "history.json") == calm()


def test_the_products_own_words_are_read() -> None:
    word = Desired(epoch=3, phase=Phase.INFER, generation=2, iteration=3, deadline=5.5)
    status = MemberStatus(incarnation="x", epoch=3, state=MemberState.SERVING, generation=2)

    assert parse_value("desired", word.model_dump_json()) == DesiredValue(
        epoch=3, phase="Infer", generation=2, iteration=3, deadline=5.5
    )
    assert parse_value("status/pod/rollout", status.model_dump_json(by_alias=True)) == StatusValue(
        incarnation="x", epoch=3, state="Serving", generation=2
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", PublishedValue(generation=4)),
        ('{"generation": 4, "lineage": "a"}', PublishedValue(generation=4, lineage="a")),
    ],
)
def test_a_published_generation_is_a_number_or_an_object(text: str, value: PublishedValue) -> None:
    assert parse_value("weights/published", text) == value


@pytest.mark.parametrize(("key", "text"), [("desired", "no JSON"), ("desired", "{}"), ("something/else", "{}")])
def test_what_cannot_be_read_is_kept_as_it_is(key: str, text: str) -> None:
    assert parse_value(key, text) == OtherValue(text=text)
