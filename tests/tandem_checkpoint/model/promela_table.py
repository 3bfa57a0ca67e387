"""The protocol's tables as Promela, written and read: what checkpoint_engine/model/switch.pml executes.

Write the file anew after a change of the protocol:

    python -m tests.tandem_checkpoint.model.promela_table > checkpoint_engine/model/table.pml
"""

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import cast

from tandem_api.registry import Role
from tandem_checkpoint.switch.protocol import TABLES, Action, Event, State, Table, Transition

HEADER = """\
/* The switch protocol's tables, made from checkpoint_engine/tandem_checkpoint/switch/protocol.py. Not written by hand:
 *   python -m tests.tandem_checkpoint.model.promela_table > checkpoint_engine/model/table.pml
 */
"""
_ROLE = re.compile(r"^inline look_up_(\w+)\(")
_STATE = re.compile(r"^  :: s == (S_\w+) ->$")
_ROW = re.compile(r"^     :: e == (E_\w+) -> action = (A_\w+); next = (S_\w+); ROW\(\d+\)$")


def write_tables() -> str:
    """Return the whole file: names, one look-up a role, and which events a state heeds."""
    numbers = iter(range(sum(map(len, TABLES.values()))))
    lookups = [_look_up(role, table, numbers) for role, table in TABLES.items()]
    heeds = [_heeds(role, table) for role, table in TABLES.items()]
    return "\n".join([HEADER, _names(), f"#define NUM_ROWS {sum(map(len, TABLES.values()))}\n", *lookups, *heeds])


def read_tables(text: str) -> Mapping[Role, Table]:
    """Return the tables that a Promela file executes. Errors: KeyError for a name that the protocol does not have."""
    tables: dict[Role, dict[tuple[State, Event], Transition]] = {}
    role, state = cast("Role", ""), State.STARTING
    for line in text.splitlines():
        if found := _ROLE.match(line):
            role = cast("Role", found[1])
            tables[role] = {}
        elif found := _STATE.match(line):
            state = State[found[1].removeprefix("S_")]
        elif found := _ROW.match(line):
            event, action = Event[found[1].removeprefix("E_")], Action[found[2].removeprefix("A_")]
            tables[role][state, event] = Transition(action, State[found[3].removeprefix("S_")])
    return tables


def ordered_rows() -> list[tuple[Role, State, Event]]:
    """Return the rows of both tables in the order in which the model numbers them."""
    return [(role, state, event) for role, table in TABLES.items() for state, event in _ordered(table)]


def _names() -> str:
    """Return all names as numbers, so that a state is one byte."""
    parts = []
    for prefix, kind in (("S", State), ("E", Event), ("A", Action)):
        parts += [f"#define {prefix}_{member.name} {number}" for number, member in enumerate(kind)]
    return "\n".join([*parts, f"#define A_NOT_IN_TABLE {len(Action)}", ""])


def _look_up(role: Role, table: Table, numbers: Iterator[int]) -> str:
    lines = [f"inline look_up_{role}(s, e) {{", "  if"]
    for state, rows in groupby(_ordered(table), key=lambda row: row[0]):
        lines += [f"  :: s == S_{state.name} ->", "     if"]
        for _, event in rows:
            found = table[state, event]
            row = f"action = A_{found.action.name}; next = S_{found.state.name}; ROW({next(numbers)})"
            lines.append(f"     :: e == E_{event.name} -> {row}")
        lines += ["     :: else -> action = A_NOT_IN_TABLE", "     fi"]
    return "\n".join([*lines, "  :: else -> action = A_NOT_IN_TABLE", "  fi", "}", ""])


def _heeds(role: Role, table: Table) -> str:
    """Return, for each event, the states in which it does something; elsewhere it waits, as `Member._heeds` has it."""
    lines = []
    for event in Event:
        rows = [(state, table[state, other]) for state, other in _ordered(table) if other is event]
        condition = " || ".join(f"(s) == S_{state.name}" for state, row in rows if row.action is not Action.KEEP_ON)
        lines.append(f"#define HEEDS_{role}_{event.name}(s) ({condition or 'false'})")
    return "\n".join([*lines, ""])


def _ordered(table: Table) -> list[tuple[State, Event]]:
    states, events = list(State), list(Event)
    return sorted(table, key=lambda row: (states.index(row[0]), events.index(row[1])))


if __name__ == "__main__":
    sys.stdout.write(write_tables())
