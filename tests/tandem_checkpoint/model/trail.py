"""A counterexample of spin in words: one line a step, with what it has changed."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tandem_checkpoint.switch.protocol import State

MEMBERS = ("trainer 0", "server 0", "trainer 1", "server 1")
OF_MEMBERS = ("state", "epoch", "lease", "status", "device", "step")
HIDDEN = ("action", "next", "generation", "master_epoch")
_STEP = re.compile(r"^\s*(\d+):\s+proc\s+(\d+) \((\w+):")
_VALUE = re.compile(r"^\t\t(\w+)(?:\[(\d+)\])? = (\d+)$")

Values = dict[tuple[str, int], int]


def tell_trail(folder: Path, options: list[str]) -> str:
    """Return the steps of the counterexample that a checker has left in its folder."""
    command = ["spin", *options, "-k", "switch.pml.trail", "-g", "-p", "switch.pml"]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False).stdout
    lines: list[str] = []
    values: Values = {}
    told: Values = {}
    last: tuple[str, ...] = ()
    for line in [*text.splitlines(), "  0:	proc  0 (end:"]:
        if (found := _STEP.match(line)) and found.groups() != last:
            if changes := _changes(told, values):
                lines.append(f"{last[2] if last else ''}: {changes}")
            last, told = (found[1], found[2], found[3]), dict(values)
        elif found := _VALUE.match(line):
            values[found[1], int(found[2]) if found[2] else -1] = int(found[3])
    return "\n".join(lines)


def _changes(before: Values, after: Values) -> str:
    changed = {key: value for key, value in after.items() if before.get(key, _first_value(key[0])) != value}
    return ", ".join(_words(key, value) for key, value in changed.items() if key[0] not in HIDDEN)


def _first_value(name: str) -> int:
    firsts: Mapping[str, int] = {"state": list(State).index(State.ENDED), "checkpoint": 1}
    return firsts.get(name, 0)


def _words(key: tuple[str, int], value: int) -> str:
    name, index = key
    said = list(State)[value].name if name == "state" else str(value)
    if name in OF_MEMBERS:
        return f"{MEMBERS[index]} {name} {said}"
    return f"{name} {said}" if index < 0 else f"{name}[{index}] {said}"
