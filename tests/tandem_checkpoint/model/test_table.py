"""The model executes the tables of the code: all rows of them, and no others."""

import re

import pytest

from tandem_api.registry import Role
from tandem_checkpoint.switch.protocol import TABLES, Action, Event, State, Transition
from tests.tandem_checkpoint.model.promela_table import ordered_rows, read_tables, write_tables
from tests.tandem_checkpoint.model.spin import MODEL

ROLES: tuple[Role, ...] = ("train", "rollout")
HINT = "python -m tests.tandem_checkpoint.model.promela_table > checkpoint_engine/model/table.pml"


@pytest.fixture
def text() -> str:
    return (MODEL / "table.pml").read_text()


def test_the_models_tables_are_those_of_the_protocol_as_it_is_now(text: str) -> None:
    assert text == write_tables(), f"stale; write it anew: {HINT}"


@pytest.mark.parametrize("role", ROLES)
def test_every_row_of_the_code_is_in_the_model(text: str, role: Role) -> None:
    missing = TABLES[role].items() - read_tables(text)[role].items()

    assert missing == set()


@pytest.mark.parametrize("role", ROLES)
def test_every_row_of_the_model_is_in_the_code(text: str, role: Role) -> None:
    invented = read_tables(text)[role].items() - TABLES[role].items()

    assert invented == set()


def test_a_row_that_the_model_has_differently_is_found(text: str) -> None:
    row = "     :: e == E_DONE -> action = A_OFFLOAD; next = S_OFFLOADING;"
    assert text.count(row) == 1

    other = read_tables(text.replace(row, row.replace("S_OFFLOADING", "S_IDLE")))["train"]

    assert other.items() - TABLES["train"].items() == {
        ((State.EXPORTING, Event.DONE), Transition(Action.OFFLOAD, State.IDLE))
    }


def test_the_model_looks_its_transitions_up_in_these_tables_alone() -> None:
    actions = (MODEL / "actions.pml").read_text()

    assert "look_up_train(state[m], e)" in actions
    assert "look_up_rollout(state[m], e)" in actions
    assert actions.count("state[m] = next") == 1


def test_the_model_numbers_the_rows_in_their_order(text: str) -> None:
    numbers = [int(number) for number in re.findall(r"ROW\((\d+)\)", text)]

    assert numbers == list(range(len(ordered_rows())))
