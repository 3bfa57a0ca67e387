"""What is said where trainer, server and folder hold different weights."""

import pytest

from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.segments.holdings import MODULUS, Holding, SelfTestFailed, compare, holding_of, is_complete

TENSORS = tuple(TensorInfo(name=name, dtype="float32", shape=(4, 2)) for name in ("a", "b", "c", "d", "e"))
ONE = TENSORS[:1]
FOLDER = "/policies/toy"


def box(start: int, stop: int, value: int, tensor: str = "a") -> BoxFingerprint:
    """Return some rows of a tensor."""
    return BoxFingerprint(tensor=tensor, start=(start, 0), stop=(stop, 2), value=value)


def trainer(**other: int) -> Holding:
    return _holding("the trainer of toy-hybrid-0", **other)


def server(**other: int) -> Holding:
    return _holding("server 0 of toy-hybrid-0", **other)


def folder(**other: int) -> Holding:
    return _holding(FOLDER, **other)


def _holding(who: str, **other: int) -> Holding:
    return Holding(who, {info.name: other.get(info.name, 1) for info in TENSORS})


def test_boxes_add_up_and_those_that_several_hold_count_once() -> None:
    found = holding_of("the trainer", [box(0, 3, 5), box(3, 4, MODULUS - 2), box(0, 3, 5)], ONE)

    assert (found.fingerprints, found.mistakes) == ({"a": 3}, ())


def test_ranks_that_hold_a_box_differently_are_found() -> None:
    found = holding_of("the trainer", [box(0, 4, 5), box(0, 4, 6)], ONE)

    assert found.mistakes == ("its ranks hold a differently",)


@pytest.mark.parametrize("boxes", [[box(0, 3, 5)], [box(0, 4, 5), box(0, 1, 5)], []])
def test_a_tensor_of_which_something_is_missing_or_twice_there_is_found(boxes: list[BoxFingerprint]) -> None:
    found = holding_of("the trainer", boxes, ONE)

    assert found.mistakes == ("elements of a are missing, or there twice",)


def test_boxes_are_complete_once_every_element_is_there() -> None:
    assert not is_complete([box(0, 3, 5), box(0, 3, 5)], ONE)
    assert is_complete([box(0, 3, 5), box(3, 4, 5)], ONE)


def test_nothing_is_said_where_all_hold_the_same() -> None:
    compare(trainer(), [server(), server()], folder())


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (
            (trainer(), [server(b=2)], None),
            "self-test: server 0 of toy-hybrid-0 differs from the trainer of toy-hybrid-0 in b; nothing was trained. "
            "Look for a broken hand-over",
        ),
        (
            (trainer(), [server(), server(b=2)], folder()),
            "self-test: server 0 of toy-hybrid-0 differs from the trainer of toy-hybrid-0 in b, where the trainer has "
            "what /policies/toy has; nothing was trained. Look for a broken hand-over",
        ),
        (
            (trainer(b=2), [server()], folder()),
            "self-test: server 0 of toy-hybrid-0 differs from the trainer of toy-hybrid-0 in b, where the trainer has "
            "not what /policies/toy has; nothing was trained. Look for a broken hand-over",
        ),
        (
            (trainer(b=2), [server(b=2)], folder()),
            "self-test: the trainer of toy-hybrid-0 and its servers differ from /policies/toy in b; nothing was "
            "trained. Look for a mistake in how the folder is loaded",
        ),
        (
            (trainer(), [server(a=2, b=2, c=2, d=2, e=2)], None),
            "self-test: server 0 of toy-hybrid-0 differs from the trainer of toy-hybrid-0 in a, b, c and 2 more; "
            "nothing was trained. Look for a broken hand-over",
        ),
        (
            (trainer(), [Holding("server 0 of toy-hybrid-0", {}, ("a was repacked or is gone",))], None),
            "self-test: server 0 of toy-hybrid-0: a was repacked or is gone; nothing was trained",
        ),
    ],
    ids=["server", "folder for the trainer", "folder for the server", "folder alone", "many", "misfit"],
)
def test_one_line_names_tensors_and_side(held: tuple[Holding, list[Holding], Holding | None], text: str) -> None:
    with pytest.raises(SelfTestFailed) as failed:
        compare(*held)

    assert str(failed.value) == text


def test_a_folder_is_compared_for_the_tensors_that_it_has_as_they_are_handed_over() -> None:
    compare(trainer(), [server()], Holding(FOLDER, {"a": 1}))
