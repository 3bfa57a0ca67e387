"""What the records of a run say about its switches."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.report.result import Figures

from tandem_api.critical_path import NOTICE
from tandem_api.history import RECORD, SwitchRecord
from tandem_api.job.status import Direction
from tandem_cli.report.critical import path_of
from tandem_cli.report.stages import quantile, slowest_seconds, steady

KEYS = {Direction.TRAIN_TO_INFER: "train_to_infer", Direction.INFER_TO_TRAIN: "infer_to_train"}


def read_switches(history: Path) -> list[SwitchRecord]:
    """Return the complete switches of a run's history, in order; a torn last line is left out."""
    lines = history.read_text().split("\n")[:-1]
    records = (RECORD.validate_json(line) for line in lines)
    return [record for record in records if isinstance(record, SwitchRecord)]


def switch_figures(switches: Sequence[SwitchRecord]) -> dict[str, float]:
    """Return medians over the switches of each direction but the first, and over all of these the critical paths'.

    `critical_path_share`: sum of all segments of a switch's critical path over its wall time; what is unexplained is on
    no segment. `critical_path_notice_share`: the part in which somebody had not yet noticed that a wait was over.
    """
    figures = {
        f"full_switch_{KEYS[direction]}_seconds": median(item.seconds for item in steady(switches, direction))
        for direction in Direction
    }
    both = [item for direction in Direction for item in steady(switches, direction)]
    figures["critical_path_share"] = median(path_of(item).share for item in both)
    figures["critical_path_share_least"] = min(path_of(item).share for item in both)
    figures["critical_path_notice_share"] = median(notice_share(item) for item in both)
    return figures


def notice_share(switch: SwitchRecord) -> float:
    """Return the time on the critical path in which an ended wait was not noticed yet, over the whole."""
    noticing = sum(segment.seconds for segment in path_of(switch).segments if segment.stage == NOTICE)
    return noticing / switch.seconds


def barrier_spread_seconds(switch: SwitchRecord) -> float:
    """Return by how much the last pod was ready later than the first one: the ends of their last stages."""
    ends: dict[str, float] = {}
    for stage in switch.stages:
        if stage.role != "master":
            ends[stage.pod] = max(ends.get(stage.pod, 0.0), stage.started_at + stage.seconds)
    return max(ends.values()) - min(ends.values())


def tail_figures(switches: Sequence[SwitchRecord]) -> Figures:
    """Return for each direction the 99th percentile (nearest rank) over the median, and the larger of the two."""
    tails = {
        f"{KEYS[direction]}_p99_over_median": _p99_over_median([item.seconds for item in steady(switches, direction)])
        for direction in Direction
    }
    return {**tails, "p99_over_median": max(tails.values())}


def switch_samples(switches: Iterable[SwitchRecord]) -> list[dict[str, object]]:
    """Return what is kept of each switch: when, which way, how long, and its slowest members' stages."""
    return [
        {
            "epoch": item.epoch,
            "direction": item.direction.value,
            "first": item.first,
            "seconds": item.seconds,
            "critical_path_share": path_of(item).share,
            "stages": slowest_seconds(item),
        }
        for item in switches
    ]


def _p99_over_median(seconds: Sequence[float]) -> float:
    return quantile(seconds, 0.99) / median(seconds)
