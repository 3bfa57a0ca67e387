"""Invariant 3 as the checker sees it: every token is stamped and keeps its log-probability."""

from dataclasses import replace

import pytest

from tests.faults.history import SegmentRow
from tests.faults.invariants.tokens import check_stamped_tokens
from tests.faults.written import calm, row, segment, snapshot


def problems_of(*segments: SegmentRow) -> list[str]:
    history = replace(calm(), snapshots=(snapshot(row("a", segments=segments)),))
    return [one.text for one in check_stamped_tokens(history)]


def test_a_calm_history_holds() -> None:
    assert check_stamped_tokens(calm()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        replace(segment(), num_logprobs=3),
        replace(segment(), num_token_ids=5),
        replace(segment(), num_tokens=0, num_token_ids=0, num_logprobs=0),
        replace(segment(), num_bad_logprobs=1),
        segment(generation=1),
        segment(num_tokens=9),
    ],
    ids=["log-probabilities", "token ids", "empty", "impossible", "never served", "over the budget"],
)
def test_a_segment_that_cannot_be_right_is_found(wrong: SegmentRow) -> None:
    assert len(problems_of(wrong)) == 1


def test_a_generation_that_goes_over_its_budget_in_two_segments_is_found() -> None:
    assert len(problems_of(segment(num_tokens=5), segment(num_tokens=4))) == 1


def test_an_older_stamp_after_a_newer_one_is_found() -> None:
    found = problems_of(segment(generation=1), segment(generation=0))

    assert any("older generation" in text for text in found)
