"""The master's scheduling in virtual time, with published lengths, from 8 to 512 servers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from benchmarks.report.result import Result
from benchmarks.rollout_bench.cluster import Course, Setting, run_course
from benchmarks.rollout_bench.lengths import DISTRIBUTIONS, Lengths
from benchmarks.rollout_bench.pace import roofline

from tandem_master.rollout.ending import StopRule

SEED = 20_261_123
COMPLETE_SHARE = 0.8
SERVERS = (8, 64, 512)
GROWTH = "long"
"""The distribution whose gain is followed from the fewest to the most servers."""
OTHERS_SERVERS = 64
"""Servers of the other distributions."""
WAYS: Mapping[str, tuple[bool, StopRule]] = {
    "full": (False, StopRule()),
    "partial": (True, StopRule()),
    "stop": (False, StopRule(COMPLETE_SHARE)),
}
"""Whether trajectories have a budget, and when the phase ends before all have used it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One distribution at one size, all ways."""

    lengths: str
    num_servers: int
    courses: Mapping[str, Course]

    def gain(self, way: str) -> float:
        return self.courses[way].trained_tokens_per_second / self.courses["full"].trained_tokens_per_second

    def loss_gain(self, way: str) -> float:
        return self.courses[way].loss_tokens_per_second / self.courses["full"].loss_tokens_per_second


def simulate(num_iterations: int) -> Result:
    """Return the figures of one distribution from the fewest to the most servers, and of the others."""
    sizes = [(GROWTH, number) for number in SERVERS]
    sizes += [(name, OTHERS_SERVERS) for name in DISTRIBUTIONS if name != GROWTH]
    cells = [_cell(name, DISTRIBUTIONS[name], number, num_iterations) for name, number in sizes]
    figures: dict[str, float] = {}
    for cell in cells:
        suffix = f"{cell.num_servers}" if cell.lengths == GROWTH else f"{cell.num_servers}_{cell.lengths}"
        figures[f"sim_throughput_gain_{suffix}"] = cell.gain("partial")
        figures[f"sim_throughput_gain_stop_{suffix}"] = cell.gain("stop")
        figures[f"sim_loss_token_gain_{suffix}"] = cell.loss_gain("partial")
        figures[f"sim_loss_token_gain_stop_{suffix}"] = cell.loss_gain("stop")
        for way, course in cell.courses.items():
            figures[f"sim_tail_idle_share_{way}_{suffix}"] = course.tail_idle_share
    return Result(figures, {"cells": [_sample(cell) for cell in cells], "pace": asdict(roofline())})


def _cell(name: str, lengths: Lengths, num_servers: int, num_iterations: int) -> Cell:
    courses = {}
    for way, (is_partial, rule) in WAYS.items():
        setting = Setting(num_servers, lengths, roofline(), is_partial, rule)
        courses[way] = run_course(setting, num_iterations, SEED)
    return Cell(name, num_servers, courses)


def _sample(cell: Cell) -> dict[str, object]:
    return {
        "lengths": cell.lengths,
        "servers": cell.num_servers,
        **{
            way: {
                "trained_tokens_per_second": course.trained_tokens_per_second,
                "loss_tokens_per_second": course.loss_tokens_per_second,
                "tail_idle_share": course.tail_idle_share,
                "infer_share": course.infer_share,
                "iteration_seconds": course.seconds / len(course.iterations),
            }
            for way, course in cell.courses.items()
        },
    }
