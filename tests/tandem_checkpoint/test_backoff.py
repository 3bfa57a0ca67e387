"""Crash loops back off: the first end is mended at once, later ones after longer pauses, too many not at all."""

from hypothesis import given
from hypothesis import strategies as st

from tandem_checkpoint.process.backoff import LONGEST_SECONDS, Backoff

gaps = st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=40)


def pauses(gaps: list[float], most: int = 6, window_seconds: float = 120.0) -> list[float | None]:
    """Return the pauses after ends that are `gaps` seconds apart."""
    backoff = Backoff(most, window_seconds)
    times = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    return [backoff.note_end(now) for now in times]


def test_the_first_end_is_mended_at_once_and_the_pauses_double() -> None:
    assert pauses([0.0] * 5) == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_too_many_ends_within_the_window_are_given_up() -> None:
    assert pauses([0.0] * 6)[-1] is None


def test_no_pause_is_longer_than_the_longest() -> None:
    assert pauses([0.0] * 12, most=20)[-1] == LONGEST_SECONDS


def test_ends_that_are_long_ago_are_forgotten() -> None:
    assert pauses([0.0, 0.0, 0.0, 601.0]) == [0.0, 0.5, 1.0, 0.0]


@given(gaps)
def test_ends_that_are_further_apart_than_the_window_never_pause(distances: list[float]) -> None:
    assert set(pauses([601.0 + distance for distance in distances])) == {0.0}


@given(gaps, st.integers(2, 8))
def test_it_is_given_up_exactly_where_the_window_holds_too_many(distances: list[float], most: int) -> None:
    times = [sum(distances[: number + 1]) for number in range(len(distances))]

    given_up = [pause is None for pause in pauses(distances, most)]

    assert given_up == [
        sum(then > now - 120.0 for then in times[: number + 1]) >= most for number, now in enumerate(times)
    ]
