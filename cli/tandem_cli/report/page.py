"""The page of a run: one HTML file with its numbers, charts and tables, that asks nothing of any other file or host."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_core import to_json

from tandem_api.history import EvaluationRecord, IterationRecord
from tandem_api.resource import Resource
from tandem_cli.report import palette
from tandem_cli.report.history import History
from tandem_cli.report.stages import stage_statistics
from tandem_cli.report.summary import Summary, measured_ks, summarize
from tandem_cli.report.timeline import Bar, clock_of, lanes

_STYLES = ("page.css",)
_SCRIPTS = ("format.js", "axis.js", "chart.js", "gantt.js", "evaluation.js", "table.js", "main.js")
"""In the order in which they are needed."""


class PageBar(Resource):
    """One bar of the timeline."""

    kind: Literal["phase", "stage"]
    """What the bar stands for."""
    label: str
    """Name of the phase or stage."""
    start: float
    """Run time, seconds."""
    seconds: float
    """Duration."""
    epoch: int
    """Epoch that it belongs to."""
    generation: int | None
    """Generation served or trained from."""


class PageLane(Resource):
    """One member of the timeline."""

    caption: str
    """Pod and what the container is called."""
    bars: tuple[PageBar, ...]
    """In order of time."""


class PageStage(Resource):
    """One row of the stage table."""

    direction: str
    """Which way."""
    stage: str
    """Name of the stage."""
    switches: int
    """Switches that had it."""
    median: float
    """Seconds of the slowest member."""
    p90: float
    """Seconds of the slowest member."""
    max: float
    """Seconds of the slowest member."""


class PageSet(Resource):
    """One held-out set."""

    name: str
    """Its name in `spec.data.evaluation`."""
    ks: tuple[int, ...]
    """The k of every pass@k that was measured, ascending."""
    evaluations: tuple[EvaluationRecord, ...]
    """By generation."""


class PageColors(Resource):
    """Colours by meaning."""

    reward: str = palette.REWARD
    """Reward chart."""
    length: str = palette.LENGTH
    """Length chart."""
    throughput: str = palette.THROUGHPUT
    """Tokens per second chart."""
    difference: str = palette.DIFFERENCE
    """Log-probability chart."""
    sets: tuple[str, ...] = palette.SETS
    """Held-out sets, in turn."""
    unknown: str = palette.UNKNOWN
    """A stage without a colour of its own."""
    phases: Mapping[str, str] = Field(default=palette.PHASES)
    """By phase."""
    stages: Mapping[str, str] = Field(default=palette.STAGES)
    """By stage."""


class PageData(Resource):
    """All that the page's scripts know."""

    job: str
    """Name of the job."""
    wanted_iterations: int | None
    """Iterations of the recipe."""
    started_at: float | None
    """Unix time of the first run's start, seconds."""
    message: str
    """Cause of a failure."""
    summary: Summary
    """Key numbers."""
    iterations: tuple[IterationRecord, ...]
    """By number."""
    sets: tuple[PageSet, ...]
    """Held-out sets that were evaluated."""
    lanes: tuple[PageLane, ...]
    """Timeline."""
    seams: tuple[float, ...]
    """Run times of resumptions, seconds."""
    end: float
    """Run time of the end, seconds."""
    stages: tuple[PageStage, ...]
    """Stage table."""
    colors: PageColors = PageColors()
    """Palette."""


def write_page(history: History, job_name: str, path: Path) -> None:
    """Write the page of a history to a file, whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(page_text(page_data(history, job_name)), encoding="utf-8")
    aside.replace(path)


def page_data(history: History, job_name: str) -> PageData:
    """Return what the page shows."""
    clock = clock_of(history)
    return PageData(
        job=job_name,
        wanted_iterations=history.wanted_iterations,
        started_at=history.runs[0].started.at if history.runs else None,
        message=history.ended.message if history.ended else "",
        summary=summarize(history),
        iterations=history.iterations,
        sets=tuple(
            PageSet(name=name, ks=measured_ks(records), evaluations=records) for name, records in history.sets.items()
        ),
        lanes=tuple(
            PageLane(caption=lane.caption, bars=tuple(_page_bar(bar) for bar in lane.bars)) for lane in lanes(history)
        ),
        seams=clock.seams,
        end=clock.end,
        stages=tuple(
            PageStage(
                direction=row.direction,
                stage=row.stage,
                switches=row.num_switches,
                median=row.median_seconds,
                p90=row.p90_seconds,
                max=row.max_seconds,
            )
            for row in stage_statistics(history.switches)
        ),
    )


def page_text(data: PageData) -> str:
    """Return the HTML of a page: template, styles, scripts and data in one text."""
    page = _asset("page.html")
    # The data goes in last: nothing in it can be taken for a marker of the template.
    for marker, content in (
        ("{{styles}}", "\n".join(_asset(name) for name in _STYLES)),
        ("{{scripts}}", "\n".join(_asset(name) for name in _SCRIPTS)),
        ("{{title}}", escape(data.job)),
        ("{{data}}", script_json(data)),
    ):
        page = page.replace(marker, content)
    return page


def script_json(data: PageData) -> str:
    """Return data as JSON that no HTML parser takes for markup; numbers that are not finite become null."""
    text = to_json(data.model_dump(by_alias=True), inf_nan_mode="null").decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _page_bar(bar: Bar) -> PageBar:
    return PageBar(
        kind=bar.kind,
        label=bar.label,
        start=round(bar.start_seconds, 4),
        seconds=round(bar.seconds, 4),
        epoch=bar.epoch,
        generation=bar.generation,
    )


def _asset(name: str) -> str:
    return (files("tandem_cli.report") / "assets" / name).read_text(encoding="utf-8")
