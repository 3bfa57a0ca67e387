"""Runs spin on the model of the switch protocol, and reads what it says.

By hand, with the counterexample in words:

    python -m tests.tandem_checkpoint.model.spin --faults 1 --mistake BUILDS_TOGETHER
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from tests.tandem_checkpoint.model.trail import tell_trail

MODEL = Path(__file__).parents[3] / "checkpoint_engine" / "model"
MISSING = "spin or a C compiler is missing; tools/spin/packages.sh installs them"
MEMORY_MIB = 4096
MOST_STEPS = 100_000
"""Of one run of the model; spin says so where that is not enough."""
ALL_KINDS = "ALL"
_MISTAKE = re.compile(r"^#define (\w+) \(MISTAKE == (\d+)\)", re.MULTILINE)
_KIND = re.compile(r"^#define (\w+) IS_DUE\((\d+)\)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Check:
    """What to look for: every run with at most so many faults of these kinds."""

    faults: int
    kinds: tuple[str, ...] = (ALL_KINDS,)
    """Of the first fault."""
    more_kinds: tuple[str, ...] = (ALL_KINDS,)
    """Of the others."""
    mistake: str | None = None
    cycles: bool = False
    """Also look for runs that never end: twice the states, and slower."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What spin has found."""

    broken: str | None
    """What does not hold: the variable that the model asserts to be 0, or spin's own words; None: all holds."""
    exhaustive: bool
    """Every state was visited."""
    states: int
    transitions: int
    memory_mib: float
    seconds: float
    rows: frozenset[int]
    """Rows of the tables that were carried out, as promela_table.ordered_rows numbers them."""


def find_tools() -> tuple[str, str] | None:
    """Return spin and the C compiler, None where one is missing."""
    spin = shutil.which("spin")
    compiler = shutil.which("cc") or shutil.which("gcc")
    return (spin, compiler) if spin and compiler else None


def mistakes() -> dict[str, int]:
    """Return the mistakes that the model can plant, with their numbers."""
    return {name: int(number) for name, number in _MISTAKE.findall((MODEL / "world.pml").read_text())}


def kinds_of_faults() -> dict[str, int]:
    """Return the kinds of faults of the model, with their bits."""
    found = {name: int(bit) for name, bit in _KIND.findall((MODEL / "world.pml").read_text())}
    return {**found, ALL_KINDS: sum(found.values())}


def run_spin(check: Check, folder: Path, *, most_seconds: float = 600.0) -> Verdict:
    """Check the model in an empty folder. Errors: CalledProcessError, TimeoutExpired."""
    tools = find_tools()
    assert tools is not None, MISSING
    spin, compiler = tools
    for source in MODEL.iterdir():
        shutil.copy(source, folder)
    cycles = ["-DNP"] if check.cycles else ["-DSAFETY"]
    options = ["-DCOLLAPSE", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB}", *cycles]
    _run([spin, *model_options(check), "-a", "switch.pml"], folder)
    effort = "-O0" if check.mistake else "-O1"  # a mistake is found sooner than a better program is compiled
    _run([compiler, effort, "-w", *options, "-o", "pan", "pan.c"], folder)
    arguments = ["./pan", "-n", f"-m{MOST_STEPS}", *(["-l"] if check.cycles else [])]
    result = subprocess.run(  # its status says nothing that its words do not
        arguments, cwd=folder, capture_output=True, text=True, timeout=most_seconds, check=False
    )
    return read_verdict(result.stdout)


def model_options(check: Check) -> list[str]:
    """Return a check as options of the model."""
    bits = kinds_of_faults()
    numbers = {
        "FAULTS": check.faults,
        "KINDS": sum(bits[kind] for kind in check.kinds),
        "MORE_KINDS": sum(bits[kind] for kind in check.more_kinds),
        "MISTAKE": mistakes()[check.mistake] if check.mistake else 0,
        "COVERAGE": 1,
    }
    return [f"-D{name}={value}" for name, value in numbers.items()]


def read_verdict(text: str) -> Verdict:
    """Return what the words of a checker mean."""
    errors = re.search(r"errors: (\d+)", text)
    reasons = re.findall(r"^pan:\s*\d*:?\s*(.*?)\s*\(at depth", text, re.MULTILINE)
    named = re.search(r"assertion violated\s+!\(\(?(\w+)\)?\)", reasons[0]) if reasons else None
    broken = None if errors and errors[1] == "0" else named[1] if named else (reasons[0] if reasons else text[-400:])
    is_cut = "max search depth too small" in text or "out of memory" in text or "memory limit" in text
    return Verdict(
        broken=broken,
        exhaustive=errors is not None and not is_cut,
        states=int(_number(text, r"([\d.e+]+) states, stored")),
        transitions=int(_number(text, r"([\d.e+]+) transitions")),
        memory_mib=_number(text, r"([\d.]+)\s+total actual memory usage"),
        seconds=_number(text, r"elapsed time ([\d.e+]+) seconds"),
        rows=frozenset(int(number) for number in re.findall(r"^row (\d+)$", text, re.MULTILINE)),
    )


def _number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)


@click.command()
@click.option("--faults", default=1, show_default=True, help="Faults of a run.")
@click.option("--kind", "kinds", multiple=True, default=[ALL_KINDS], help="Kinds of the first fault.")
@click.option("--more-kind", "more_kinds", multiple=True, default=[ALL_KINDS], help="Kinds of the others.")
@click.option("--mistake", help="A mistake to plant.")
@click.option("--cycles", is_flag=True, help="Also look for runs that never end.")
def main(
    faults: int, kinds: tuple[str, ...], more_kinds: tuple[str, ...], mistake: str | None, *, cycles: bool
) -> None:
    """Check the model; where something does not hold, tell how it comes to that."""
    if find_tools() is None:
        raise click.ClickException(MISSING)
    check = Check(faults, kinds, more_kinds, mistake, cycles)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        verdict = run_spin(check, folder, most_seconds=7200.0)
        click.echo(
            f"{verdict.broken or 'all holds'}: {verdict.states} states, {verdict.seconds} s, {verdict.memory_mib} MiB"
        )
        if verdict.broken:
            click.echo(tell_trail(folder, model_options(check)))
    sys.exit(1 if verdict.broken or not verdict.exhaustive else 0)


if __name__ == "__main__":
    main()
