"""The end of a run in a terminal: its summary, its stages, and one closing line."""

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandem_api.job.status import Direction
from tandem_cli.report.critical import median_switch, path_rows
from tandem_cli.report.history import History
from tandem_cli.report.quantity import (
    ABSENT,
    ARROWS,
    clock_text,
    digits_text,
    fixed_text,
    plural_text,
    seconds_text,
    share_text,
    signed_text,
    tiny_text,
)
from tandem_cli.report.stages import StageStatistics, stage_statistics
from tandem_cli.report.summary import Summary

_VERBS = {"Completed": "done in", "Stopped": "stopped after", "Failed": "failed after", None: "cut off after"}
_STYLES = {"Completed": "bold green", "Stopped": "bold yellow", "Failed": "bold red", None: "bold yellow"}


def render_end(history: History, summary: Summary, page: Path) -> RenderableType:
    """Return what a run leaves on the terminal; every line but the path fits 80 columns."""
    parts: list[RenderableType] = [summary_table(summary)]
    if history.evaluations:
        parts.append(evaluation_table(history))
    if history.switches:
        parts.append(stage_table(history))
        parts.append(path_table(history))
    if history.ended and history.ended.message:
        parts.append(Text(history.ended.message, style="red"))
    parts.append(closing_line(summary, page))
    return Group(*parts)


def summary_table(summary: Summary) -> Table:
    """Return the key numbers, two pairs a line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for style in ("dim", "", "dim", ""):
        table.add_column(style=style, no_wrap=True)
    for left, right in (
        (("reward", _reward(summary)), ("length", _lengths(summary))),
        (("iterations", _iterations(summary)), ("tokens/s", fixed_text(summary.tokens_per_second_median, 0))),
        (("time", _shares(summary)), ("max |Δlogp|", tiny_text(summary.max_abs_logprob_difference))),
    ):
        table.add_row(*left, *right)
    return table


def evaluation_table(history: History) -> Table:
    """Return one row a held-out set: its first and last result, and its best by pass@1."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("held out", overflow="fold")
    for header in ("pass@1", "best", "at", "tokens", "cut"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, records in history.sets.items():
        first, last, best = records[0], records[-1], max(records, key=lambda record: record.pass_1)
        table.add_row(
            *(name, f"{fixed_text(first.pass_1, 3)} → {fixed_text(last.pass_1, 3)}", fixed_text(best.pass_1, 3)),
            *(f"generation {best.generation}", fixed_text(last.mean_tokens, 1), share_text(last.cut_share)),
        )
    return table


def stage_table(history: History) -> Table:
    """Return one row a stage: the slowest member's seconds, median and maximum over switches."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column("switch", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("median s", justify="right", no_wrap=True)
    table.add_column("max s", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = stage_statistics(history.switches)
    longest = max((row.median_seconds for row in rows), default=0.0)
    previous: Direction | None = None
    for row in rows:
        caption = ARROWS[row.direction] if row.direction != previous else ""
        table.add_row(caption, *_stage_cells(row, longest))
        previous = row.direction
    return table


def path_table(history: History) -> Table:
    """Return what the median switch of each direction took so long for: its critical path, in order of time."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for header in ("median switch", "critical path", "of"):
        table.add_column(header, no_wrap=True)
    for header in ("s", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    job = history.runs[0].started.job if history.runs else ""
    for direction in Direction:
        switch = median_switch(history.switches, direction)
        if switch is None:
            continue
        for index, row in enumerate(path_rows(switch, job)):
            caption = ARROWS[direction] if index == 0 else ""
            share = row.seconds / switch.seconds if switch.seconds else 0.0
            table.add_row(caption, row.what, row.where, fixed_text(row.seconds, 3), share_text(share))
    return table


def closing_line(summary: Summary, page: Path) -> Text:
    """Return the one line to remember: time, reward, switches and where the page is."""
    line = Text()
    line.append(f"{_VERBS[summary.result]} {clock_text(summary.seconds)}", style=_STYLES[summary.result])
    if summary.reward_first_5 is not None:
        line.append("   reward ")
        line.append(f"{fixed_text(summary.reward_first_5, 2)} → {fixed_text(summary.reward_last_5, 2)}", style="bold")
    line.append(f"   {plural_text(summary.switches, 'switch')}")
    if summary.train_to_infer_seconds_median is not None or summary.infer_to_train_seconds_median is not None:
        line.append(f", median {seconds_text(summary.train_to_infer_seconds_median)}")
        line.append(f" / {seconds_text(summary.infer_to_train_seconds_median)}")
    line.append(f"   {page}", style="cyan")
    return line


def _stage_cells(row: StageStatistics, longest_seconds: float) -> tuple[str, str, str, Text]:
    width = round(24 * row.median_seconds / longest_seconds) if longest_seconds else 0
    return (
        row.stage,
        digits_text(row.median_seconds),
        digits_text(row.max_seconds),
        Text("━" * width, style="yellow" if row.direction == Direction.TRAIN_TO_INFER else "blue"),
    )


def _reward(summary: Summary) -> str:
    if summary.reward_first_5 is None:
        return ABSENT
    gain = signed_text(summary.reward_gain, 3)
    return f"{fixed_text(summary.reward_first_5, 3)} → {fixed_text(summary.reward_last_5, 3)} ({gain})"


def _lengths(summary: Summary) -> str:
    if summary.response_tokens_first_5 is None:
        return ABSENT
    return f"{fixed_text(summary.response_tokens_first_5, 1)} → {fixed_text(summary.response_tokens_last_5, 1)} tokens"


def _iterations(summary: Summary) -> str:
    generation = "" if summary.generation is None else f", generation {summary.generation}"
    return f"{summary.iterations}{generation}"


def _shares(summary: Summary) -> str:
    if summary.train_share is None:
        return ABSENT
    return (
        f"infer {share_text(summary.infer_share)} · train {share_text(summary.train_share)}"
        f" · switch {share_text(summary.switch_share)}"
    )
