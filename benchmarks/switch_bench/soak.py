"""Very many switches in one run: does anything grow, and do switches get slower?

Everything is read once an iteration, right after the switch into Infer: all processes are there then, and no switch is
under way that reading could slow down. A reading takes its time, though: `soak_readings_during_switches` counts those
that were not over when the next switch began. They are left out; the durations of those switches stay in the figures.
"""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import psutil
from benchmarks.report.result import PartError, Result
from benchmarks.switch_bench.jobs import Changes, Job, job_manifest, write_job
from benchmarks.switch_bench.records import switch_samples, tail_figures
from benchmarks.switch_bench.trend import Trend, num_warm_up, trend
from benchmarks.switch_bench.usage import Usage, UsageMeter

from tandem_api.history import SwitchRecord
from tandem_api.job.status import Direction
from tandem_cli.feed import HistoryTail

QUANTITIES = (
    "memory_bytes",
    "file_descriptors",
    "threads",
    "processes",
    "shm_entries",
    "shm_bytes",
    "etcd_keys",
    "etcd_bytes",
)
POLL_SECONDS = 0.005
LEAST_READINGS = 6
"""Three in each half."""
LONGER_PHASES: Changes = {"recipe": {"problemsPerIteration": 16, "samplesPerProblem": 8}}
"""So that a reading is over before the next switch begins."""


def measure_soak(toy: Path, num_switches: int, folder: Path) -> Result:
    """Return the trend of each quantity over so many switches, and the tails of their durations."""
    job = write_job(folder, "soak", job_manifest(toy, num_switches // 2, LONGER_PHASES))
    readings: list[Usage] = []
    meter = UsageMeter(job.run)
    with job.running() as process:
        _watch(job, process, meter, readings)
    switches = job.switches(process.returncode)
    samples = {
        "readings": [asdict(reading) for reading in readings],
        "memory_by_program": {
            program: asdict(found)
            for program, found in memory_trends(steady_readings(undisturbed(readings, switches))).items()
        },
        "switches": switch_samples(switches),
    }
    return Result(soak_figures(readings, switches), samples)


def soak_figures(readings: Sequence[Usage], switches: Sequence[SwitchRecord]) -> dict[str, float | int]:
    """Return `soak_<quantity>_per_100_switches` and `_p_value` of each quantity without warm-up, and the tails.

    The same of the second half alone ends in `_second_half`: what fills up comes to rest there, what leaks does not.
    Readings that ran into a switch are left out: a process may have been missing in them.
    """
    steady = steady_readings(undisturbed(readings, switches))
    figures: dict[str, float | int] = {"soak_switches": len(switches), "soak_readings": len(steady)}
    for quantity in QUANTITIES:
        for suffix, part in (("", steady), ("_second_half", steady[len(steady) // 2 :])):
            found = _trend(part, [getattr(reading, quantity) for reading in part])
            figures[f"soak_{quantity}_per_100_switches{suffix}"] = found.per_100_switches
            figures[f"soak_{quantity}_p_value{suffix}"] = found.p_value
        figures[f"soak_{quantity}_last"] = getattr(steady[-1], quantity)
    figures["soak_readings_during_switches"] = sum(_falls_into(reading, switches) for reading in readings)
    figures["soak_reading_seconds"] = median(reading.seconds for reading in readings)
    return figures | {f"soak_{key}": value for key, value in tail_figures(switches).items()}


def undisturbed(readings: Sequence[Usage], switches: Sequence[SwitchRecord]) -> Sequence[Usage]:
    """Return the readings during which no switch was made."""
    return [reading for reading in readings if not _falls_into(reading, switches)]


def steady_readings(readings: Sequence[Usage]) -> Sequence[Usage]:
    """Return the readings after the warm-up. PartError: there are too few."""
    steady = readings[num_warm_up(len(readings)) :]
    if len(steady) < LEAST_READINGS:
        raise PartError(f"{len(readings)} readings show no trend; ask for more switches")
    return steady


def memory_trends(readings: Sequence[Usage]) -> dict[str, Trend]:
    """Return the trend of each program's memory: who it is that grows."""
    programs = sorted({program for reading in readings for program in reading.memory_bytes_by_program})
    return {
        program: _trend(readings, [reading.memory_bytes_by_program.get(program, 0) for reading in readings])
        for program in programs
    }


def _falls_into(reading: Usage, switches: Sequence[SwitchRecord]) -> bool:
    end = reading.at + reading.seconds
    return any(item.started_at < end and item.started_at + item.seconds > reading.at for item in switches)


def _trend(readings: Sequence[Usage], values: Sequence[float]) -> Trend:
    return trend([reading.switches for reading in readings], values)


def _watch(
    job: Job,
    process: "subprocess.Popen[bytes]",
    meter: UsageMeter,
    readings: list[Usage],
) -> None:
    """Read the usage after each switch into Infer, until the command ends; PartError at the deadline."""
    command, tail, switches = psutil.Process(process.pid), HistoryTail(job.history), 0
    deadline = monotonic() + job.longest_seconds
    while process.poll() is None:
        new = [record for record in tail.new_records() if isinstance(record, SwitchRecord)]
        switches += len(new)
        if new and new[-1].direction is Direction.TRAIN_TO_INFER:
            with suppress(psutil.Error, OSError):  # the job is ending
                readings.append(meter.read(command, switches))
        if monotonic() > deadline:
            raise PartError(f"{switches} switches in {job.longest_seconds:.0f} s; the job was stopped")
        sleep(POLL_SECONDS)
